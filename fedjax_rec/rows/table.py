"""Touched rows: a client receives, trains and uploads only the table rows that it touches.

Rows that no example of the round refers to have zero gradient, so leaving them out is exact for
SGD, and for stateful optimizers that leave a zero-gradient, zero-state row where it is (Adam,
momentum; not weight decay). A full copy of a table per client is what makes simulators slow: for
50,000 items x 64 and 256 clients it is 9,375 MiB where the touched rows are 16 MiB.

`Table` is the server's table in `shared`; `LocalTable` a client's part of it while it trains;
`Gathered` what a model's loss sees of it for one batch; `RowsUpdate` the change that is uploaded.

Dimensions: `I` rows of the table, `D` width, `S` ids touched in a round (with repetitions), `L`
rows of the local table: `L = I` where `S >= I` (slots are ids), else `L = S` (slots are positions
in the sorted ids, of which the first occurrence of each id is live).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Array, PyTree, record
from .fields import Field, name_of, through
from .narrow import is_narrow, rows_at, wide


def static(**kwargs) -> Any:
    return field(metadata={"static": True}, **kwargs)


@record
class Table:
    """values: float[I, D]; fields: the entries of a batch that hold row ids of this table. Values
    of a narrow type (bfloat16) are float32 while clients train them."""

    values: Array
    fields: tuple[Field, ...] = static(default=("items",))

    def __getitem__(self, ids) -> jax.Array:
        return _rows(self.values, through(self.fields[0], ids))

    @property
    def shape(self):
        return self.values.shape


@record
class LocalTable:
    """values: float[L, D]; ids: int32[L] sorted, or None where slots are ids; live: bool[L].
    drift: what else acts on every row, see `clients.lazy`."""

    values: Array
    ids: Array | None
    live: Array
    fields: tuple[Field, ...] = static(default=("items",))
    drift: Any = None

    def rows(self, slots: jax.Array) -> jax.Array:
        if self.drift is not None:
            return self.drift.at(self.values, slots)
        return self.values.at[slots].get(mode="promise_in_bounds")

    def slots(self, ids: jax.Array) -> jax.Array:
        """Where the rows `ids` lie; each of them must have been given to `localize`."""
        if self.ids is None:
            return jnp.clip(ids, 0, self.values.shape[0] - 1)
        return jnp.searchsorted(self.ids, ids, method="scan_unrolled").astype(jnp.int32)


@record
class RowsGradient:
    """Of a `LocalTable`: values[b] belongs to row slots[b], and dense[L, D], if any, to all."""

    slots: Array
    values: Array
    dense: Any = None


@record
class RowsUpdate:
    """The change of a table, as rows.

    values: float[L, D]; ids: int32[L] with `ids >= I` for padding, or None where row l is item l;
    live: bool[L], which rows were touched, each item once; the change of other rows is zero.
    origin: None, or, of a whole table, the server's own float[I, D], with the meaning that the
        change is `values - origin`. It is taken only where it is needed, since a pass over the
        local table of every client costs a quarter of a round.
    factor: None, or a float[] or float[L, 1] that the values are still to be multiplied with.
        It too is applied only where the rows go, since there may be gigabytes of them.
    size: `I`.
    """

    values: Array
    ids: Array | None
    live: Array
    origin: Array | None = None
    size: int = static(default=0)
    factor: Array | None = None

    def delta(self) -> RowsUpdate:
        """The same change, `origin` taken off and `factor` applied. No leading client axis."""
        values: Any = self.values
        if self.origin is not None:
            values = values - self.origin
        if self.factor is not None:
            values = values * self.factor
        return RowsUpdate(values, self.ids, self.live, None, self.size)


@dataclass(frozen=True)
class Gathered:
    """A table inside a loss: indexed with a field of the batch, it gives the gathered rows."""

    ids: tuple[jax.Array, ...]
    rows: tuple[jax.Array, ...]
    fields: tuple[Field, ...]

    def __getitem__(self, ids) -> jax.Array:
        for known, rows in zip(self.ids, self.rows, strict=True):
            if ids is known:
                return rows
        raise ValueError(
            "A row table was indexed with something other than "
            f"batch[{' or '.join(repr(name_of(f)) for f in self.fields)}]; "
            "index it with the whole field and slice the rows, name the field in Rows(fields=...), "
            "or make the table a plain nnx.Param to train it whole."
        )


@dataclass(frozen=True)
class Overlay:
    """A table in a client's own model after training: its rows where live, else the server's."""

    local: LocalTable
    table: Table

    def __getitem__(self, ids) -> jax.Array:
        return read(self.local, self.table, through(self.table.fields[0], ids))


def is_table(node) -> bool:
    return isinstance(node, (Table, LocalTable, RowsUpdate, RowsGradient))


def tables(tree: PyTree) -> list[Table]:
    return [x for x in jax.tree.leaves(tree, is_leaf=is_table) if isinstance(x, Table)]


def map_tables(one, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one` on each table node; everything else as it is."""
    return jax.tree.map(
        lambda x, *r: one(x, *r) if is_table(x) else x, tree, *rest, is_leaf=is_table
    )


def dense(tree: PyTree) -> PyTree:
    """`tree` with every table's values as a plain array."""
    return map_tables(lambda t: t.values, tree)


def localize(table: Table, ids: jax.Array) -> LocalTable:
    """The rows of `table` that `ids` int32[S] touch (`I` marks padding), each live exactly once."""
    count = table.shape[0]
    ids = jnp.sort(ids)
    first = jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
    values = rows_at(table.values, ids, "clip")
    return LocalTable(values, ids, first & (ids < count), table.fields)


def _rows(values: Any, ids) -> jax.Array:
    plain = isinstance(ids, slice) or not is_narrow(values)
    return wide(values[ids]) if plain else rows_at(values, ids)


def whole(table: Table) -> LocalTable:
    """The whole of `table` with no row marked live yet: see `mark`."""
    count = table.shape[0]
    return LocalTable(wide(table.values), None, jnp.zeros(count, bool), table.fields)


def mark(local: LocalTable, ids: jax.Array, real: jax.Array) -> LocalTable:
    """`local`, from `whole`, with the rows `ids` live where `real` is 1."""
    if local.ids is not None:
        return local
    ids = jnp.where(real > 0, ids, local.live.shape[0])
    return replace(local, live=local.live.at[ids.reshape(-1)].set(True, mode="drop"))


def update_of(local: LocalTable, table: Table, before: LocalTable | None = None) -> RowsUpdate:
    """What changed between `table` and `local`. before: `local` as it was, where there is still a
    copy; for a whole table the server's own serves."""
    if local.ids is None:
        return RowsUpdate(local.values, None, local.live, table.values, table.shape[0])
    old = rows_at(table.values, local.ids, "clip") if before is None else before.values
    return RowsUpdate(local.values - old, local.ids, local.live, None, table.shape[0])


def read(local: LocalTable, table: Table, ids) -> jax.Array:
    """Rows `ids` (int[n] or a slice) as the client has them: its own if live, else the server's."""
    if local.ids is None:
        return local.values[ids]
    if isinstance(ids, slice):
        mine = jnp.where(local.live, local.ids, table.shape[0])
        return wide(table.values[:]).at[mine].set(local.values, mode="drop")[ids]
    slot = jnp.minimum(local.slots(ids), local.ids.shape[0] - 1)
    mine = local.ids[slot] == ids
    return jnp.where(mine[..., None], local.values[slot], _rows(table.values, ids))


def weighted_sum(weights: jax.Array, update: RowsUpdate) -> RowsUpdate:
    """sum_k weights[k] * update_k over a leading axis [c, ...] of every leaf but `origin`.

    Dense where slots are ids: a table [I, D] in `values`. Else the rows of all clients one after
    another, [c * L, D], in which an id may stand more than once: their sum is meant.
    """
    c, length = update.live.shape
    w = weights.astype(update.values.dtype)
    if update.ids is None:
        total = jnp.matmul(w, update.values.reshape(c, -1), precision="highest")
        total = total.reshape(update.values.shape[1:])
        there = (update.live & (w != 0)[:, None]).any(0)
        if update.origin is not None:
            # What rounding leaves of rows that nobody touched would be a gradient to Adam.
            total = jnp.where(there[:, None], total - w.sum() * update.origin, 0)
        return RowsUpdate(total, None, there, None, update.size)
    values = update.values
    if update.factor is not None:
        values = values * update.factor.reshape(c, -1, 1)
    values = (w[:, None, None] * values).reshape(c * length, -1)
    there = update.live & (w != 0)[:, None]
    ids = jnp.where(there, update.ids, update.size)
    return RowsUpdate(values, ids.reshape(-1), there.reshape(-1), None, update.size)


def scaled(update: RowsUpdate, factor) -> RowsUpdate:
    """`factor * update`, for an update without origin; factor: float[] or float[L, 1]."""
    if update.ids is None:
        return replace(update, values=update.values * factor)
    factor = jnp.asarray(factor, update.values.dtype)
    return replace(update, factor=factor if update.factor is None else update.factor * factor)


def clients_per_row(weights: jax.Array, update: RowsUpdate) -> jax.Array:
    """float32[I]: how many clients of a chunk with positive weight touched each row."""
    there = update.live & (weights > 0)[:, None]
    if update.ids is None:
        return there.astype(jnp.float32).sum(0)
    ids = jnp.where(there, update.ids, update.size).reshape(-1)
    return jnp.zeros(update.size, jnp.float32).at[ids].add(1.0, mode="drop")


def map_axes(update: PyTree) -> PyTree:
    """`vmap` axes of a tree with updates: 0 everywhere but for `origin`, which no client copies."""

    def one(u):
        if not isinstance(u, RowsUpdate):
            return 0
        ids, factor = (None if x is None else 0 for x in (u.ids, u.factor))
        return RowsUpdate(0, ids, 0, None, u.size, factor)

    return jax.tree.map(one, update, is_leaf=is_table)


def add_to(table: jax.Array, update: RowsUpdate, tile: int = 4096) -> jax.Array:
    """float[I, D]: `table` plus an update without origin; repeated ids add up.

    In tiles of rows, so that the scaled rows are never all in memory.
    """
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


def to_dense(update: RowsUpdate) -> jax.Array:
    """float[I, D] of an update without origin; repeated ids add up."""
    if update.ids is None:
        return update.values
    zeros = jnp.zeros((update.size, update.values.shape[-1]), update.values.dtype)
    return add_to(zeros, update)
