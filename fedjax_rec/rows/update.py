"""The algebra of updates: sums and multiples of whole trees, tables and dense leaves alike.

An update is structured as the trainable part of `shared`, with a `RowsUpdate` for each table; what
holds of an array leaf of it holds of the array that its rows stand for: `to_dense(f(u))` is
`f(to_dense(u))`. Trees of gradients, of whole tables and of a client's local tables add and scale
by the same names. Frozen values are left out (None), or take part as arrays where an update has
some.

Functions are of one client's update and may be under `vmap`; `sums` adds those of many. `I` rows of
the table, `D` width, `L` rows of an update or of a local table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .. import trees
from ..types import Array, Model, PyTree
from .local import with_term
from .narrow import Rounding, added_once, is_narrow
from .table import RowsGradient, RowsUpdate, is_table, update_of
from .walk import map_nodes, map_tables


def add(a: PyTree, b: PyTree) -> PyTree:
    """a + b: updates, gradients, tables, or gradients and a term for every row (see `with_term`).

    Updates of other rows than one another become the rows of both, in which an id may stand twice:
    their sum is meant, as in `sums.weighted_sum`.
    """
    return map_nodes(_sum, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    """a - b, as `add`."""
    return add(a, negative(b))


def negative(tree: PyTree) -> PyTree:
    """-tree, to the bit."""

    def one(x):
        if isinstance(x, RowsGradient):
            return replace(x, values=-x.values, dense=None if x.dense is None else -x.dense)
        plain: Any = x.delta() if isinstance(x, RowsUpdate) else x
        return replace(plain, values=-plain.values) if is_table(plain) else -plain

    return map_nodes(one, tree)


def scale(tree: PyTree, factor) -> PyTree:
    """`factor * tree`; factor: float[], or float[L, 1] of a tree that is one `RowsUpdate`.

    Rows with ids keep their factor beside them, since there may be gigabytes of rows: it is applied
    where they go.
    """
    return map_nodes(lambda x: _scaled(x, factor), tree)


def apply(tree: PyTree, update: PyTree, rounding: Rounding | None = None) -> PyTree:
    """`tree + update` in the types of `tree`, on the rows that it touches; where there is no
    update, `tree`.

    Args:
        tree: what is shared, with or without its frozen values, which stay; or what a client
            trains, for an `update` of gradients.
        update: of the trainable part of `tree`.
        rounding: of tables in bfloat16, of which each row is summed in float32 and rounded once;
            None rounds to the nearest.
    """

    def one(x, u):
        if u is None:
            return x
        if isinstance(u, RowsGradient):
            values = jnp.asarray(x.values if is_table(x) else x)
            values = values.at[u.slots].add(u.values, mode="promise_in_bounds")
            values = values if u.dense is None else values + u.dense
            return replace(x, values=values) if is_table(x) else values
        if is_table(x):
            return replace(x, values=add_to(x.values, _without_origin(u), rounding=rounding))
        return (x + u).astype(x.dtype)

    return trees.with_frozen(map_nodes(one, trees.trainable(tree), update), tree)


def add_to(
    table: jax.Array, update: RowsUpdate, tile: int = 4096, rounding: Rounding | None = None
) -> jax.Array:
    """float[I, D]: `table` plus an update without origin, in the table's type; repeated ids add up.

    Args:
        table: float[I, D].
        update: of its rows.
        tile: rows scaled at once, so that the scaled rows are never all in memory.
        rounding: as of `apply`.
    """
    if is_narrow(table):
        return added_once(table, update, rounding)
    if update.ids is None:
        return table + update.values
    count = update.ids.shape[0]
    if not count:
        return table
    tile = min(tile, count)
    factor = jnp.ones(()) if update.factor is None else jnp.asarray(update.factor)

    def one(t, table):
        begin = jnp.minimum(t * tile, count - tile)
        fresh = begin + jnp.arange(tile) >= t * tile
        ids = jax.lax.dynamic_slice_in_dim(jnp.asarray(update.ids), begin, tile)
        rows = jax.lax.dynamic_slice_in_dim(update.values, begin, tile)
        times = jax.lax.dynamic_slice_in_dim(factor, begin, tile) if factor.ndim else factor
        return table.at[jnp.where(fresh, ids, update.size)].add(times * rows, mode="drop")

    return jax.lax.fori_loop(0, -(-count // tile), one, table)


def dense(tree: PyTree) -> PyTree:
    """`tree` with every table's values as a plain array: [I, D], or [L, D] of local rows."""
    return map_tables(lambda t: t.values, tree)


def to_dense(update: PyTree) -> PyTree:
    """`update` with float[I, D] for its rows; repeated ids add up."""

    def one(u):
        u = _without_origin(u)
        if u.ids is None:
            return u.values
        return add_to(jnp.zeros((u.size, u.values.shape[-1]), u.values.dtype), u)

    return map_tables(one, update)


def with_values(tree: PyTree, values: PyTree) -> PyTree:
    """`tree` with other numbers; values: an array a node, as of `dense(tree)`."""
    return map_nodes(lambda x, new: replace(x, values=new) if is_table(x) else new, tree, values)


def add_everywhere(update: PyTree, values: PyTree) -> PyTree:
    """`update` plus float[I, D] of `values` for each of its tables; None stands for nothing."""

    def one(u, more):
        if more is None:
            return u
        return RowsUpdate(to_dense(u) + more, None, _touched(u) | (more != 0).any(-1), None, u.size)

    return map_nodes(one, update, values)


def deltas(update: PyTree) -> PyTree:
    """The same changes as `update` with nothing left to do: origins taken off, factors applied."""
    return map_tables(lambda u: u.delta(), update)


def change(after: PyTree, shared: PyTree, before: PyTree) -> PyTree:
    """What a client changed of the trainable part of `shared`: after - before.

    after, before: with tables as `LocalTable`. Of a whole table the server's own is the origin.
    """

    def one(a, s, b):
        if is_table(a):
            return update_of(a, s, b)
        # What is not trained may be of any type, and does not change.
        return a - s if jnp.issubdtype(a.dtype, jnp.inexact) else jnp.zeros_like(a)

    return map_nodes(one, after, trees.trainable(shared), before)


def difference(after: PyTree, before: PyTree) -> PyTree:
    """The update from `before` to `after`: of whole tables, the rows that differ are live."""

    def one(a, b):
        if not is_table(a):
            return a != b if a.dtype == bool else a - b
        values = a.values - b.values
        return RowsUpdate(values, None, (values != 0).any(-1), None, a.shape[0])

    return map_nodes(one, after, before)


def zero_update(shared: PyTree) -> PyTree:
    """The update of the trainable part of `shared` that changes nothing, tables as whole ones."""
    zero = trees.zeros_like(trees.trainable(shared))
    return difference(zero, zero)


def zeros_of(shared: PyTree) -> PyTree:
    """Zeros like the trainable part of `shared`, tables as whole tables, of float32 at least: what
    is kept beside a model adds up over many rounds."""
    wide = lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32))
    return jax.tree.map(wide, trees.trainable(shared))


def zeros_for(model: Model) -> PyTree:
    """Zeros like the trainable part of what `model` shares: what a client keeps beside it."""
    return zeros_of(jax.eval_shape(model.init, jax.random.key(0))[0])


def squared_norm(update: PyTree) -> Float[Array, ""]:
    """float32[]: |update|^2 of one client, by its rows; each id stands once."""
    squares = map_nodes(lambda x: (jnp.float32(_values(x)) ** 2).sum(), update)
    return sum(jax.tree.leaves(squares), start=jnp.zeros(()))


def map_axes(update: PyTree) -> PyTree:
    """`vmap` axes of `update`: 0 everywhere but for `origin`, which no client copies."""

    def one(u):
        if not isinstance(u, RowsUpdate):
            return 0
        ids, factor = (None if x is None else 0 for x in (u.ids, u.factor))
        return RowsUpdate(0, ids, 0, None, u.size, factor)

    return map_nodes(one, update)


def _values(x) -> jax.Array:
    return x.delta().values if isinstance(x, RowsUpdate) else x.values if is_table(x) else x


def _without_origin(u: RowsUpdate) -> RowsUpdate:
    """`u` with its origin taken off and its factor, which may be of gigabytes, left beside it."""
    return u if u.origin is None else u.delta()


def _scaled(x, factor):
    if isinstance(x, RowsGradient):
        dense = None if x.dense is None else x.dense * factor
        return replace(x, values=x.values * factor, dense=dense)
    if not isinstance(x, RowsUpdate):
        return replace(x, values=x.values * factor) if is_table(x) else x * factor
    x = _without_origin(x)
    if x.ids is None:
        return replace(x, values=x.values * factor)
    factor = jnp.asarray(factor, x.values.dtype)
    return replace(x, factor=factor if x.factor is None else x.factor * factor)


def _sum(x, y):
    if isinstance(x, RowsUpdate):
        return _rows_of_both(x.delta(), y.delta())
    if isinstance(x, RowsGradient):
        if not isinstance(y, RowsGradient):
            return with_term(x, y)
        x = x if y.dense is None else with_term(x, y.dense)
        return replace(x, values=x.values + y.values)
    return replace(x, values=x.values + _values(y)) if is_table(x) else x + y


def _rows_of_both(x: RowsUpdate, y: RowsUpdate) -> RowsUpdate:
    if x.ids is y.ids:
        return replace(x, values=x.values + y.values, live=x.live | y.live)
    if x.ids is None or y.ids is None:
        live = _touched(x) | _touched(y)
        return RowsUpdate(to_dense(x) + to_dense(y), None, live, None, x.size)
    both = lambda a, b: jnp.concatenate([a, b])
    return RowsUpdate(
        both(x.values, y.values), both(x.ids, y.ids), both(x.live, y.live), None, x.size
    )


def _touched(u: RowsUpdate) -> jax.Array:
    """bool[I]: the rows that are live."""
    if u.ids is None:
        return u.live
    ids = jnp.where(u.live, u.ids, u.size)
    return jnp.zeros(u.size, bool).at[ids].set(True, mode="drop")
