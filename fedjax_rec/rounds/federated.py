"""The assembly: one client's functions become a round of all clients in one compiled call.

    for each chunk of c clients:  update, stages, encode, decode, reduce;
    then finish and server step.

Dimensions: `N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..aggregate import mean
from ..made import refuse_uncalled
from ..servers.step import as_server, step
from ..types import (
    Aggregator,
    Client,
    Cohort,
    Compressor,
    Model,
    PyTree,
    RoundInfo,
    Server,
    Stage,
    State,
    Strategy,
    Transform,
)
from .chunks import at, in_chunks, put, shards
from .clock import Clock
from .cohort import (
    SMALLER,
    audited,
    beginning,
    client_keys,
    clients_at_once,
    copies,
    first_private,
    kept,
    now_of,
    over_clients,
    rule_of_thumb,
    served,
)
from .downlink import broadcasting, downloaded, whole_model
from .plan import checked
from .rejected import judged, judged_by_sum
from .sealed import refuse_under_seal, sealed
from .summaries import with_its_ids
from .timed import timing
from .uplink import opening, uplink_of

FORGET = "remember fewer rows of each table (error_feedback(..., rows=256)), or in dtype='bfloat16'"


def federated(
    client: Client,
    model: Model,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    downlink: Compressor | None = None,
    clock: Clock | None = None,
    deadline: float | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A strategy of its parts.

    Args:
        client: local work.
        model: what the server's pytree begins as, and what scores it with a client's private state.
        uplink: how updates are sent; None sends them as they are. A client's memory changes only
            where its upload weighs something.
        aggregator: default `aggregate.mean()`. Under one with a seal, such as
            `privacy.secure_aggregation`, clients send and get whole tables.
        server: default `step(1.0)`; any optax transform.
        clients_per_chunk: `c`, or the memory that a round may take, e.g. "2GiB"; default by the
            memory budget or the device, see `plan`.
        downlink: how the server's changes are broadcast, see `downlink.broadcasting`; None gives
            each client the dense leaves and the rows that it touches as they are.
        clock: how long clients take, see `strategies.lognormal_clock`. Metrics then have, of each
            client, `client_seconds`, and, the same for all, `simulated_seconds` of the round,
            `simulated_time` since the start, and `late`, the share of clients that missed the
            deadline.
        deadline: seconds after which the server waits no more; who is late weighs nothing, see
            `timed`.
        stages: what happens to an upload before it is compressed, in their order: clips, noise,
            masks, attacks.

    Returns:
        The strategy. Its state has what aggregator, optimizer, downlink and clock keep.

    Raises:
        MemoryError: before anything runs, where the private state of N clients cannot fit.
        ValueError: for a deadline without a clock, and for an uplink that cannot be under the
            aggregator's seal.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.federated(client, model, compress.cast(), aggregate.uniform())
    """
    checked("federated", clients_per_chunk)
    refuse_uncalled("federated", "aggregator", aggregator)
    if deadline is not None and clock is None:
        raise ValueError(
            f"federated(deadline={deadline}) needs a clock; give clock=lognormal_clock()."
        )

    def sender_of(shared, linear: bool = False):
        if seal is not None:
            return sealed(seal, uplink, stages, shared)
        return uplink_of(uplink, stages, shared, linear)

    timed = None if clock is None else timing(clock, deadline)
    aggregator = aggregator or mean()
    seal = aggregator.seal
    if seal is not None and uplink is not None:
        refuse_under_seal(seal, uplink)
    twice = seal is not None and seal.narrow is not None
    optimizer = as_server(server or step(1.0))
    broadcast = None if downlink is None else broadcasting(downlink)

    def fresh(key, num_clients) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        memory, like = (), rows.zero_update(shared)
        if uplink is not None or stages or seal is not None:
            remember = sender_of(shared).init
            memory = copies(remember(like), num_clients)
        states = {"aggregator": aggregator.init(shared), "optimizer": optimizer.init(shared)}
        if broadcast is not None:
            states["downlink"] = broadcast.init(shared, num_clients)
        if timed is not None:
            states["clock"] = jnp.float32(0)
        return State(shared, first_private(client, key, num_clients), memory, states, jnp.int32(0))

    held = lambda state: {
        "private state": (state.private, SMALLER),
        "compressor memory": (state.memory, FORGET),
    }

    def known(state: State) -> PyTree:
        if broadcast is None:
            return state.shared
        return trees.with_frozen(broadcast.known(state.server["downlink"]), state.shared)

    def work(key, state: State, cohort: Cohort):
        return at_work(client, key, state.round, known(state), cohort)

    def to_be_sent(key, state: State, cohort: Cohort):
        train = work(key, state, cohort)[0]

        def one(*args):
            private, upload, down = train(*args)
            return private, replace(upload, update=rows.all_rows(upload.update)), down

        return train if seal is None else one

    rule = rule_of_thumb(clients_per_chunk, to_be_sent)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        of_round = jax.random.fold_in(key, state.round)
        data = cohort.data
        sent_down = known(state)
        _, of_clients, now = at_work(client, key, state.round, sent_down, cohort)
        sender = sender_of(state.shared, aggregator.linear)
        c = clients_at_once(chunk, rule, key, state, cohort)
        # Sums of rows are listed where the list is shorter than what a device has of the table.
        chunks = -(-cohort.ids.shape[0] // c) * shards(cohort.mesh)
        # Whether what arrives is what clients made, and is summed whatever it says.
        sums = aggregator.linear and aggregator.additive is True
        plainly = sums and uplink is None and not stages and timed is None

        def part(everyone, now, held, ids):
            private, memory = held
            here, upload, down = everyone(ids, private)
            sent = upload.update
            remembered, upload, up = sender.chunk(
                ids, of_clients.encode(ids), at(memory, ids), upload, now
            )
            if broadcast is not None:
                down = broadcast.received(state.server["downlink"], served(cohort, ids))
            if seal is not None:  # asking for rows would tell which
                got = down if broadcast is not None else whole_model(state.shared)
                down = jnp.where(data.sizes(ids) > 0, got + jnp.uint32(sender.down), 0)

            def summed(upload):
                summary = aggregator.reduce(state.server["aggregator"], upload, now(ids))
                return with_its_ids("reduce", summary, upload)

            if plainly:
                keep, upload, rejected, summary = judged_by_sum(
                    ids, data.num_clients, here, upload, summed
                )
                arrived = keep
            else:
                keep, upload, rejected = judged(ids, data.num_clients, here, sent, upload)
                arrived = keep
                if timed is not None:
                    upload, up, arrived = timed.chunk(of_round, keep, upload, down, up)
                if aggregator.additive is not True:
                    upload = replace(upload, update=rows.deltas(upload.update))
                summary = summed(upload)
            adds, stacks = rows.divide(summary, aggregator.additive, chunks)
            here = kept(client, upload.weight, at(private, ids), here)
            private, memory = put(private, keep, here), put(memory, arrived, remembered)
            info = RoundInfo(upload.metrics, upload.weight, up, down, rejected=rejected)
            return (private, memory), adds, stacks, info

        def reading(shared):
            train, _, now = at_work(client, key, state.round, shared, cohort)
            return partial(part, over_clients(train, state.private, cohort), now)

        if seal is not None and shards(cohort.mesh) > 1:
            raise ValueError(
                "under a seal clients send whole tables, which here lie in blocks of rows on "
                f"{shards(cohort.mesh)} devices; {rows.ALONE}."
            )
        (private, memory), total, stacks, info, in_order = in_chunks(
            reading, (state.private, state.memory), cohort, c, sent_down
        )
        summary = rows.join(total, stacks)
        if sender.second is not None:
            up, more = info.bytes_up, sender.second.nbytes(summary, now(None))
            info = replace(info, bytes_up=jnp.where(up > 0, up + more, 0))
        finished, update, verdicts = aggregator.finish(
            keys.stream(of_round, "aggregate"), state.server["aggregator"], summary, now(None)
        )
        update = with_its_ids("finish", update)
        update = sender.receive(keys.stream(of_round, "receive"), update, now(None))
        counted = info.weight > 0
        if verdicts is not None:
            verdicts = in_order(verdicts)
            info, counted = replace(info, verdicts=verdicts), counted & (verdicts > 0)
            taken = jnp.where(verdicts > 0, cohort.ids, data.num_clients)
            after = lambda old, new: put(old, taken, at(new, cohort.ids))
            private, memory = after(state.private, private), after(state.memory, memory)

        def stepped():
            moved, shared = optimizer.apply(state.server["optimizer"], state.shared, update)
            new = {"aggregator": finished, "optimizer": moved}, shared
            return trees.typed_as(new, (before, state.shared))  # sums are wider than what is kept

        # Where nobody takes part nothing moves, neither by momentum nor by what is remembered.
        before = {name: state.server[name] for name in ("aggregator", "optimizer")}
        states, shared = jax.lax.cond(counted.any(), stepped, lambda: (before, state.shared))
        if broadcast is not None:
            held, downlink_key = state.server["downlink"], keys.stream(of_round, "downlink")
            got = cohort.ids if cohort.stopped is None else cohort.stopped
            args = downlink_key, held, shared, state.round, served(cohort, got)
            somebody = (cohort.ids < data.num_clients).any()
            states["downlink"] = jax.lax.cond(somebody, broadcast.send, lambda *_: held, *args)
        if timed is not None:
            states["clock"], info = timed.finish(state.server["clock"], cohort, info)
        return State(shared, private, memory, states, state.round + 1), info

    def packets(key, state: State, cohort: Cohort):
        train, of_clients, now = work(key, state, cohort)
        sender = sender_of(state.shared)
        if sender.second is not None:
            ids, everyone = cohort.ids, over_clients(train, state.private, cohort)
            summed = lambda sent: aggregator.reduce(state.server["aggregator"], sent, now(ids))
            args = ids, of_clients.encode(ids), at(state.memory, ids)
            uploads = everyone(ids, state.private)[1]
            return sender.second.packets(*args, uploads, now, summed)

        def one(id, mine, data):
            private, memory = mine
            _, upload, _ = train(id, private, data)
            return sender.one(of_clients.encode(id), memory, upload, now(id))[1]

        return audited(one, (state.private, state.memory), cohort)

    def uploads(key, state: State, cohort: Cohort):
        train = work(key, state, cohort)[0]
        one = lambda id, mine, data: rows.deltas(train(id, mine, data)[1].update)
        return over_clients(one, state.private, cohort)(cohort.ids, state.private)

    begins, examples = beginning(fresh, held), client.examples
    return Strategy(
        begins, round, model, packets, clients_per_chunk, rule, examples, uploads=uploads,
        opened=opening(sender_of) if seal is None else None, together=twice,
    )  # fmt: skip


def at_work(client: Client, key, round, shared: PyTree, cohort: Cohort):
    """(train, keys, now) of a round that starts from `shared`: train(id, private, data) ->
    (private, Upload, bytes down), the `Keys` of its clients, and now(id) -> Now."""
    of_clients, now = client_keys(key, round), now_of(round, shared, cohort)

    def train(id, private, data):
        private, upload = client.update(of_clients.train(id), private, shared, data, now(id))
        # What came down: the dense part of the model, and the rows that the client touched.
        down = upload.down
        if down is None:
            down = wire.nbytes(downloaded(trees.trainable(shared), upload.update))
        down = jnp.where(cohort.data.sizes(id) > 0, down, jnp.uint32(0))
        return private, replace(upload, down=None), down

    return train, of_clients, now
