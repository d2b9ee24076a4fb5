"""Items by what their text says: frozen sentence embeddings under a shared, trained projector.

    score(u, i) = (p_u + c) . P(e_i),     with item rows:  (p_u + c) . (P(e_i) + q_i)

e_i is the whitened embedding of the item's text, P a shared multi-layer perceptron (or one linear
layer), p_u the user's private vector, c a shared one, which says what is liked by all. An item
without interactions scores by its text alone; with item rows q_i, which start at zero, what text
does not say is learned beside it. After UniSRec (Hou et al., KDD 2022), whose whitening and
"inductive" and "transductive" items these are, with a vector in place of its sequence encoder.

`I` items, `D` width, `E` width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import at_least, positive
from ...types import Model
from ..factorization.mf import inner, of_users
from ..objectives import Objective, bce
from ..roles import Frozen, Private, Rows, from_nnx
from ..transformers.layers import linear
from ..transformers.sentences import sentences


class Projector(nnx.Module):
    """gelu between linear layers: [..., E] -> [..., D]. scale: deviation of what first comes out
    where variances of what goes in are 1."""

    def __init__(self, rngs, inputs: int, layers: Sequence[int], width: int, scale: float):
        sizes = pairwise([inputs, *layers])
        made = [linear(rngs, a, b) for a, b in sizes]
        last = layers[-1] if layers else inputs
        made.append(linear(rngs, last, width, scale=scale * last**-0.5))
        self.layers = nnx.List(made)

    def __call__(self, x):
        *before, last = self.layers
        for layer in before:
            x = jax.nn.gelu(layer(x))
        return last(x)


class TextTower(nnx.Module):
    """text: [I, E]; user: [members, D]; centre: [D]; item: [I, D] or None."""

    def __init__(self, text, members, width, layers, scale, item, objective, rngs):
        self.text = Frozen(jnp.asarray(text))
        self.project = Projector(rngs, text.shape[1], layers, width, scale)
        self.user = Private(scale * jax.random.normal(rngs.params(), (members, width)))
        self.centre = nnx.Param(scale * jax.random.normal(rngs.params(), (width,)))
        self.item = Rows(jnp.zeros((len(text), width))) if item else None
        self.objective = objective

    def vectors(self, items):
        """[..., D] of items int[...] or all."""
        vectors = self.project(self.text[items])
        return vectors if self.item is None else vectors + self.item[items]

    def loss(self, batch, key):
        vectors = self.vectors(batch["items"])
        user = of_users(self.user, batch, vectors.ndim)
        return self.objective(inner(vectors, user + self.centre[...]), batch)

    def prepare(self):
        return self.vectors(slice(None))

    def score(self, items, user, prepared):
        return prepared[items] @ (self.user[user] + self.centre[...])


def whitening(embeddings: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """(mean [E], W [E, k]): (e - mean) W are the `components` principal directions of embeddings
    [I, E], each of mean 0 and variance 1.

    Sentence embeddings crowd in a cone; in these coordinates one rate suits all directions.
    Raises ValueError for more components than there are directions.
    """
    at_least("whitening", "components", components, 1)
    mean = embeddings.mean(0, dtype=np.float64)
    _, s, v = np.linalg.svd(embeddings - mean, full_matrices=False)
    rank = int((s > 1e-6 * s[0]).sum())
    if components > rank:
        raise ValueError(
            f"whitening(components={components}) of texts with {rank} directions; use at most "
            f"{rank}."
        )
    v, s = v[:components].T, s[:components]
    # The sign of a direction is arbitrary; this one does not depend on the library.
    v = v * np.sign(v[np.abs(v).argmax(0), np.arange(components)])
    return mean.astype(np.float32), (v * len(embeddings) ** 0.5 / s).astype(np.float32)


def text_tower(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    length: int = 128,
    components: int = 64,
    layers: Sequence[int] = (),
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """Items by their text alone.

    Args:
        num_items: `I`, the items of the catalogue.
        members: users that one client holds.
        titles: I texts, which a run knows.
        weights: whose embeddings, a name or folder as in `load_encoder`.
        length: most tokens of a text.
        components: of the whitened embeddings.
        layers: widths inside the projector, () for a linear one.
        width: `D` of the vectors.
        scale: deviation of the first vectors of users and items.
        objective: default `bce()`.

    Raises:
        ValueError: without a text for each item, for more components than the texts have
            directions, and unless width, scale and layers are positive.

    Example:
        >>> model = models.text_tower(num_items, titles=titles, weights=bert_folder, components=4)
    """
    text = whitened("text_tower", titles, num_items, weights, length, components)
    return _tower("text_tower", text, members, layers, width, scale, objective, item=False)


def text_and_rows(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    length: int = 128,
    components: int = 64,
    layers: Sequence[int] = (),
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """Items by their text and a shared row [D] of their own, first zero; an item that nobody
    trained on scores as in `text_tower`.

    Arguments that are not named here are those of `text_tower`.

    Raises:
        ValueError: as `text_tower`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "components": 4}
        >>> model = models.text_and_rows(num_items, **texts)
    """
    text = whitened("text_and_rows", titles, num_items, weights, length, components)
    return _tower("text_and_rows", text, members, layers, width, scale, objective, item=True)


def _tower(name, text, members, layers, width, scale, objective, item):
    positive(name, "width", width)
    positive(name, "scale", scale)
    for size in layers:
        positive(name, "layers", size)
    objective = objective or bce()
    return from_nnx(
        lambda rngs: TextTower(text, members, width, layers, scale, item, objective, rngs)
    )


def whitened(
    name: str,
    titles: Sequence[str] | None,
    num_items: int,
    weights: str,
    length: int,
    components: int,
) -> np.ndarray:
    """float32[I, components] of the first `length` tokens of `titles`. Raises ValueError as
    `described`."""
    embeddings = sentences(described(name, titles, num_items), weights, length)
    mean, matrix = whitening(embeddings, components)
    return (embeddings - mean) @ matrix


def described(name: str, titles: Sequence[str] | None, num_items: int) -> list[str]:
    """The texts of all items. Raises ValueError where there are none, not as many as items, or some
    with nothing in them."""
    if titles is None:
        raise ValueError(
            f"{name} needs titles, and the data does not describe its items; use data with item "
            "features, such as ml-100k."
        )
    if len(titles) != num_items:
        raise ValueError(f"{name}: {len(titles)} titles for {num_items} items; give one for each.")
    if silent := [i for i, text in enumerate(titles) if not (text or "").strip()]:
        some = ", ".join(map(str, silent[:5])) + (", ..." if len(silent) > 5 else "")
        raise ValueError(
            f"{name}: {len(silent)} of {num_items} items have no text (ids {some}); give each one, "
            "such as its id."
        )
    return list(titles)
