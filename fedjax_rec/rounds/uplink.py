"""The way of an upload from its client to the sum: stages, the compressor, and what is billed.

    upload -> stages -> compressor -> wire -> decode, sum (or sum, decode) -> stages' receive

A client's local tables have the rows of the longest client, of which most clients touch a tenth. A
compressor sees the touched ones moved together, in a buffer with room for an eighth, a third or
all of the local rows, whichever the fullest client of the chunk needs. Each is compiled, and one
runs; with clients sorted by size, EDEN on MovieLens-1M takes half of the time.

Where decoding is linear and keeps the rows apart, it is done once, after the sum: what is summed
is what was sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..types import Compressor, Now, Packet, PyTree, Stage, Upload
from .cohort import vmapped
from .downlink import whole_update

SHARES = (1 / 8, 1 / 3, 1.0)
# Coordinates of a local table below which more rooms cost more to compile than they save.
WORTH = 2**16


@dataclass(frozen=True)
class Uplink:
    """init(update) -> memory: what a client keeps, `update` of the whole model; () for nothing.
    one(key, memory, upload, now) -> (memory, Packet): what a client keeps and sends.
    chunk(ids, keys, memory, uploads, now) -> (memory, uploads as they arrive, uint32[c] bytes):
    leaves [c, ...] everywhere but on the server's own tables in `origin`; now(id) -> Now.
    receive(key, update, now) -> update: what is left to do after the sum.
    """

    init: Callable[..., PyTree]
    one: Callable[..., tuple[PyTree, Packet]]
    chunk: Callable[..., tuple[PyTree, Upload, jax.Array]]
    receive: Callable[..., PyTree]


def uplink_of(
    compressor: Compressor | None = None,
    stages: Sequence[Stage] = (),
    shared: PyTree = None,
    linear: bool = False,
) -> Uplink:
    """Uploads through `stages`, in their order, and then by `compressor`; None sends them as they
    are. Memory changes only where the upload weighs something.

    shared: the server's model, and linear: whether the aggregator sums nodes of updates, see
    `Aggregator.linear`; where it does, what decodes linearly is decoded after the sum.
    """
    late = compressor if linear and compressor and _decodes_late(compressor, shared) else None

    def init(update):
        memory = () if compressor is None else compressor.init(update)
        return {"stages": [s.init(update) for s in stages], "uplink": memory} if stages else memory

    def staged(key, memory, upload: Upload, now: Now):
        after = []
        for i, (stage, mine) in enumerate(zip(stages, memory, strict=True)):
            mine, upload = stage.send(keys.stream(key, f"stage {i}"), mine, upload, now)
            after.append(mine)
        return after, upload

    def sent(key, memory, upload: Upload, now: Now, share: float = 1.0):
        """(memory, upload, its update as the compressor saw it, Packet)"""
        before, mine = memory, memory
        if stages:
            change = rows.map_tables(lambda u: u.delta(), upload.update)
            upload = replace(upload, update=change)
            after, upload = staged(key, memory["stages"], upload, now)
            mine = memory["uplink"]
        if compressor is None:
            update = rows.map_tables(lambda u: u.delta(), upload.update)
            packet = Packet(update)
        else:
            update = rows.map_tables(lambda u: _compact(u, _room(u, share)), upload.update)
            mine, packet = compressor.encode(key, mine, update, now)
        memory = {"stages": after, "uplink": mine} if stages else mine
        memory = trees.select(upload.weight > 0, memory, before)
        return memory, upload, update, packet

    def billed(packet: Packet, upload: Upload) -> Packet:
        """The message: what the protocol needs beside the update travels with it."""
        return replace(packet, side=(packet.side, upload.aux)) if upload.aux else packet

    def one(key, memory, upload, now):
        memory, upload, _, packet = sent(key, memory, upload, now)
        return memory, billed(packet, upload)

    def through(id, key, memory, upload, now_of, share):
        now = now_of(id)
        memory, after, update, packet = sent(key, memory, upload, now, share)
        if compressor is None:
            return memory, after, wire.nbytes(billed(Packet(after.update), after))
        nbytes = wire.nbytes(billed(packet, after))
        back = packet.body if late else compressor.decode(packet, update, now)
        arrived = _restored(back, after.update)
        return memory, replace(after, update=arrived), nbytes

    def chunk(ids, keys, memory, uploads, now):
        leaves = jax.tree.leaves(uploads.update, is_leaf=rows.is_table)
        tables = [leaf for leaf in leaves if rows.is_table(leaf)]
        worth = compressor is not None and any(
            math.prod(t.values.shape[1:]) >= WORTH for t in tables
        )
        args = ids, keys, memory, uploads
        if not worth:
            return vmapped(partial(through, now_of=now, share=1.0), *args)(*args)

        def too_small(share):
            full = [t.live.sum(1).max() > math.ceil(share * t.live.shape[1]) for t in tables]
            return jnp.stack(full).any()

        index = sum((too_small(share).astype(jnp.int32) for share in SHARES[:-1]), jnp.int32(0))

        def branch(share):
            return lambda: vmapped(partial(through, now_of=now, share=share), *args)(*args)

        return jax.lax.switch(index, [branch(share) for share in SHARES])

    def receive(key, update, now):
        if late:
            update = rows.map_tables(lambda u: u.delta(), update)
            update = late.decode(Packet(update), _as_wide(update, now.shared), now)
        for i, stage in enumerate(stages):
            update = stage.receive(keys.stream(key, f"stage {i}"), update, now)
        return update

    return Uplink(init, one, chunk, receive)


def _decodes_late(compressor: Compressor, shared: PyTree) -> bool:
    """Whether sums of bodies decode to sums of updates: decoding is linear, the packet has nothing
    beside its body, and each table travels as rows of its own."""
    if not compressor.linear:
        return False
    like = rows.map_tables(lambda u: _compact(u, u.live.shape[0]), whole_update(shared))
    now = Now(jnp.int32(0), shared, jnp.int32(0))

    def packet(key):
        return compressor.encode(key, compressor.init(like), like, now)[1]

    sent = jax.eval_shape(packet, jax.random.key(0))
    if jax.tree.leaves((sent.side, sent.known)):
        return False
    kinds = [list(map(rows.is_table, _leaves(tree))) for tree in (sent.body, like)]
    return kinds[0] == kinds[1]


def _as_wide(update: PyTree, shared: PyTree) -> PyTree:
    """The outline of `update` decoded: its rows, as wide as the tables of `shared`."""

    def one(x, u):
        if not rows.is_table(x):
            return jnp.zeros(x.shape, x.dtype)
        return replace(u, values=jnp.zeros((u.live.shape[0], *x.shape[1:]), u.values.dtype))

    return jax.tree.map(one, trees.trainable(shared), update, is_leaf=rows.is_table)


def _leaves(tree: PyTree) -> list:
    return jax.tree.leaves(tree, is_leaf=rows.is_table)


def _room(update: rows.RowsUpdate, share: float) -> int:
    return math.ceil(share * update.live.shape[0])


def _restored(back: PyTree, update: PyTree) -> PyTree:
    """`back` with its rows in the layout of `update`; what decodes to something else stays."""
    if not any(map(rows.is_table, _leaves(back))):
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
        values = jnp.zeros((like.size, *update.values.shape[1:]), update.values.dtype)
        values = values.at[ids].set(update.values, mode="drop")
        there = jnp.zeros(like.live.shape, bool).at[ids].set(True, mode="drop")
        return rows.RowsUpdate(values, None, there, None, update.size)
    more = (0, like.live.shape[0] - update.live.shape[0])
    ids = jnp.pad(jnp.asarray(update.ids), more, constant_values=update.size)
    values = jnp.pad(update.values, (more, (0, 0)))
    return rows.RowsUpdate(values, ids, jnp.pad(update.live, more), None, update.size)
