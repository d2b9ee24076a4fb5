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
from jaxtyping import Int32, Shaped

from ..types import Array, record
from .fields import Field, through
from .gathered import Gathered
from .narrow import is_narrow, rows_at, wide


def static(**kwargs) -> Any:
    """A field of a `record` that is no leaf of its pytree; `kwargs` are those of
    `dataclasses.field`.
    """
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
        return jnp.asarray(self.values).at[slots].get(mode="promise_in_bounds")

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
        """The same change, `origin` taken off and `factor` applied; of one client or many."""
        values: Any = self.values
        if self.origin is not None:
            values = values - self.origin
        if self.factor is not None:
            factor = jnp.asarray(self.factor)
            of_all = factor.ndim == values.ndim - 2  # one number for all rows of a client
            values = values * (factor[..., None, None] if of_all else factor)
        return RowsUpdate(values, self.ids, self.live, None, self.size)


@dataclass(frozen=True)
class Overlay:
    """A table in a client's own model after training: its rows where live, else the server's."""

    local: LocalTable
    table: Table

    def __getitem__(self, ids) -> jax.Array:
        return read(self.local, self.table, through(self.table.fields[0], ids))


def is_table(node) -> bool:
    """Whether `node` stands for a table: the server's, a client's, an update, a gradient or what a
    loss sees of one."""
    return isinstance(node, (Table, LocalTable, RowsUpdate, RowsGradient, Gathered))


def localize(table: Table, ids: Int32[Array, " S"]) -> LocalTable:
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


def mark(local: LocalTable, ids: Int32[Array, "*b"], real: Shaped[Array, "*#b"]) -> LocalTable:
    """`local`, from `whole`, with the rows `ids` live where `real` is 1."""
    if local.ids is not None:
        return local
    ids = jnp.where(real > 0, ids, local.live.shape[0])
    return replace(local, live=jnp.asarray(local.live).at[ids.reshape(-1)].set(True, mode="drop"))


def update_of(local: LocalTable, table: Table, before: LocalTable | None = None) -> RowsUpdate:
    """What changed between `table` and `local`. before: `local` as it was, where there is still a
    copy; for a whole table the server's own serves."""
    if local.ids is None:
        return RowsUpdate(local.values, None, local.live, table.values, table.shape[0])
    old = rows_at(table.values, local.ids, "clip") if before is None else before.values
    return RowsUpdate(local.values - old, local.ids, local.live, None, table.shape[0])


def read(local: LocalTable, table: Table, ids) -> jax.Array:
    """Rows `ids` (int[n] or a slice) as the client has them: those of `local` if live, else those
    of the server's `table`.
    """
    if local.ids is None:
        return local.values[ids]
    if isinstance(ids, slice):
        mine = jnp.where(local.live, local.ids, table.shape[0])
        return wide(table.values[:]).at[mine].set(local.values, mode="drop")[ids]
    slot = jnp.minimum(local.slots(ids), local.ids.shape[0] - 1)
    mine = local.ids[slot] == ids
    return jnp.where(mine[..., None], local.values[slot], _rows(table.values, ids))
