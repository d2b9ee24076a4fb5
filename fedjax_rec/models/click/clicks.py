"""What click models share: an example is ids int32[F] of one table and dense features float[P].

    z = logit of a click;  loss = bce(z, label)

A model says how z is made of the vectors e float32[B, F, D] and the features x float32[B, P].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, positive
from ...types import Model
from ..objectives import bce
from ..roles import from_nnx
from ..transformers.layers import linear
from .embeddings import Embedding, rows_each

IDS, DENSE = "ids", "dense"


class Layers(nnx.Module):
    """Linear layers of the given sizes, ReLU between them, and after the last if `last`."""

    def __init__(self, sizes: Sequence[int], rngs, last: bool = True):
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([linear(rngs, a, b, scale=(2 / a) ** 0.5) for a, b in pairs])
        self.last = last

    def __call__(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if self.last or i + 1 < len(self.layers):
                x = jax.nn.relu(x)
        return x


class ClickModel(nnx.Module):
    """table: vectors of the ids. logit(e, x) -> float[B]: the module that sits on them."""

    def __init__(self, table: nnx.Module, logit: nnx.Module):
        self.table, self.logit = table, logit

    def predict(self, batch):
        return self.logit(self.table(batch), batch[DENSE])

    def loss(self, batch, key):
        return bce()(self.predict(batch), batch)


def click_model(
    where: str,
    num_items: int,
    width: int,
    scale: float,
    embedding: Embedding | None,
    sizes: dict[str, int],
    logit: Callable[..., nnx.Module],
) -> Model:
    """The model of `logit(rngs)` on vectors of `width` of `num_items` ids. sizes: arguments of the
    factory `where` that must be at least 1."""
    for name, value in {"num_items": num_items, "width": width, **sizes}.items():
        at_least(where, name, value, 1)
    positive(where, "scale", scale)
    made = embedding or rows_each()

    def build(rngs):
        return ClickModel(made.build(num_items, width, scale, IDS, rngs), logit(rngs))

    return from_nnx(build)


def flat(e: jax.Array, x: jax.Array) -> jax.Array:
    """float[B, P + F D]: dense features and vectors side by side."""
    return jnp.concatenate([x, e.reshape(e.shape[0], -1)], -1)
