"""DCNv2: layers that cross the input with itself, beside a deep network.

    x_0 = [x ; e],   x_(l+1) = x_0 * (W_l x_l + b_l) + x_l,   z = w . [x_L ; deep(x_0)]

With `rank`, W_l = U_l V_l of that rank. (Wang et al., "DCN V2: Improved deep & cross network", WWW
2021, the parallel form, without the mixture of experts.)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from ...check import at_least
from ...types import Model
from ..transformers.layers import linear
from .clicks import Layers, click_model, flat
from .embeddings import Embedding


class Cross(nnx.Module):
    """x_0 * (W x + b) + x."""

    def __init__(self, size, rank, rngs):
        self.down = linear(rngs, size, rank, bias=False) if rank else None
        self.up = linear(rngs, rank or size, size)

    def __call__(self, first, x):
        y = x if self.down is None else self.down(x)
        return first * self.up(y) + x


class CrossAndDeep(nnx.Module):
    def __init__(self, size, layers, rank, deep, rngs):
        self.crosses = nnx.List([Cross(size, rank, rngs) for _ in range(layers)])
        self.deep = Layers([size, *deep], rngs)
        self.readout = linear(rngs, size + (deep[-1] if deep else size), 1)

    def __call__(self, e, x):
        first = flat(e, x)
        crossed = first
        for cross in self.crosses:
            crossed = cross(first, crossed)
        return self.readout(jnp.concatenate([crossed, self.deep(first)], -1))[:, 0]


def dcn(
    num_items: int,
    sparse: int = 26,
    dense: int = 13,
    width: int = 16,
    layers: int = 2,
    rank: int | None = None,
    deep: Sequence[int] = (64,),
    scale: float = 0.1,
    embedding: Embedding | None = None,
) -> Model:
    """Logits z of examples with `sparse` ids below `num_items` and `dense` features, by crosses.

    Arguments that are not named here are those of `deepfm`.

    Args:
        layers: crosses.
        rank: of their matrices, None for full ones.

    Raises:
        ValueError: for sizes below 1, and for scale <= 0.

    Example:
        >>> model = models.dcn(num_items=100, sparse=4, dense=2, width=4, rank=2)
    """
    if rank is not None:
        at_least("dcn", "rank", rank, 1)
    sizes = {"sparse": sparse, "dense": dense, "layers": layers}
    build = lambda rngs: CrossAndDeep(dense + sparse * width, layers, rank, deep, rngs)
    return click_model("dcn", num_items, width, scale, embedding, sizes, build)
