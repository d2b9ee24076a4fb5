"""A model of which a mask switches parameters off, for pruning and for federated dropout.

loss(m * w), with w the model's parameters and m in {0, 1} of the same shapes: the gradient of what
the mask switches off is zero, so a coordinate that is zero stays zero to the bit.

The mask is frozen: a client is given it and does not train it. Of a table it has one entry a
coordinate, [I, D], of which a client reads the rows that it touches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import Array, Model, PyTree


def prunable(model: Model) -> Model:
    """`model` with a mask, at first of ones: the same losses, scores, predictions and gradients.

    Its `shared` is `{"model": ..., "mask": Frozen({path: mask})}`: what `model` shares, and a mask
    for each trained leaf of it, by its path in `shared`, such as `model/item`. A mask is bool of
    the leaf's shape, or a factor for each column, float[D], which is zero for a column that is off.
    Private parameters have no mask, and frozen ones keep their values.

    Args:
        model: any.

    Example:
        >>> strategy = strategies.prune_fl(models.prunable(model), data.pointwise(4))
    """

    def init(key, common=None):
        inner, private = model.init(key, common)
        mask = {path: jnp.ones(x.shape, bool) for path, x in parameters({"model": inner}).items()}
        return {"model": inner, "mask": trees.Frozen(mask)}, private

    return model.through(lambda shared, private: (switched(shared), private), init)


def parameters(shared: PyTree) -> dict[str, Any]:
    """The trained leaves of `shared["model"]`, each table as one, by path: `model/item`."""
    leaves = rows.nodes_with_path({"model": trees.trainable(shared["model"])})
    return {_name(path): x for path, x in leaves}


def switched(shared: PyTree) -> PyTree:
    """`shared["model"]` with what the mask in `shared["mask"]` switches off set to zero."""
    mask = shared["mask"].value

    def one(path, x):
        factor = mask.get(_name(path))
        if factor is None:
            return x
        if isinstance(x, rows.Table):
            return rows.Table(_times(x.values, factor), x.fields)
        if isinstance(x, (rows.Gathered, rows.Overlay)):
            return Masked(x, factor)
        return _times(x, factor)

    return rows.map_nodes_with_path(one, {"model": shared["model"]})["model"]


@dataclass(frozen=True)
class Masked:
    """A table inside a loss or a score, whose rows are read through a mask."""

    table: Any
    mask: Array

    def __getitem__(self, ids) -> jax.Array:
        return _times(self.table[ids], self.mask if self.mask.ndim == 1 else self.mask[ids])


def _name(path) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _times(x, factor):
    # Not the product alone: -1 * 0 is -0, and infinity * 0 is no number.
    return jnp.where(factor != 0, x * factor.astype(x.dtype), 0)
