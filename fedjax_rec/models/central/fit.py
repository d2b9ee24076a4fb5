"""What a centrally fitted recommender is: one pure function from all histories to parameters.

Dimensions: `N` clients, `M` most users of a client, `I` items.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...made import part
from ...types import PyTree


@part
class Fit:
    """A recommender that is solved for, not trained step by step.

    solve(history, shared, private) -> (shared, private, loss): `history` is float32[N, M, I], 1
        where a user met an item and 0 elsewhere; places of no user are rows of zeros. `shared` and
        `private`, leaves [N, ...], are the parameters before, of the model that is filled, and come
        back in the same structure. `loss`, float32[], is the value that the fit has reached of what
        it minimises, a user.
    """

    solve: Callable[..., tuple[PyTree, PyTree, jax.Array]]


def by_user(history: jax.Array) -> jax.Array:
    """The histories float32[N, M, I] as one matrix float32[N * M, I]."""
    return history.reshape(-1, history.shape[-1])


def together(matrix: jax.Array) -> jax.Array:
    """How many users met both of two items, float32[I, I], of histories float32[U, I]; whole
    numbers below 2^24, so that they are exact."""
    return jnp.matmul(matrix.T, matrix, precision="highest")


def users_in(matrix: jax.Array) -> jax.Array:
    """How many rows of float32[U, I] are a user's, that is, not empty; at least 1."""
    return jnp.maximum((matrix.sum(1) > 0).sum(), 1).astype(jnp.float32)


def squared_error(both: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_ui (X - X W')_ui^2 from `both` = X'X and W, each float32[I, I], without X."""
    product = jnp.matmul(weights, both, precision="highest")
    return jnp.trace(both) - 2 * jnp.trace(product) + (weights * product).sum()
