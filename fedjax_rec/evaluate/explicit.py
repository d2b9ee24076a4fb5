"""Errors of predicted ratings: RMSE and MAE, whole or in parts that add up.

    RMSE = sqrt(sum (p - r)^2 / n)      MAE = sum |p - r| / n

The parts (sum and count) of users, chunks or rounds add exactly as the data does, so a stream of
users needs no stored predictions:

    parts = jax.vmap(squared_error)(predictions, ratings, mask)   # one part per user
    root_mean_error(parts)                                        # over all ratings of all users
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ErrorSum:
    """Errors summed so far. `a + b` merges two; leading axes stay as they are.

    Attributes:
        total: float32[...], sum of squared or absolute errors, in (squared) rating units.
        count: int32[...], number of ratings summed.
    """

    total: Array
    count: Array

    def __add__(self, other: "ErrorSum") -> "ErrorSum":
        """Merge the sums of two disjoint sets of ratings."""
        return ErrorSum(self.total + other.total, self.count + other.count)


def squared_error(predictions: Array, ratings: Array, mask: Array | None = None) -> ErrorSum:
    """Sum of (p - r)^2 over the ratings where `mask` holds; predictions, ratings, mask [n]."""
    return _summed(jnp.square(predictions - ratings), mask)


def absolute_error(predictions: Array, ratings: Array, mask: Array | None = None) -> ErrorSum:
    """Sum of |p - r| over the ratings where `mask` holds; predictions, ratings, mask [n]."""
    return _summed(jnp.abs(predictions - ratings), mask)


def mean_error(errors: ErrorSum) -> Array:
    """Mean error over all ratings in `errors`, any leading axes merged; NaN if there are none."""
    return jnp.sum(errors.total) / jnp.sum(errors.count)


def root_mean_error(errors: ErrorSum) -> Array:
    """Square root of `mean_error(errors)`, in rating units."""
    return jnp.sqrt(mean_error(errors))


def rmse(predictions: Array, ratings: Array, mask: Array | None = None) -> Array:
    """Root mean squared error over the ratings where `mask` holds, NaN where none does."""
    return root_mean_error(squared_error(predictions, ratings, mask))


def mae(predictions: Array, ratings: Array, mask: Array | None = None) -> Array:
    """Mean absolute error over the ratings where `mask` holds, NaN where none does."""
    return mean_error(absolute_error(predictions, ratings, mask))


def _summed(errors: Array, mask: Array | None) -> ErrorSum:
    kept = jnp.ones(errors.shape, bool) if mask is None else mask.astype(bool)
    # `where`, not a product: a NaN under the mask must not reach the sum.
    total = jnp.sum(jnp.where(kept, errors, 0.0), dtype=jnp.float32)
    return ErrorSum(total, jnp.sum(kept, dtype=jnp.int32))
