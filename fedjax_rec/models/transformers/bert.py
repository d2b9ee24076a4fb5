"""BERT (Devlin et al., NAACL 2019), and the encoders that differ from it in little.

    x = norm(word[t] + position + type[0]);   per layer
    x <- norm(x + out(attention(query x, key x, value x)));   x <- norm(x + down(gelu(up x)))

ELECTRA projects the first x to another width; MPNet adds to the scores of two tokens a number by
how far apart they are, of each head. Weights come from a folder (`encoders`), or from a random
start. The layers are one stack, see `layers.stacked`.

`V` vocabulary, `L` layers, `D` width, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import one_of
from .by_heads import everyone, parted, spread
from .distances import buckets
from .layers import LayerNorm, Linear, attention, linear
from .packed import visible
from .reader import Called, through

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
# Beside the layers: a name that ends as those of linear layers do.
POOLER = "pooler.dense"


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
        """x: [..., T, D]; mask: bool[..., T or 1, T], who sees whom."""
        kernel, width = self.query.kernel, x.shape[-1] // self.heads
        y = spread(kernel, x, heads=self.heads)
        split = lambda z: z.reshape(*z.shape[:-1], -1, width)
        q, k, v = (split(f(y)) for f in (self.query, self.key, self.value))
        mask = everyone(kernel, mask, q.ndim - 1)
        seen = attention(q, k, v, mask, self.scores(x.shape))
        x = self.attention_norm(x + self.out(seen.reshape(*seen.shape[:-2], -1)))
        y = spread(self.up.kernel, x)
        return self.norm(x + self.down(ACTIVATIONS[self.activation](self.up(y))))

    def scores(self, shape):
        """What products q k^T of x [..., T, D] are worth; None for q k^T / sqrt(d)."""
        if self.apart is None:
            return None
        *_, length, width = shape
        near = jnp.moveaxis(self.apart[...][buckets(length)], -1, 0)
        mine = lambda ndim: parted(self.query.kernel, near, -3, ndim)
        return lambda products: products * (self.heads / width) ** 0.5 + mine(products.ndim)


class Bert(nnx.Module):
    """words: [V, E]; positions: [512, E]; kinds: [2, E]; layers: a stack of `Layer`; project:
    `Linear` [E, D], None where E is D."""

    last = None

    def __init__(
        self, words, positions, kinds, norm: LayerNorm, layers: Layer, project: Linear | None = None
    ):
        self.words, self.positions = nnx.Param(words), nnx.Param(positions)
        self.kinds, self.norm, self.layers = nnx.Param(kinds), norm, layers
        self.project = project
        self.sees: Any = visible
        self.called = called_by(LINEARS, "encoder.layer.{}.{}", "bert.")

    @property
    def most(self) -> int:
        return self.positions.shape[0]

    @property
    def rows(self) -> int:
        return self.words.shape[0]

    def embed(self, ids, places=None):
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]; places: int32[..., T]
        where they do not count from 0 on."""
        at = self.positions[: ids.shape[-1]] if places is None else self.positions[places]
        x = self.norm(self.words[ids] + at + self.kinds[0])
        return x if self.project is None else self.project(x)

    def __call__(self, ids, mask):
        """[..., T, D]: what comes out of the last layer."""
        return through(self, self.embed(ids), mask)


def called_by(linears: Mapping[str, str], layer: str, prefix: str) -> Called:
    """Of linear layers of which each is one of the folder."""
    parts = tuple((theirs, (ours,)) for ours, theirs in linears.items())
    return Called(parts, layer, prefix, (POOLER,))


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
