"""BERT (Devlin et al., NAACL 2019), and the encoders that differ from it in little.

    x = norm(word[t] + position + type[0]);   per layer
    x <- norm(x + out(attention(query x, key x, value x)));   x <- norm(x + down(gelu(up x)))

ELECTRA projects the first x to another width; MPNet adds to the scores of two tokens a number by
how far apart they are, of each head. Weights come from a folder (`encoders`), or from a random
start. The layers are one stack, see `layers.stacked`.

`V` vocabulary, `L` layers, `D` width, `T` tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import one_of
from .layers import LayerNorm, Linear, attention, linear, stacked

# Kept for the gradient is what goes in, [..., T, 4 D], and not the three arrays of that size in
# between: they were a third of what a client's training took.
ACTIVATIONS: dict[str, Callable] = {
    "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
    "gelu_new": jax.checkpoint(jax.nn.gelu),
    "gelu_pytorch_tanh": jax.checkpoint(jax.nn.gelu),
    "relu": jax.nn.relu,
}
# Our names of a layer's parts, and those of Hugging Face.
LINEARS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "norm": "output.LayerNorm"}
CHUNK = 64  # texts encoded at once: what a chunk needs stays in cache


@dataclass(frozen=True)
class BertSizes:
    """The defaults are those of MiniLM-L6-v2."""

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    activation: str = "gelu"


class Layer(nnx.Module):
    """One layer, or the stack of several where its variables have a leading axis [L, ...].

    apart: [32, H], what is added to scores by the bucket of a distance, or None.
    """

    def __init__(
        self,
        linears: dict[str, Linear],
        norms: dict[str, LayerNorm],
        sizes: BertSizes,
        apart: jax.Array | None = None,
    ):
        # Any: `models.lora` puts its own layers in their place.
        self.query: Any = linears["query"]
        self.key: Any = linears["key"]
        self.value: Any = linears["value"]
        self.out: Any = linears["out"]
        self.up: Any = linears["up"]
        self.down: Any = linears["down"]
        self.attention_norm, self.norm = norms["attention_norm"], norms["norm"]
        self.apart = None if apart is None else nnx.Param(apart)
        self.heads, self.activation = sizes.heads, sizes.activation

    def __call__(self, x, mask):
        """x: [..., T, D]; mask: bool[..., T] of the real tokens."""
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        q, k, v = (split(f(x)) for f in (self.query, self.key, self.value))
        seen = attention(q, k, v, mask[..., None, :], self.scores(x.shape))
        x = self.attention_norm(x + self.out(seen.reshape(x.shape)))
        return self.norm(x + self.down(ACTIVATIONS[self.activation](self.up(x))))

    def scores(self, shape):
        """What products q k^T of x [..., T, D] are worth; None for q k^T / sqrt(d)."""
        if self.apart is None:
            return None
        *_, length, width = shape
        near = jnp.moveaxis(self.apart[...][buckets(length)], -1, 0)
        return lambda products: products * (self.heads / width) ** 0.5 + near


def buckets(length: int) -> np.ndarray:
    """int[T, T]: which of 32 buckets each place is in, seen from each: sixteen of those before it
    and as many of those behind, eight of them of one distance each, the rest by its logarithm, up
    to 128 (Raffel et al. 2020; MPNet, Song et al. 2020)."""
    ahead = np.arange(length)[None] - np.arange(length)[:, None]
    far = np.abs(ahead)
    each = np.log(np.maximum(far, 8).astype(np.float32) / 8) / np.float32(math.log(128 / 8)) * 8
    return np.where(ahead > 0, 16, 0) + np.where(far < 8, far, np.minimum(8 + each.astype(int), 15))


class Bert(nnx.Module):
    """words: [V, E]; positions: [512, E]; kinds: [2, E]; layers: a stack of `Layer`; project:
    `Linear` [E, D], None where E is D.

    called: what linear layers are called in the folder, how those of a layer are, and what may
    stand before all names.
    """

    called: tuple[tuple[tuple[str, str], ...], str, str] = (
        tuple(LINEARS.items()), "encoder.layer.{}.{}", "bert."
    )  # fmt: skip

    def __init__(
        self, words, positions, kinds, norm: LayerNorm, layers: Layer, project: Linear | None = None
    ):
        self.words, self.positions = nnx.Param(words), nnx.Param(positions)
        self.kinds, self.norm, self.layers = nnx.Param(kinds), norm, layers
        self.project = project

    def embed(self, ids):
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]."""
        places = self.positions[: ids.shape[-1]]
        x = self.norm(self.words[ids] + places + self.kinds[0])
        return x if self.project is None else self.project(x)

    def __call__(self, ids, mask):
        """[..., T, D]: what comes out of the last layer."""
        return stacked(self.layers, self.embed(ids), mask)


def random_bert(sizes: BertSizes, rngs: nnx.Rngs) -> Bert:
    """A `Bert` with normal weights of deviation .02, as it starts before pretraining.

    Args:
        sizes: widths and numbers of everything.
        rngs: of the weights.

    Raises:
        ValueError: where heads do not divide the width, and for an unknown activation.

    Example:
        >>> sizes = models.BertSizes(vocabulary=30, width=8, layers=1, heads=2, hidden=16)
        >>> encoder = models.random_bert(sizes, nnx.Rngs(0))
    """
    one_of("random_bert", "activation", sizes.activation, ACTIVATIONS)
    if sizes.width % sizes.heads:
        raise ValueError(
            f"random_bert(width={sizes.width}) is no multiple of heads={sizes.heads}; use one."
        )
    lead, width, hidden = (sizes.layers,), sizes.width, sizes.hidden
    table = lambda n: 0.02 * jax.random.normal(rngs.params(), (n, width))
    shapes = {name: (width, width) for name in LINEARS} | {
        "up": (width, hidden), "down": (hidden, width)
    }  # fmt: skip
    made = {name: linear(rngs, *shape, scale=0.02, lead=lead) for name, shape in shapes.items()}
    norm = lambda *lead: LayerNorm(jnp.ones((*lead, width)), jnp.zeros((*lead, width)), sizes.eps)
    norms = {name: norm(*lead) for name in NORMS}
    return Bert(
        table(sizes.vocabulary), table(sizes.positions), table(sizes.types), norm(),
        Layer(made, norms, sizes),
    )  # fmt: skip


def layers_of(stack: Layer, start: int, stop: int | None = None) -> Layer:
    """Layers `start` .. `stop` of a stack, as a stack of their own."""
    structure, variables, rest = nnx.split(stack, nnx.Variable, ...)
    return nnx.merge(structure, jax.tree.map(lambda x: x[start:stop], variables), rest)


def outputs(encoder: Bert, tokens: weights.Tokens, layers: int) -> np.ndarray:
    """float32[n, T, D]: what comes out of the first `layers` layers, a chunk of texts at a time.

    Raises ValueError where the texts are longer than the encoder has positions.
    """
    most, size = encoder.positions.shape[0], tokens.ids.shape[1]
    if size > most:
        raise ValueError(f"texts of {size} tokens are longer than {most} positions; use length.")
    structure, variables, rest = nnx.split(encoder, nnx.Variable, ...)

    @jax.jit
    def run(variables, ids, mask):
        whole = nnx.merge(structure, variables, rest)
        bottom = layers_of(whole.layers, 0, layers)
        one = lambda text: stacked(bottom, whole.embed(text[0]), text[1])
        return jax.lax.map(one, (ids, mask), batch_size=CHUNK)

    return np.asarray(run(variables, jnp.asarray(tokens.ids), jnp.asarray(tokens.mask)))
