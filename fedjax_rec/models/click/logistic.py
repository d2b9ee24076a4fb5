"""Logistic regression on dense features, which click models and prompts are held against.

    z = w x + b

of the columns of `dense` float32[B, P] that are read. Of one column its AUC is the column's own,
once w > 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import at_least
from ...types import Model
from ..objectives import bce
from ..roles import from_nnx
from ..transformers.layers import Linear
from .clicks import DENSE


class Logistic(nnx.Module):
    """columns: int[C], those of `dense` that are read."""

    def __init__(self, columns: np.ndarray):
        self.columns = tuple(columns.tolist())
        self.line = Linear(jnp.zeros((len(columns), 1)), jnp.zeros(1))

    def predict(self, batch):
        return self.line(batch[DENSE][:, jnp.array(self.columns)])[:, 0]

    def loss(self, batch, key):
        return bce()(self.predict(batch), batch)


def logistic(dense: int, columns: Sequence[int] | None = None) -> Model:
    """Logits of examples by a weight for each of their dense features, from zero.

    Args:
        dense: P, features of an example, `dense` float32[B, P] of its batch.
        columns: those that are read; default all.

    Raises:
        ValueError: for no feature, and for a column that is none of 0 to dense - 1.

    Example:
        >>> model = models.logistic(dense=2)
    """
    at_least("logistic", "dense", dense, 1)
    read = np.arange(dense) if columns is None else np.asarray(columns, np.int32)
    if not len(read) or read.min() < 0 or read.max() >= dense:
        raise ValueError(
            f"logistic(columns={columns}) names no feature of {dense}; use 0 to {dense - 1}."
        )
    return from_nnx(lambda rngs: Logistic(read))
