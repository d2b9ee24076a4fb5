"""The way of an upload under a seal, of which the server reads the sum alone.

    upload -> stages -> all rows -> compressor -> seal -> wire -> sum -> opened -> decode -> stages

Which rows a client touched would tell what it holds, so whole tables travel, or what a compressor
makes of them that both ends draw from a seed. What adds up is numbers that mean the same of all
clients: a compressor must be linear and send nothing beside them.

A seal may have clients send twice, first something of which the sum says what the second message
holds (`Seal.narrow`). In a round both are made at once, since masked sums of all rows and of some
are equal where these are; the second is billed as what is sent of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from .. import keys as streams
from .. import rows, trees, wire
from ..compress.combine import identity
from ..types import Compressor, Now, Packet, PyTree, Seal, Stage, Upload
from .cohort import vmapped
from .downlink import live_where_it_moves
from .uplink import Uplink, in_order


@dataclass(frozen=True)
class Second:
    """nbytes(summary, now) -> uint32[]: of each client's second message, from the summary of all.
    packets(ids, keys, memory, uploads, now, summed) -> ((first, second), uint32[C] bytes): the
    messages of a whole cohort, leaves [C, ...]; summed(uploads) -> summary of what arrives."""

    nbytes: Callable[..., jax.Array]
    packets: Callable[..., tuple]


def sealed(
    seal: Seal, compressor: Compressor | None, stages: Sequence[Stage], shared: PyTree
) -> Uplink:
    """Uploads through `stages`, by `compressor` and under `seal`.

    shared: the server's model. Raises ValueError for a compressor that cannot be under it.
    """
    if compressor is not None:
        refuse_under_seal(seal, compressor)
    compressor = compressor or identity()
    staged = in_order(stages)

    def init(update):
        return {"stages": staged.init(update), "uplink": compressor.init(update)}

    def send(key, memory, upload: Upload, now: Now):
        held, upload = staged.send(key, memory["stages"], upload, now)
        update = rows.all_rows(upload.update)
        mine, packet = compressor.encode(key, memory["uplink"], update, now)
        mine = trees.select(upload.weight > 0, mine, memory["uplink"])
        body = whole_tables(upload.update) if seal.narrow else rows.dense(packet.body)
        packet, told = seal.send(streams.stream(key, "seal"), body, now)
        sums = tuple(x.body for x in packet) if seal.narrow else packet.body
        upload = replace(upload, update=sums, metrics={**upload.metrics, **told})
        return {"stages": held, "uplink": mine}, upload, packet

    def one(key, memory, upload, now):
        memory, _, packet = send(key, memory, upload, now)
        return memory, packet

    def chunk(ids, keys, memory, uploads, now):
        def through(id, key, memory, upload):
            memory, upload, packet = send(key, memory, upload, now(id))
            first = packet[0] if seal.narrow else packet
            return memory, upload, jnp.where(upload.weight != 0, wire.nbytes(first), 0)

        args = ids, keys, memory, uploads
        return vmapped(through, *args)(*args)

    def receive(key, update, now):
        like = rows.all_rows(rows.zero_update(now.shared))
        whole = lambda u: replace(u, live=jnp.ones(u.live.shape, bool))
        body = rows.with_values(rows.map_tables(whole, outline.body), update)
        update = compressor.decode(replace(outline, body=body), like, now)
        return staged.receive(key, live_where_it_moves(update), now)

    outline = _adding_up(compressor, shared)
    numbers = _numbers(outline)
    seen = lambda packet, like, now: packet.body  # of one client, which says nothing
    if seal.narrow is None:
        return Uplink(init, one, chunk, receive, seen, seal.down(numbers))
    every = sum(x.size for x in rows.nodes(outline.body) if rows.is_table(x))
    second = _second(seal, send, outline.body)
    return Uplink(init, one, chunk, receive, seen, seal.down(numbers, every), second)


def whole_tables(update: PyTree) -> PyTree:
    """`update` as whole tables, live where the client touched them."""
    return rows.spread(rows.deltas(update), rows.all_rows(update))


def _second(seal: Seal, send: Callable, like: PyTree) -> Second:
    """The second messages under a seal that has such. like: the outline of an update."""
    narrow = seal.narrow
    assert narrow is not None

    def nbytes(summary, now: Now):
        def made(key):
            zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)
            return seal.send(key, zero, replace(now, client=now.cohort[0]))[0][1]  # pyright: ignore

        outline = jax.eval_shape(made, jax.random.key(0))
        blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outline)
        return wire.nbytes(narrow(summary, blank, now))

    def packets(ids, keys, memory, uploads, now, summed):
        def made(id, key, memory, upload):
            _, upload, packet = send(key, memory, upload, now(id))
            return upload, packet

        args = ids, keys, memory, uploads
        uploads, (first, second) = vmapped(made, *args)(*args)
        summary = summed(uploads)
        own = lambda second: narrow(summary, second, now(None))
        second = vmapped(own, second)(second)
        both = lambda *each: wire.nbytes(each[0]) + wire.nbytes(each[1])
        cost = vmapped(both, first, second)(first, second)
        return (first, second), jnp.where(uploads.weight != 0, cost, 0)

    return Second(nbytes, packets)


def refuse_under_seal(seal: Seal, compressor: Compressor) -> None:
    """Raises ValueError where sums of what `compressor` sends mean nothing, or the seal itself says
    which rows are sent."""
    if seal.narrow is not None:
        raise ValueError(
            "uplink: under a union of rows those are sent that enough clients touched, as they "
            "are; leave uplink out, or use the secure aggregation alone."
        )
    if not compressor.linear:
        raise ValueError(
            "uplink: what this compressor sends does not add up, and secure aggregation reads "
            "nothing but sums; use a linear one that both ends draw from a seed, such as "
            "privacy.seeded_rows or compress.seeded_low_rank, or none."
        )


def numbers_under_seal(compressor: Compressor | None, shared: PyTree) -> int:
    """How many numbers of the model `shared` a client sends, all of its tables or what `compressor`
    makes of them. Raises ValueError as `sealed`."""
    return _numbers(_adding_up(compressor or identity(), shared))


def _numbers(outline: Packet) -> int:
    return sum(x.size for x in jax.tree.leaves(rows.dense(outline.body)))


def _adding_up(compressor: Compressor, shared: PyTree) -> Packet:
    """The outline of a packet that is nothing but numbers, the same ones of all clients."""
    like = rows.all_rows(rows.zero_update(shared))
    now = Now(jnp.int32(0), shared, jnp.int32(0))

    def packet(key):
        return compressor.encode(key, compressor.init(like), like, now)[1]

    sent = jax.eval_shape(packet, jax.random.key(0))
    other = any(wire.is_node(x) and not rows.is_table(x) for x in wire.nodes(sent.body))
    if other or jax.tree.leaves((sent.side, sent.known)):
        raise ValueError(
            "uplink: this compressor sends places, scales or seeds of each client's own beside its "
            "numbers, which secure aggregation neither hides nor sums; use one that both ends draw "
            "from a seed, such as privacy.seeded_rows or compress.seeded_low_rank, or none."
        )
    return sent
