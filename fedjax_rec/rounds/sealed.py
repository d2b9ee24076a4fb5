"""The way of an upload under a seal, of which the server reads the sum alone.

    upload -> stages -> all rows -> compressor -> seal -> wire -> sum -> opened -> decode -> stages

Which rows a client touched would tell what it holds, so whole tables travel, or what a compressor
makes of them that both ends draw from a seed. What adds up is numbers that mean the same of all
clients: a compressor must be linear and send nothing beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys as streams
from .. import rows, trees, wire
from ..compress.combine import identity
from ..types import Compressor, Now, Packet, PyTree, Seal, Stage, Upload
from .cohort import vmapped
from .downlink import live_where_it_moves
from .uplink import Uplink, in_order


def sealed(
    seal: Seal, compressor: Compressor | None, stages: Sequence[Stage], shared: PyTree
) -> Uplink:
    """Uploads through `stages`, by `compressor` and under `seal`.

    shared: the server's model. Raises ValueError for a compressor that cannot be under it.
    """
    compressor = compressor or identity()
    refuse_under_seal(compressor)
    staged = in_order(stages)

    def init(update):
        return {"stages": staged.init(update), "uplink": compressor.init(update)}

    def send(key, memory, upload: Upload, now: Now):
        held, upload = staged.send(key, memory["stages"], upload, now)
        update = rows.all_rows(upload.update)
        mine, packet = compressor.encode(key, memory["uplink"], update, now)
        mine = trees.select(upload.weight > 0, mine, memory["uplink"])
        packet, told = seal.send(streams.stream(key, "seal"), rows.dense(packet.body), now)
        upload = replace(upload, update=packet.body, metrics={**upload.metrics, **told})
        return {"stages": held, "uplink": mine}, upload, packet

    def one(key, memory, upload, now):
        memory, _, packet = send(key, memory, upload, now)
        return memory, packet

    def chunk(ids, keys, memory, uploads, now):
        def through(id, key, memory, upload):
            memory, upload, packet = send(key, memory, upload, now(id))
            return memory, upload, jnp.where(upload.weight != 0, wire.nbytes(packet), 0)

        args = ids, keys, memory, uploads
        return vmapped(through, *args)(*args)

    def receive(key, update, now):
        like = rows.all_rows(rows.zero_update(now.shared))
        whole = lambda u: replace(u, live=jnp.ones(u.live.shape, bool))
        body = rows.with_values(rows.map_tables(whole, outline.body), update)
        update = compressor.decode(replace(outline, body=body), like, now)
        return staged.receive(key, live_where_it_moves(update), now)

    outline = _adding_up(compressor, shared)
    numbers = sum(x.size for x in jax.tree.leaves(rows.dense(outline.body)))
    seen = lambda packet, like, now: packet.body  # of one client, which says nothing
    return Uplink(init, one, chunk, receive, seen, seal.down(numbers))


def refuse_under_seal(compressor: Compressor) -> None:
    """Raises ValueError where sums of what `compressor` sends mean nothing."""
    if not compressor.linear:
        raise ValueError(
            "uplink: what this compressor sends does not add up, and secure aggregation reads "
            "nothing but sums; use a linear one that both ends draw from a seed, such as "
            "privacy.seeded_rows or compress.seeded_low_rank, or none."
        )


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
