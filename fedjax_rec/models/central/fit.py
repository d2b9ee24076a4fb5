"""What a centrally fitted recommender is: one pure function from all histories to parameters.

Dimensions: `N` clients, `M` most users of a client, `I` items, `E` interactions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ... import rows
from ...made import part
from ...rows import static
from ...types import Array, PyTree, record


@record
class Histories:
    """Who met what in training, each pair once, in the order of rows and of items in them.

    row: int32[E], the user's place m + M n among the rows of all users; owner: int32[E], the same
    user in the data; item: int32[E]; there: bool[E], whether the pair counts: those that do come
    first. negatives: pick(row, bits uint32[B]) -> int32[B] draws evenly among the items that a user
    did not meet in training, and gives I where none is left.
    clients, members, items: N, M and I.
    """

    row: Array
    owner: Array
    item: Array
    there: Array
    negatives: Any
    clients: int = static()
    members: int = static()
    items: int = static()

    def dense(self) -> jax.Array:
        """float32[N, M, I]: 1 where a user met an item, whatever its rating, and 0 elsewhere;
        places of no user are rows of zeros."""
        zeros = jnp.zeros((self.clients * self.members, self.items), jnp.float32)
        met = zeros.at[self.row, self.item].max(self.there.astype(jnp.float32))
        return met.reshape(self.clients, self.members, self.items)


@part
class Fit:
    """A recommender that is found from all histories at once.

    solve(key, state, histories, shared, private) -> (state, (shared, private, loss)): `histories`
        are a `Histories`. `shared` and `private`, leaves [N, ...], are the parameters before, of
        the model that is filled, and come back in the same structure. `loss`, float32[], is the
        value that the fit has reached of what it minimises, a user.
    init(shared, private) -> state: what a fit keeps for the next round beside the parameters.
    """

    solve: Callable[..., tuple[PyTree, tuple[PyTree, PyTree, jax.Array]]]
    init: Callable[..., PyTree] = lambda shared, private: ()

    @staticmethod
    def of(solve: Callable[..., tuple[PyTree, PyTree, jax.Array]]) -> Fit:
        """The fit of solve(history, shared, private) -> (shared, private, loss), which draws and
        keeps nothing; `history` is float32[N, M, I], as `Histories.dense` has it."""

        def alone(key, state, histories, shared, private):
            return state, solve(histories.dense(), shared, private)

        return Fit(alone)


def factors(where: str, shared: PyTree, private: PyTree) -> tuple[rows.Table, jax.Array]:
    """(the table of items, users' vectors float32[N * M, D]) of `fedmf`, for the fit `where`.
    Raises ValueError for the parameters of another model."""
    names = sorted([*shared, *private])
    if names != ["item", "user"] or not rows.is_table(shared["item"]):
        raise ValueError(
            f"{where}() fits vectors of items and users, not {names}; use model fedmf."
        )
    return shared["item"], private["user"].reshape(-1, private["user"].shape[-1])


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
