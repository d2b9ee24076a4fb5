"""DeepFM: a factorization machine and a deep network on the same vectors.

    z = b + a . x + sum_f w_f + sum_(f<g) v_f . v_g + deep([x ; v])

where the vector of an id is [w_f ; v_f]: its weight travels with it, in one table of width D + 1.
The middle sum is (|sum_f v_f|^2 - sum_f |v_f|^2) / 2. (Guo et al., "DeepFM: A factorization-machine
based neural network for CTR prediction", IJCAI 2017.)
"""

from __future__ import annotations

from collections.abc import Sequence

from flax import nnx

from ...types import Model
from ..transformers.layers import linear
from .clicks import Layers, click_model, flat
from .embeddings import Embedding


class FactorsAndDeep(nnx.Module):
    def __init__(self, dense, sparse, width, deep, rngs):
        self.first = linear(rngs, dense, 1) if dense else None
        self.deep = Layers([dense + sparse * width, *deep, 1], rngs, last=False)

    def __call__(self, e, x):
        weights, v = e[..., 0], e[..., 1:]
        pairs = (v.sum(1) ** 2 - (v**2).sum(1)).sum(-1) / 2
        z = self.deep(flat(v, x))[:, 0] + weights.sum(-1) + pairs
        return z if self.first is None else z + self.first(x)[:, 0]


def deepfm(
    num_items: int,
    sparse: int = 26,
    dense: int = 13,
    width: int = 16,
    deep: Sequence[int] = (64,),
    scale: float = 0.1,
    embedding: Embedding | None = None,
) -> Model:
    """Logits z of examples with `sparse` ids below `num_items` and `dense` features.

    Args:
        num_items: `I`, ids of all fields together.
        sparse: id fields of an example, `ids` int32[B, sparse] of its batch.
        dense: other features of an example, `dense` float32[B, dense] of its batch.
        width: `D` of a vector; rows are one wider here.
        deep: widths of hidden layers.
        scale: standard deviation of the initial vectors.
        embedding: where vectors come from, default `rows_each()`.

    Raises:
        ValueError: for sizes below 1, and for scale <= 0.

    Example:
        >>> model = models.deepfm(num_items=100, sparse=4, dense=2, width=4, deep=(8,))
    """
    sizes = {"sparse": sparse, "dense": dense}
    build = lambda rngs: FactorsAndDeep(dense, sparse, width, deep, rngs)
    return click_model("deepfm", num_items, width + 1, scale, embedding, sizes, build)
