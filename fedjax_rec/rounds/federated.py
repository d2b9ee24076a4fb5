"""The assembly: one client's functions become a round of all clients in one compiled call.

    sort the cohort by size;  for each chunk of c clients:  vmap(update, encode, decode), reduce;
    then finish and server step.

Everything else is written for one client; the one `vmap` is here. What a chunk needs is small and
is used again by the next, which on a CPU keeps it in cache; chunked and unchunked rounds are equal,
since summaries add.

Dimensions: `N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..aggregate import mean
from ..servers.step import as_server, step
from ..types import (
    Aggregator,
    Client,
    Cohort,
    Compressor,
    PyTree,
    RoundInfo,
    Server,
    State,
    Strategy,
    Transform,
    Upload,
    at_round,
)
from .clock import Clock
from .cohort import at, over_chunks, put
from .downlink import broadcasting, downloaded, whole_update
from .memory import refuse_too_large
from .plan import checked, choosing
from .timed import timing
from .uplink import compressed, plain

SMALLER = "use fewer clients, a smaller width, or group users into clients (data.by_hash)"
FORGET = "remember fewer rows of each table (error_feedback(..., rows=256)), or in dtype='bfloat16'"


def federated(
    client: Client,
    init_shared,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    downlink: Compressor | None = None,
    clock: Clock | None = None,
    deadline: float | None = None,
) -> Strategy:
    """A strategy of its parts.

    client: local work. init_shared(key) -> the server's pytree.
    uplink: how updates are sent; None sends them as they are. A client's memory changes only where
        its upload weighs something.
    downlink: how the server's changes are broadcast, see `downlink.broadcasting`; None gives each
        client the dense leaves and the rows that it touches as they are.
    aggregator: default `aggregate.mean()`. server: default `step(1.0)`; any optax transform.
    clients_per_chunk: `c`, or the memory that a round may take, e.g. "2GiB"; default by the memory
        budget or the device, see `analysis`.
    clock: how long clients take, see `strategies.lognormal_clock`. Metrics then have, of each
        client, `client_seconds`, and, the same for all, `simulated_seconds` of the round,
        `simulated_time` since the start, and `late`, the share of clients that missed the deadline.
    deadline: seconds after which the server waits no more; who is late weighs nothing, see `timed`.
    Raises MemoryError, before anything runs, where the private state of N clients cannot fit, and
    ValueError for a deadline without a clock.
    """
    checked("federated", clients_per_chunk)
    if deadline is not None and clock is None:
        raise ValueError(
            f"federated(deadline={deadline}) needs a clock; give clock=lognormal_clock()."
        )
    timed = None if clock is None else timing(clock, deadline)
    aggregator = aggregator or mean()
    optimizer = as_server(server or step(1.0))
    broadcast = None if downlink is None else broadcasting(downlink)

    def fresh(key, num_clients) -> State:
        shared = init_shared(keys.stream(key, "shared"))
        everyone = jnp.arange(num_clients)
        private = jax.vmap(lambda i: client.init(keys.stream(key, "private"), i))(everyone)
        memory = ()
        if uplink is not None:
            like, remember = whole_update(shared), uplink.init
            memory = jax.vmap(lambda i: remember(like))(everyone)
        states = {"aggregator": aggregator.init(shared), "optimizer": optimizer.init(shared)}
        if broadcast is not None:
            states["downlink"] = broadcast.init(shared, num_clients)
        if timed is not None:
            states["clock"] = jnp.float32(0)
        return State(shared, private, memory, states, jnp.int32(0))

    def init(key, num_clients: int) -> State:
        outline = jax.eval_shape(lambda k: fresh(k, num_clients), key)
        refuse_too_large("private state", trees.nbytes(outline.private), num_clients, SMALLER)
        refuse_too_large("compressor memory", trees.nbytes(outline.memory), num_clients, FORGET)
        return jax.jit(fresh, static_argnums=1)(key, num_clients)

    def work(key, state: State):
        shared = state.shared
        if broadcast is not None:
            shared = trees.with_frozen(broadcast.known(state.server["downlink"]), shared)
        return at_work(client, uplink, key, state.round, shared)

    def a_round(key, state: State, cohort: Cohort, c: int | None = None):
        of_round = jax.random.fold_in(key, state.round)
        data = cohort.data
        train, encode_keys, sender = work(key, state)

        everyone, nbytes = vmapped(train, state.private, cohort)
        c = c or choose(nbytes, key, state, cohort)

        def chunk(carry, ids):
            private, memory, total = carry
            here, upload, down = everyone(ids, private)
            kept, upload, up = sender.chunk(encode_keys(ids), at(memory, ids), upload)
            if broadcast is not None:
                down = broadcast.received(state.server["downlink"], ids)
            real = ids < data.num_clients
            upload, arrived = replace(upload, weight=jnp.where(real, upload.weight, 0.0)), ids
            if timed is not None:
                upload, up, arrived = timed.chunk(of_round, ids, upload, down, up)
            summary = aggregator.reduce(upload)
            adds, stacks = divide(summary, aggregator.additive)
            total = combine(total, adds)
            private, memory = put(private, ids, here), put(memory, arrived, kept)
            return (private, memory, total), (stacks, (upload.metrics, upload.weight, up, down))

        start = state.private, state.memory
        zero = trees.zeros_like(jax.eval_shape(chunk, (*start, None), cohort.ids[:c])[0][2])
        (private, memory, total), stacks, seen = over_chunks(chunk, (*start, zero), cohort, c)
        summary = join(total, stacks, aggregator.additive)
        finished, update = aggregator.finish(
            keys.stream(of_round, "aggregate"), state.server["aggregator"], summary
        )
        moved, shared = optimizer.apply(state.server["optimizer"], state.shared, update)

        info = RoundInfo(*seen)
        states = {"aggregator": finished, "optimizer": moved}
        if broadcast is not None:
            before, downlink_key = state.server["downlink"], keys.stream(of_round, "downlink")
            states["downlink"] = broadcast.send(
                downlink_key, before, shared, state.round, cohort.ids
            )
        if timed is not None:
            states["clock"], info = timed.finish(state.server["clock"], cohort, info)
        after = State(shared, private, memory, states, state.round + 1)
        return after, info

    choose = choosing(clients_per_chunk, lambda c: partial(a_round, c=c))

    def round(key, state: State, cohort: Cohort) -> tuple[State, RoundInfo]:
        return a_round(key, state, cohort)

    def packets(key, state: State, cohort: Cohort):
        train, encode_keys, sender = work(key, state)

        def one(id, key, private, memory, data):
            _, upload, _ = train(id, private, data)
            packet = sender.one(key, memory, upload)[1]
            return packet, wire.nbytes(packet)

        ids, axes = cohort.ids, (0, 0, 0, 0, cohort.data.axes())
        held = at(state.private, ids), at(state.memory, ids)
        return jax.vmap(one, in_axes=axes)(ids, encode_keys(ids), *held, cohort.data.take(ids))

    return Strategy(init, round, packets, client.score)


def at_work(client: Client, uplink: Compressor | None, key, round, shared):
    """(train, encode keys, sender) of a round that starts from `shared`: train(id, private, data)
    -> (private, Upload, bytes down), the keys of ids int[c] that encode with, and the uplink."""
    keys_of, sender = keys_and_sender(uplink, key, round, shared)
    worker = at_round(client, round, shared)

    def train(id, private, data):
        train_key, _ = keys_of(id)
        private, upload = worker.update(train_key, private, shared, data)
        # What came down: the dense part of the model, and the rows that the client touched.
        down = upload.down
        if down is None:
            down = wire.nbytes(downloaded(trees.trainable(shared), upload.update))
        return private, replace(upload, down=None), down

    return train, jax.vmap(lambda id: keys_of(id)[1]), sender


def keys_and_sender(uplink: Compressor | None, key, round, shared):
    """(id -> (key that trains, key that encodes) of a client, the uplink) of a round."""
    client_key = keys.stream(jax.random.fold_in(key, round), "clients")
    sender = plain() if uplink is None else compressed(at_round(uplink, round, shared))
    return lambda id: jax.random.split(keys.for_client(client_key, id)), sender


def vmapped(train, private: PyTree, cohort: Cohort):
    """(`train` of clients ids int32[c] with their slices of private [N, ...], the bytes of one
    client's local parameters)."""
    data = cohort.data
    axes = (0, 0, data.axes())

    def play(ids, private, out_axes: Any = 0):
        over = jax.vmap(train, in_axes=axes, out_axes=out_axes)
        return over(ids, at(private, ids), data.take(ids))

    update = jax.eval_shape(play, cohort.ids[:1], private)[1].update
    leaves = jax.tree.leaves(update, is_leaf=rows.is_table)
    nbytes = trees.nbytes([x.values if rows.is_table(x) else x for x in leaves])
    # The server's table passes through every client unchanged: it has no client axis.
    out_axes = (0, Upload(rows.map_axes(update), 0, 0), 0)
    return lambda ids, private: play(ids, private, out_axes), nbytes


def divide(summary: PyTree, additive: bool) -> tuple[PyTree, PyTree]:
    """(what adds up over chunks, what is stacked): rows with ids are listed, not added."""

    def adds(x):
        return additive and not (rows.is_table(x) and x.ids is not None)

    def keep(want):
        chosen = lambda x: x if adds(x) == want else None
        return jax.tree.map(chosen, summary, is_leaf=rows.is_table)

    return keep(True), keep(False)


def combine(a: PyTree | None, b: PyTree) -> PyTree:
    """What adds up, of two chunks; None for nothing yet."""
    if a is None:
        return b
    return jax.tree.map(lambda x, y: x | y if x.dtype == bool else x + y, a, b)


def join(total: PyTree, stacks: PyTree, additive: bool) -> PyTree:
    """The summary of all chunks: rows of all chunks one after another."""
    if not additive:
        return stacks

    def one(t, s):
        if t is not None:
            return t
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), s)

    return jax.tree.map(one, total, stacks, is_leaf=lambda x: x is None or rows.is_table(x))
