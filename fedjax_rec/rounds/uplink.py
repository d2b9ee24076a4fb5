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
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..compress.cheaper import cheaper
from ..compress.leafwise import SMALLEST_ROOM
from ..types import Compressor, Now, Packet, PyTree, Stage, State, Upload, record
from .cohort import vmapped

SHARES = (1 / 8, 1 / 3, 1.0)
# Coordinates of a local table below which more rooms cost more to compile than they save. The
# smallest room is no smaller than compressors take it to be.
WORTH = 8 * SMALLEST_ROOM


@record
class Beside:
    """The side of a message: the packet's own, and what the protocol needs beside the update."""

    side: PyTree
    aux: PyTree


@dataclass(frozen=True)
class Uplink:
    """init(update) -> memory: what a client keeps, `update` of the whole model; () for nothing.
    one(key, memory, upload, now) -> (memory, Packet): what a client keeps and sends.
    chunk(ids, keys, memory, uploads, now) -> (memory, uploads as they arrive, uint32[c] bytes):
    leaves [c, ...] everywhere but on the server's own tables in `origin`; now(id) -> Now.
    receive(key, update, now) -> update: what is left to do after the sum.
    opened(packet, like, now) -> update: of one client's packet, tables as rows; `like` is its
        outline.
    down: bytes that a client gets for it, of an uplink under a seal, see `sealed`.
    second: under a seal with two messages, what is to be done when the first are summed, see
        `sealed.Second`; else None.
    """

    init: Callable[..., PyTree]
    one: Callable[..., tuple[PyTree, Packet]]
    chunk: Callable[..., tuple[PyTree, Upload, jax.Array]]
    receive: Callable[..., PyTree]
    opened: Callable[..., PyTree]
    down: int = 0
    second: Any = None


def uplink_of(
    compressor: Compressor | None = None,
    stages: Sequence[Stage] = (),
    shared: PyTree = (),
    linear: bool = False,
) -> Uplink:
    """Uploads through `stages`, in their order, and then by `compressor`; None sends them as they
    are. Memory changes only where the upload weighs something. Small dense leaves that it would not
    make smaller are sent as they are, see `compress.cheaper`.

    shared: the server's model, and linear: whether the aggregator sums nodes of updates, see
    `Aggregator.linear`; where it does, what decodes linearly is decoded after the sum.
    """
    compressor = compressor and cheaper(compressor, shared)
    late = _decoded_late(compressor, shared) if linear and compressor is not None else None
    staged = in_order(stages)

    def init(update):
        memory = () if compressor is None else compressor.init(update)
        return {"stages": staged.init(update), "uplink": memory} if stages else memory

    def sent(key, memory, upload: Upload, now: Now, share: float = 1.0):
        """(memory, upload, its update as the compressor saw it, Packet)"""
        before = mine = memory["uplink"] if stages else memory
        held = ()
        if stages:
            held, upload = staged.send(key, memory["stages"], upload, now)
        if compressor is None:
            update = rows.deltas(upload.update)
            packet = Packet(update)
        else:
            update = rows.map_tables(lambda u: rows.compact(u, _room(u, share)), upload.update)
            mine, packet = compressor.encode(key, mine, update, now)
        mine = trees.select(upload.weight > 0, mine, before)
        return {"stages": held, "uplink": mine} if stages else mine, upload, update, packet

    def billed(packet: Packet, upload: Upload) -> Packet:
        """The message: what the protocol needs beside the update travels with it."""
        return replace(packet, side=Beside(packet.side, upload.aux)) if upload.aux else packet

    def one(key, memory, upload, now):
        memory, upload, _, packet = sent(key, memory, upload, now)
        return memory, billed(packet, upload)

    def through(id, key, memory, upload, now_of, share):
        now = now_of(id)
        memory, after, update, packet = sent(key, memory, upload, now, share)
        # Whoever has nothing to say sends nothing.
        cost = lambda packet: jnp.where(after.weight != 0, wire.nbytes(billed(packet, after)), 0)
        if compressor is None:
            return memory, after, cost(Packet(after.update))
        nbytes = cost(packet)
        back = packet.body if late is not None else compressor.decode(packet, update, now)
        arrived = rows.spread(back, after.update)
        return memory, replace(after, update=arrived), nbytes

    def chunk(ids, keys, memory, uploads, now):
        tables = [x for x in rows.nodes(uploads.update) if rows.is_table(x)]
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
        if late is not None and compressor is not None:
            update = rows.deltas(update)
            summed = replace(late, body=update)
            update = compressor.decode(summed, _as_wide(update, now.shared), now)
        return staged.receive(key, update, now)

    def opened(packet, like, now):
        if isinstance(packet.side, Beside):
            packet = replace(packet, side=packet.side.side)
        return packet.body if compressor is None else compressor.decode(packet, _listed(like), now)

    return Uplink(init, one, chunk, receive, opened)


def opening(sender_of: Callable[[PyTree], Uplink]) -> Callable[..., PyTree]:
    """`Strategy.opened` where clients send by sender_of(shared)."""

    def opened(state: State, packet: Packet, id, like):
        return sender_of(state.shared).opened(packet, like, Now(state.round, state.shared, id))

    return opened


def _listed(update: PyTree) -> PyTree:
    """`update` of which all tables are rows with ids."""
    return rows.map_tables(lambda u: rows.compact(u, u.live.shape[0]), update)


def in_order(stages: Sequence[Stage] | None) -> Stage:
    """`stages`, one after another, as one stage: each has a key and a memory of its own, which
    changes only where the upload weighs something when all are through. They see a change of which
    nothing is left to do, see `rows.deltas`. None, as a null of a configuration, is no stage."""
    stages = stages or ()

    def send(key, memory, upload: Upload, now: Now):
        upload, after = replace(upload, update=rows.deltas(upload.update)), []
        for i, (stage, mine) in enumerate(zip(stages, memory, strict=True)):
            mine, upload = stage.send(keys.stream(key, f"stage {i}"), mine, upload, now)
            after.append(mine)
        return trees.select(upload.weight > 0, after, memory), upload

    def receive(key, update, now: Now):
        for i, stage in enumerate(stages):
            update = stage.receive(keys.stream(key, f"stage {i}"), update, now)
        return update

    return Stage(send, lambda update: [stage.init(update) for stage in stages], receive)


def refuse_receiving(where: str, stages: Sequence[Stage] | None) -> None:
    """Raises ValueError for a stage with a `receive` of its own, where nobody sums uploads."""
    for i, stage in enumerate(stages or ()):
        if stage.receive is not Stage.receive:
            raise ValueError(
                f"{where}(stages): number {i} does something to the sum of all uploads, `receive`, "
                "and here nobody makes that sum; use a stage that only sends."
            )


def _decoded_late(compressor: Compressor, shared: PyTree) -> Packet | None:
    """The outline of a packet, where sums of bodies decode to sums of updates: decoding is linear,
    there is nothing beside the body, and each table travels as rows of its own; else None."""
    if not compressor.linear:
        return None
    like = _listed(rows.zero_update(shared))
    now = Now(jnp.int32(0), shared, jnp.int32(0))

    def packet(key):
        return compressor.encode(key, compressor.init(like), like, now)[1]

    sent = jax.eval_shape(packet, jax.random.key(0))
    if jax.tree.leaves((sent.side, sent.known)):
        return None
    kinds = [list(map(rows.is_table, rows.nodes(tree))) for tree in (sent.body, like)]
    return sent if kinds[0] == kinds[1] else None


def _as_wide(update: PyTree, shared: PyTree) -> PyTree:
    """The outline of `update` decoded: its rows, as wide as the tables of `shared`."""

    def one(x, u):
        if not rows.is_table(x):
            return jnp.zeros(x.shape, x.dtype)
        return replace(u, values=jnp.zeros((u.live.shape[0], *x.shape[1:]), u.values.dtype))

    return rows.map_nodes(one, trees.trainable(shared), update)


def _room(update: rows.RowsUpdate, share: float) -> int:
    return math.ceil(share * update.live.shape[0])
