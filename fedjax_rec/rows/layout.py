"""The same change in another layout: fewer rows, more of them, the rows of another, or all.

A client's update has room for the rows of the longest client of its chunk, and a buffer on the
server for those of any. All functions are of one client's update, and keep what is no table.

`I` rows of the table, `L` rows of an update.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..types import PyTree
from .table import RowsUpdate, is_table
from .walk import has_tables, map_nodes, map_tables


def compact(update: PyTree, room: int) -> PyTree:
    """The same change as `room` rows with ids: the live rows in their order, then padding.

    Of an update with at most `room` live rows in each table, else it loses the last of them.
    """

    def one(u: RowsUpdate) -> RowsUpdate:
        length = u.live.shape[0]
        place = jnp.where(u.live, jnp.cumsum(u.live, dtype=jnp.int32) - 1, room)
        # Row `length` is the row of nothing.
        source = (
            jnp.full(room, length, jnp.int32)
            .at[place]
            .set(jnp.arange(length, dtype=jnp.int32), mode="drop")
        )
        take = lambda x, nothing: jnp.asarray(x).at[source].get(mode="fill", fill_value=nothing)
        values = take(u.values, 0)
        if u.origin is not None:
            values = values - take(u.origin, 0)
        if u.factor is not None:
            factor = jnp.asarray(u.factor)
            values = values * (take(factor, 0) if factor.ndim else factor)
        ids = jnp.arange(length, dtype=jnp.int32) if u.ids is None else u.ids
        return RowsUpdate(values, take(ids, u.size), source < length, None, u.size)

    return map_tables(one, update)


def spread(update: PyTree, like: PyTree) -> PyTree:
    """`update` in the layout of `like`: whole tables, or as many rows with ids as it has.

    What decodes to something without tables stays as it is.

    Raises:
        ValueError: while it is traced, where `like` has less room.
    """

    def one(u, like):
        if not is_table(u):
            return u
        u, room = u.delta(), like.live.shape[0]
        if like.ids is None:
            if u.ids is None:
                return u
            ids = jnp.where(u.live, u.ids, u.size)
            values = jnp.zeros((u.size, *u.values.shape[1:]), u.values.dtype)
            values = values.at[ids].set(u.values, mode="drop")
            live = jnp.zeros(u.size, bool).at[ids].set(True, mode="drop")
            return RowsUpdate(values, None, live, None, u.size)
        more = room - u.live.shape[0]
        if u.ids is None or more < 0:
            raise ValueError(
                f"spread(update, like) has {u.live.shape[0]} rows and room for {room}; "
                f"give it room for {u.live.shape[0]} or more, or compact(update, {room}) first."
            )
        ids = jnp.pad(u.ids, (0, more), constant_values=u.size)
        values = jnp.pad(u.values, ((0, more), (0, 0)))
        return RowsUpdate(values, ids, jnp.pad(u.live, (0, more)), None, u.size)

    return map_nodes(one, update, like) if has_tables(update) else update


def blank(update: PyTree, room: int | None = None, dtype=None) -> PyTree:
    """A zero update in the layout that has `room` rows of each table, whole where that is all.

    update: any of the same tables, or its outline (`jax.ShapeDtypeStruct`). dtype: of the numbers,
    None for those of `update`.
    """

    def one(x):
        if not is_table(x):
            return jnp.zeros(x.shape, dtype or x.dtype)
        whole = room is None or room >= x.size
        length = x.size if whole else room
        ids = None if whole else jnp.full(length, x.size, jnp.int32)
        values = jnp.zeros((length, *x.values.shape[1:]), dtype or x.values.dtype)
        return RowsUpdate(values, ids, jnp.zeros(length, bool), None, x.size)

    return map_nodes(one, update)


def all_rows(update: PyTree) -> PyTree:
    """`update` as whole tables, every row of which counts as touched."""

    def one(u: RowsUpdate) -> RowsUpdate:
        u = u.delta()
        values = jnp.where(u.live[:, None], u.values, 0)
        if u.ids is not None:
            zeros = jnp.zeros((u.size, *u.values.shape[1:]), u.values.dtype)
            values = zeros.at[jnp.where(u.live, u.ids, u.size)].set(values, mode="drop")
        return RowsUpdate(values, None, jnp.ones(u.size, bool), None, u.size)

    return map_tables(one, update)


def values_at(update: RowsUpdate, like: RowsUpdate) -> jax.Array:
    """[L, D]: the values of `update` at the rows of `like`, zero where it has none.

    Of updates without origin and factor; ids sorted, each live at its first place.
    """
    if update.ids is like.ids:
        return jnp.asarray(update.values)
    if update.ids is None:
        return jnp.asarray(update.values).at[like.ids].get(mode="clip")
    if like.ids is None:
        zeros = jnp.zeros((like.size, *update.values.shape[1:]), update.values.dtype)
        ids = jnp.where(update.live, update.ids, update.size)
        return zeros.at[ids].set(update.values, mode="drop")
    if not update.values.shape[0]:
        return jnp.zeros((like.ids.shape[0], *update.values.shape[1:]), update.values.dtype)
    slot = jnp.searchsorted(update.ids, like.ids, method="scan_unrolled")
    slot = jnp.minimum(slot, update.ids.shape[0] - 1)
    hit = (update.ids[slot] == like.ids) & update.live[slot] & like.live
    return jnp.where(hit[:, None], update.values[slot], 0)


def any_of(updates: Sequence[RowsUpdate]) -> RowsUpdate:
    """The rows of some updates of one table, each once; its values mean nothing. They have ids,
    sorted, where all have; padding is last where no row is of two."""
    first, size = updates[0], updates[0].size
    if len(updates) == 1:
        return replace(first, origin=None)
    if all(u.ids is not None for u in updates):
        named = [jnp.where(u.live, jnp.asarray(u.ids), size) for u in updates]
        ids = jnp.sort(jnp.concatenate(named))
        live = (ids < size) & jnp.concatenate([jnp.ones(1, bool), ids[1:] != ids[:-1]])
        values = jnp.zeros((ids.shape[0], *first.values.shape[1:]), first.values.dtype)
        return RowsUpdate(values, ids, live, None, size)
    live = jnp.zeros(size, bool)
    for u in updates:
        ids = jnp.arange(size) if u.ids is None else u.ids
        live = live.at[jnp.where(u.live, ids, size)].set(True, mode="drop")
    values = jnp.zeros((size, *first.values.shape[1:]), first.values.dtype)
    return RowsUpdate(values, None, live, None, size)
