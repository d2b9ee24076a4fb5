"""Inner products of whole updates, by which clients are judged.

    G[k, l] = <u_k, u_l>,   |u_k - u_l|^2 = G[k, k] + G[l, l] - 2 G[k, l]

over all dense leaves and rows, where a row that a client did not touch is zero. Rows with ids meet
by their ids: those that two clients or more touched are laid out for all of them, some at a time
(`blocks`), and each block is one matrix product. So n^2 U D products are made of U such rows, and a
cache's worth of numbers is kept.

A rule that is a weighted sum of updates needs no more than G: distances to any such sum, means,
directions of largest variance. Distances below 1e-3 of the norms are lost to float32.

`n` clients, `L` rows of an update, `I` rows of a table, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import rows
from ..rows import RowsUpdate
from ..types import Aggregator, PyTree
from .blocks import blocks, touches
from .listed import Listed, listing

PRECISE = jax.lax.Precision.HIGHEST
WHOLE = 256  # clients below which half of a symmetric product costs more than it saves


def gram(updates: PyTree) -> jax.Array:
    """float32[n, n] of updates [n, ...] as `listed` has them."""
    return sum(map(_of_node, rows.nodes(updates)), start=jnp.zeros(()))


def squared_distances(gram: jax.Array) -> jax.Array:
    """float32[n, n]: between updates, 0 or more."""
    own = jnp.diagonal(gram)
    return jnp.maximum(own[:, None] + own[None, :] - 2 * gram, 0)


def to_sum(gram: jax.Array, weights: jax.Array) -> jax.Array:
    """float32[n]: of each update its distance to sum_k weights[k] u_k."""
    with_it = jnp.matmul(gram, weights, precision=PRECISE)
    square = jnp.diagonal(gram) - 2 * with_it + jnp.vdot(weights, with_it, precision=PRECISE)
    return jnp.sqrt(jnp.maximum(square, 0))


def weighing(weigh: Callable, refuse: Callable[[jax.Array], None]) -> Aggregator:
    """The aggregator sum_k w_k u_k with (w, verdicts) = weigh(key, gram, there).

    refuse(there) raises ValueError where shapes say that there are too few clients.
    """

    def finish(key, state, uploads: Listed, now):
        refuse(uploads.there)
        weights, verdicts = weigh(key, gram(uploads.update), uploads.there)
        return state, rows.weighted_sum(weights, uploads.update), verdicts

    return listing(finish)


def of_chosen(chosen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(weights float32[n], verdicts float32[n]) of the mean of those that are `chosen` bool[n]."""
    verdicts = chosen.astype(jnp.float32)
    return verdicts / jnp.maximum(verdicts.sum(), 1), verdicts


def ranks(cost: jax.Array, there: jax.Array) -> jax.Array:
    """int32[n]: places from the smallest cost, 0, to the largest, and after them who is absent."""
    order = jnp.lexsort((cost, ~there))
    return jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0]))


def _of_node(x) -> jax.Array:
    if rows.is_table(x) and x.ids is not None:
        return _by_ids(x)
    values = x.values if rows.is_table(x) else x
    return _products(values.reshape(values.shape[0], values.size // values.shape[0]))


def _products(flat: jax.Array) -> jax.Array:
    """float32[n, n] of flat [n, P] with its own transpose, of which half is made."""
    n = flat.shape[0]
    if n <= WHOLE:
        return jnp.matmul(flat, flat.T, precision=PRECISE)
    a, b = flat[: n // 2], flat[n // 2 :]
    across = jnp.matmul(a, b.T, precision=PRECISE)
    return jnp.block([[_products(a), across], [across.T, _products(b)]])


def _by_ids(x: RowsUpdate) -> jax.Array:
    """float32[n, n] of rows with ids."""
    n = x.live.shape[0]

    def add(first, values, said, total):
        return total + _products(values.reshape(n, -1))

    shared = blocks(x, touches(x) > 1).over(add, jnp.zeros((n, n)))
    # Of its rows that nobody else touched a client's norm has to know too.
    own = (x.values**2).sum((1, 2))
    return jnp.where(jnp.eye(n, dtype=bool), own[:, None], shared)
