"""The uplink of a chunk of clients: updates encoded, counted and decoded on the rows they touched.

A client's local tables have the rows of the longest client, of which most clients touch a tenth. A
compressor sees the touched ones moved together, in a buffer with room for an eighth, a third or
all of the local rows, whichever the fullest client of the chunk needs. Each is compiled, and one
runs; with clients sorted by size, EDEN on MovieLens-1M takes half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from .. import rows, trees, wire
from ..types import Compressor, Packet, PyTree, Upload

SHARES = (1 / 8, 1 / 3, 1.0)
# Coordinates of a local table below which more rooms cost more to compile than they save.
WORTH = 2**16


@dataclass(frozen=True)
class Uplink:
    """one(key, memory, upload) -> (memory, Packet): what a client keeps and sends.
    chunk(keys, memory, uploads) -> (memory, uploads as they arrive, uint32[c] bytes): leading axes
    [c, ...] everywhere but on the server's own tables in `origin`.
    """

    one: Callable[..., tuple[PyTree, Packet]]
    chunk: Callable[..., tuple[PyTree, Upload, jax.Array]]


def compressed(compressor: Compressor) -> Uplink:
    """Uploads by `compressor`. Memory changes only where the upload weighs something."""

    def encoded(key, memory, upload: Upload, share: float):
        update = rows.map_tables(lambda u: _compact(u, _room(u, share)), upload.update)
        after, packet = compressor.encode(key, memory, update)
        return update, trees.select(upload.weight > 0, after, memory), packet

    def one(key, memory, upload):
        return encoded(key, memory, upload, 1.0)[1:]

    def through(key, memory, upload, share):
        update, memory, packet = encoded(key, memory, upload, share)
        arrived = _restored(compressor.decode(packet, update), upload.update)
        return memory, replace(upload, update=arrived), wire.nbytes(packet)

    def chunk(keys, memory, uploads):
        leaves = jax.tree.leaves(uploads.update, is_leaf=rows.is_table)
        tables = [leaf for leaf in leaves if rows.is_table(leaf)]
        worth = any(math.prod(t.values.shape[1:]) >= WORTH for t in tables)
        shares = SHARES if worth else SHARES[-1:]
        axes = (0, 0, Upload(rows.map_axes(uploads.update), 0, 0))

        def branch(share):
            every = jax.vmap(partial(through, share=share), in_axes=axes)
            return lambda: every(keys, memory, uploads)

        def too_small(share):
            full = [t.live.sum(1).max() > math.ceil(share * t.live.shape[1]) for t in tables]
            return jnp.stack(full).any()

        index = sum((too_small(share).astype(jnp.int32) for share in shares[:-1]), jnp.int32(0))
        return jax.lax.switch(index, [branch(share) for share in shares])

    return Uplink(one, chunk)


def plain() -> Uplink:
    """Uploads as they are."""

    def chunk(keys, memory, uploads):
        axes = (rows.map_axes(uploads.update),)
        sizes = jax.vmap(lambda update: wire.nbytes(Packet(update)), in_axes=axes)(uploads.update)
        return memory, uploads, sizes

    def one(key, memory, upload):
        return memory, Packet(rows.map_tables(lambda u: u.delta(), upload.update))

    return Uplink(one, chunk)


def _room(update: rows.RowsUpdate, share: float) -> int:
    return math.ceil(share * update.live.shape[0])


def _restored(back: PyTree, update: PyTree) -> PyTree:
    """`back` with its rows in the layout of `update`; what decodes to something else stays."""
    if not any(map(rows.is_table, jax.tree.leaves(back, is_leaf=rows.is_table))):
        return back
    return jax.tree.map(
        lambda mine, like: _spread(mine, like) if rows.is_table(mine) else mine,
        back,
        update,
        is_leaf=rows.is_table,
    )


def _compact(update: rows.RowsUpdate, room: int) -> rows.RowsUpdate:
    """The same change as `room` rows with ids: the live rows in their order, then padding.

    Of an update with at most `room` live rows. No leading client axis.
    """
    length = update.live.shape[0]
    place = jnp.where(update.live, jnp.cumsum(update.live, dtype=jnp.int32) - 1, room)
    # Row `length` is the row of nothing.
    source = (
        jnp.full(room, length, jnp.int32)
        .at[place]
        .set(jnp.arange(length, dtype=jnp.int32), mode="drop")
    )
    take = lambda x, nothing: x.at[source].get(mode="fill", fill_value=nothing)
    values = take(update.values, 0)
    if update.origin is not None:
        values = values - take(jnp.asarray(update.origin), 0)
    if update.factor is not None:
        factor = jnp.asarray(update.factor)
        values = values * (take(factor, 0) if factor.ndim else factor)
    ids = jnp.arange(length, dtype=jnp.int32) if update.ids is None else update.ids
    return rows.RowsUpdate(values, take(ids, update.size), source < length, None, update.size)


def _spread(update: rows.RowsUpdate, like: rows.RowsUpdate) -> rows.RowsUpdate:
    """`update`, of no more rows than `like` and with ids, in the layout of `like`."""
    if like.ids is None:
        ids = jnp.where(update.live, jnp.asarray(update.ids), update.size)
        values = jnp.zeros(like.values.shape, update.values.dtype)
        values = values.at[ids].set(update.values, mode="drop")
        there = jnp.zeros(like.live.shape, bool).at[ids].set(True, mode="drop")
        return rows.RowsUpdate(values, None, there, None, update.size)
    more = (0, like.live.shape[0] - update.live.shape[0])
    ids = jnp.pad(jnp.asarray(update.ids), more, constant_values=update.size)
    values = jnp.pad(update.values, (more, (0, 0)))
    return rows.RowsUpdate(values, ids, jnp.pad(update.live, more), None, update.size)
