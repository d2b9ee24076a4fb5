"""A pretrained text encoder whose upper layers are adapted to what users like, federated.

    score(u, i) = (p_u + c) . P((pool(upper layers with adapters (h_i)) - m) W)

m and W whiten the embeddings as they are before training, so that the model starts as `text_tower`
does. h_i, what comes out of the layers below the adapted ones, never changes: it is computed once
for all items when the model is made, and kept as a frozen table [I, T, E], so that a step costs the
adapted layers alone. The base is frozen and one copy for all clients; adapters, the projector P and
the vector c are shared, p_u is private (LoRA, Hu et al., ICLR 2022).

`I` items, `T` tokens, `E` width of the encoder, `D` width of the vectors, `B` batch. A step encodes
each item of its batch once: B texts, or 2 B in pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights as pretrained
from ...check import at_least, one_of, positive
from ...types import Model
from ..factorization.mf import inner, of_users
from ..objectives import Objective, bce
from ..roles import Frozen, Private, from_nnx
from ..transformers.encoders import load_encoder
from ..transformers.lora import freeze, lora
from ..transformers.reader import CHUNK, Top, number, outputs, through, top
from ..transformers.sentences import Pooler, sentence, tokens_of
from .text_tower import Projector, described, whitening

Role = Literal["shared", "private", "frozen"]
ROLES: dict[str, type[nnx.Variable]] = {
    "shared": nnx.Param,
    "private": Private,
    "frozen": Frozen,
}


class TextEncoder(nnx.Module):
    """states: [I, T, E]; mask: bool[I, T]; mean, white: [E], [E, k] of the whitening; upper: the
    last layers, with adapters; pool: what is behind them; user: [members, D]; centre: [D]."""

    def __init__(
        self, table, upper: Top, pool: Pooler, project, members, width, scale, remat, objective,
        rngs,
    ):  # fmt: skip
        self.states, self.mask, self.mean, self.white = (Frozen(x) for x in table)
        self.layers, self.sees, self.last = upper.layers, upper.sees, upper.last
        self.pool, self.project = pool, project
        self.user = Private(scale * jax.random.normal(rngs.params(), (members, width)))
        self.centre = nnx.Param(scale * jax.random.normal(rngs.params(), (width,)))
        self.remat, self.objective = remat, objective
        self.alike = not nnx.to_flat_state(nnx.state(upper, Private))

    def vectors(self, items):
        """[..., D] of items int[...]."""
        mask = self.mask[items]
        x = through(self, self.states[items].astype(jnp.float32), mask, self.remat)
        return self.project((self.pool(x, mask) - self.mean[...]) @ self.white[...])

    def loss(self, batch, key):
        vectors = self.vectors(batch["items"])
        user = of_users(self.user, batch, vectors.ndim)
        return self.objective(inner(vectors, user + self.centre[...]), batch)

    @property
    def prepare(self):
        """None where an adapter is private, so that everybody has embeddings of his own."""
        return (lambda: self.encoded(slice(None))) if self.alike else None

    def encoded(self, items):
        """[n, D] of items int[n] or all, a chunk at a time."""
        chosen = jnp.arange(self.states.shape[0])[items]
        return jax.lax.map(self.vectors, chosen, batch_size=CHUNK)

    def score(self, items, user, prepared=None):
        vectors = self.encoded(items) if prepared is None else prepared[items]
        return vectors @ (self.user[user] + self.centre[...])


def text_encoder(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    length: int = 16,
    trained_layers: int = 1,
    adapter: Callable[..., nnx.Module] = lora,
    targets: str = "query|value",
    rank: int = 8,
    alpha: float = 16.0,
    a: Role = "shared",
    b: Role = "shared",
    components: int = 64,
    layers: Sequence[int] = (),
    width: int = 32,
    scale: float = 0.1,
    dtype: Literal["float32", "bfloat16"] = "float32",
    remat: bool = False,
    objective: Objective | None = None,
    prefix: str | None = None,
) -> Model:
    """MiniLM, or another encoder, with adapters in its last layers.

    Arguments that are not named here are those of `text_tower`.

    Args:
        titles: I texts, of which `length` tokens count.
        weights: a name or folder, as in `load_encoder`.
        length: most tokens of a text.
        trained_layers: the last ones, that are adapted.
        adapter: adapter(layers, rngs, targets, rank, alpha, a=, b=): `lora` or `dora`.
        targets: patterns of query, key, value, out, up, down; of those with a gate, and of
            decoders, query, key, value, output, gate, up, down.
        rank: as in `lora`.
        alpha: as in `lora`.
        a: what A is, "shared", "private" or "frozen", which is FFA-LoRA. Where A or B is private,
            each user has embeddings of his own, and scoring encodes what it scores.
        b: what B is, likewise; "private" is FedSA-LoRA.
        dtype: of the frozen table of states.
        remat: compute layers again for gradients, in place of keeping what they made.
        prefix: what stands before each text, as in `sentences`.

    Raises:
        ValueError: without a text for each item, for more layers than there are, unless width and
            scale are positive, and as `lora`.

    Example:
        >>> small = {"titles": titles, "weights": bert_folder, "components": 4}
        >>> model = models.text_encoder(num_items, **small, rank=2, b="private")
    """
    texts = described("text_encoder", titles, num_items)
    positive("text_encoder", "width", width)
    positive("text_encoder", "scale", scale)
    for name, role in (("a", a), ("b", b)):
        one_of("text_encoder", name, role, ROLES)
    one_of("text_encoder", "dtype", dtype, ("float32", "bfloat16"))
    at_least("text_encoder", "trained_layers", trained_layers, 1)
    place = pretrained.find(weights)
    encoder, pool = load_encoder(place), Pooler(sentence(place))
    layered = number(encoder)
    if trained_layers > layered:
        raise ValueError(
            f"text_encoder(trained_layers={trained_layers}) of {layered} layers; use at most "
            f"{layered}."
        )
    tokens = tokens_of(place, texts, length, prefix)
    below = layered - trained_layers
    states, mask = outputs(encoder, tokens, below), jnp.asarray(tokens.mask)
    parts = top(encoder, below), pool
    mean, white = whitening(_embeddings(*parts, states, mask), components)
    table = jnp.asarray(states, dtype), mask, jnp.asarray(mean), jnp.asarray(white)
    structure, base, rest = nnx.split(parts, nnx.Variable, ...)
    objective = objective or bce()

    def build(rngs):
        upper, behind = nnx.merge(structure, base, rest, copy=True)
        freeze(upper)
        freeze(behind)
        adapter(upper.layers, rngs, targets, rank, alpha, a=ROLES[a], b=ROLES[b])
        project = Projector(rngs, components, layers, width, scale)
        return TextEncoder(
            table, upper, behind, project, members, width, scale, remat, objective, rngs
        )

    return from_nnx(build)


def _embeddings(upper: Top, pool: Pooler, states, mask) -> np.ndarray:
    """[I, E]: the embeddings before training, of states [I, T, E] below `upper`."""
    one = lambda text: pool(upper(*text), text[1])
    run = jax.jit(lambda *texts: jax.lax.map(one, texts, batch_size=CHUNK))
    return np.asarray(run(states, mask))
