"""TIGER: the codes of the next item, generated one after another from those of a user's history
(Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023).

    x = sqrt(D) e_{c} + p_t,     of all codes c of the items i_1 .. i_T, those of an item at place t
    log p(i) = sum_m log softmax_k(h(x, c_1 .. c_{m-1}) . e_mk)[c_m],      (c_1, .., c_M) of item i

as `next_codes` has it. h is what self-attention makes of the last code (the layers of `sasrec`),
e_mk the vector of code k of level m. The paper's transformer has an encoder for the history and
begins with a token of the user; this one is a decoder alone, and a client holds its user.

`I` items, `M` codes of an item, `V` codes of all levels, `L` places, `D` width, `H` heads, `d`
width of a head, `T = L M` codes of a history, `P` prefixes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ...types import Model
from ..roles import from_nnx
from ..text.rq_vae import Quantiser
from ..text.semantic_ids import SemanticIds
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import MASKED, attention, stacked
from .next_codes import NextCodes, ids_of_texts
from .sasrec import Block, check, looking_back, norm


class Attending(nnx.Module):
    """The `Trunk` that is trained from nothing. layers(rngs): a stack of `sasrec.Block`."""

    def __init__(self, width, length, layers, rate, rngs):
        draw = 0.02 * jax.random.normal(rngs.params(), (length + 1, width))
        self.position = nnx.Param(draw)  # the last is the next item's
        self.layers = layers(rngs)
        self.norm = norm(width)
        self.rate = rate

    def placed(self, vectors, last: int):
        """[..., n M, D] of the codes of items [..., n, M, D], the place of whose last is `last`,
        counted from the right end."""
        known, (*lead, n, levels, width) = self.position.shape[0], vectors.shape
        if n + last > known:
            raise ValueError(
                f"tiger has length={known - 1} places and read {n + last - 1} items; make it with "
                f"length={n + last - 1}, or train on sequences(length={known - 1})."
            )
        places = self.position[known - last - n : known - last]
        x = width**0.5 * vectors + places[:, None]
        return x.reshape(*lead, n * levels, width)

    def ahead(self, vectors, there, key):
        batch, items, levels, _ = vectors.shape
        first, rest = seeds(jax.random.bits(key, (), jnp.uint32), 2)
        x = dropout(first, self.placed(vectors, 0)[:, :-1], self.rate)
        mask = looking_back(jnp.repeat(there, levels, 1)[:, :-1])
        x, _ = stacked(self.layers, (x, rest), mask)
        # From the last code of an item to the last but one of the next: M states a target.
        return self.norm(x)[:, levels - 1 :].reshape(batch, items - 1, levels, -1)

    def remembered(self, vectors, real):
        """Memory is keys and values [layers, T, H, d], and bool[T] of which are real."""
        real = jnp.repeat(real, vectors.shape[1])
        mask = looking_back(real)

        def one(block, x):
            q, k, v = block.attended(x)
            y = attention(q, k, v, mask).reshape(x.shape)
            return block.finish(x, y), (k, v)

        x, held = self._through(one, self.placed(vectors, 1), ())
        return self.norm(x[-1]), (held, real)

    def after(self, memory, vectors, family):
        held, real = memory
        real = jnp.broadcast_to(real, (len(vectors), len(real)))
        mask = jnp.concatenate([real, family >= 0], 1)[:, None]

        def one(block, x, held):
            q, k, v = block.attended(x)
            known, said = held
            worth = jnp.einsum("phd,thd->pht", q, known), jnp.einsum("phd,pahd->pha", q, k[family])
            worth = jnp.concatenate(worth, -1) * q.shape[-1] ** -0.5
            weights = jax.nn.softmax(jnp.where(mask, worth, MASKED), -1)
            far, near = jnp.split(weights, [len(known)], -1)
            y = jnp.einsum("pht,thd->phd", far, said)
            y += jnp.einsum("pha,pahd->phd", near, v[family])
            return block.finish(x, y.reshape(x.shape)), ()

        x = vectors.shape[1] ** 0.5 * vectors + self.position[-1]
        return self.norm(self._through(one, x, held)[0])

    def _through(self, one, x, rest):
        """(x after all layers, what each gave) of one(block, x, *rest of the layer)."""
        structure, variables = nnx.split(self.layers)

        def layer(x, here):
            variables, rest = here
            return one(nnx.merge(structure, variables), x, *([rest] if rest else []))

        return jax.lax.scan(layer, x, (variables, rest))

    def scores(self, states, vectors):
        return states @ vectors.T


def tiger(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    levels: int = 3,
    codes: int = 32,
    seed: int = 0,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    beam: int | None = None,
    quantiser: Quantiser | None = None,
) -> Model:
    """Shared vectors of codes and layers; no private part and no rows: all codes of a level compete
    in each step, so all are trained, and sent. Warns of how many items' codes collided.

    Train it on `data.sequences(length)`, without negatives. Arguments that are not named here are
    those of `sasrec`.

    Args:
        titles: I texts, which a run knows.
        weights: of their embeddings, as in `load_encoder`.
        tokens: most tokens of a text.
        levels: codes of an item, before the one that tells collided items apart.
        codes: of a level.
        seed: of the quantiser that makes them, see `semantic_ids`.
        beam: prefixes that are kept where items are ranked; the items that are lost so come last.
            None ranks by the log-probabilities of all. Nothing in training depends on it.
        quantiser: what makes codes of embeddings, such as `rq_vae()`; default `residual_kmeans`.

    Raises:
        ValueError: without a text for each item, for a beam that is wider than the catalogue, as
            `semantic_ids` and as `sasrec`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "codes": 4}
        >>> model = models.tiger(num_items, **texts, width=8, length=10)
        >>> strategy = strategies.fedavg(model, data.sequences(10))
    """
    check("tiger", width, length, layers, heads, dropout)
    ids = ids_of_texts(
        "tiger", num_items, titles, weights, tokens, levels, codes, seed, quantiser, beam
    )
    return of_ids(ids, width, length, layers, heads, dropout, beam)


def of_ids(ids: SemanticIds, width, length, layers, heads, rate, beam) -> Model:
    """`tiger` of these semantic ids."""
    block = lambda rngs: Block(width, width, heads, rate, jax.nn.relu, rngs, (layers,))

    def build(rngs):
        code = 0.02 * jax.random.normal(rngs.params(), (sum(ids.sizes), width))
        return NextCodes(ids, code, Attending(width, length, block, rate, rngs), beam)

    return from_nnx(build)
