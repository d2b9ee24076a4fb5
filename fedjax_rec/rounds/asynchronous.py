"""Asynchronous rounds over a simulated clock: a server step as soon as K uploads have come.

    M clients are at work; the K of them that are done first started from versions t_k <= t:
    x_{t+1} = x_t + eta * aggregate_k( s(t - t_k) * u_k ),   s: the weight of what is stale

Recipes: `strategies.fedbuff`, `strategies.fedasync`.

What a client sends depends only on the model at its start, so those who start together are trained
in one vmapped call, as in `federated`, and their uploads are held until the clock says so. A round
is one server step: of the cohort, C = K clients, those start that are not at work already, as long
as fewer than M are; then the next uploads arrive, so many that M - K clients stay at work, and the
time is that of the last of them. That is K with M at work; none while the first M start, when time
stands still; and fewer than K by those of the cohort that were at work already. A client that is
done is replaced at the server step, not before.

s multiplies the update, not its weight in the mean, which for K = 1 would divide it away.

`N` clients, `C` cohort, `M` concurrency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys, trees
from ..aggregate import mean
from ..check import at_least
from ..servers.step import as_server, step
from ..types import (
    Aggregator,
    Client,
    Cohort,
    Compressor,
    Model,
    RoundInfo,
    Server,
    Stage,
    State,
    Strategy,
    Transform,
)
from .chunks import at, in_chunks, put
from .clock import Clock
from .cohort import chunk_of, clients_at_once, kept, now_of, over_clients, vmapped
from .federated import at_work, federated
from .inflight import (
    Held,
    Staleness,
    after_arrival,
    arriving,
    changes,
    constant,
    empty,
    laid_out,
    places_of,
    reserved,
    starters,
    summary_of,
)
from .memory import refuse_too_large
from .rejected import judged
from .selection import of_cohort
from .summaries import with_its_ids
from .timed import check_clients
from .uplink import uplink_of


def asynchronous(
    client: Client,
    model: Model,
    clock: Clock,
    concurrency: int,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    staleness: Staleness | None = None,
    clients_per_chunk: int | None = None,
    held: Held | None = None,
    held_rows: int | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A strategy in which nobody waits for the slowest.

    Where nobody of the cohort can start, up to K uploads arrive, whoever stays at work. RoundInfo:
    metrics, weight and bytes_down are of the clients that start, 0 of those that do not; bytes_up
    of the uploads that arrive, the first in the first place. Metrics are those of the client,
    `client_seconds`, and, the same for all, `simulated_seconds` since the last server step,
    `simulated_time` since the start, `arrived`, how many uploads did, and their mean `staleness`.
    Where none of the uploads that arrive counts, having no weight or by the aggregator's verdict,
    there is no server step. With M = K and a clock that gives all the same time, rounds are those
    of `federated`.

    Args:
        client: as in `federated`.
        model: as in `federated`.
        clock: how long clients take, such as `lognormal_clock()`.
        uplink: as in `federated`.
        aggregator: as in `federated`.
        server: as in `federated`.
        clients_per_chunk: as in `federated`.
        concurrency: `M`, at least the cohort.
        staleness: default `constant()`.
        held: what is in flight, default `changes()`.
        held_rows: rows of a table that are held of an upload, at least what a client may touch;
            default whole tables, M I D numbers.
        stages: as in `federated`.

    Raises:
        ValueError: for M < 1, M above N or below C, and too few `held_rows`.
        MemoryError: where the uploads in flight cannot fit.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> clock = strategies.lognormal_clock()
        >>> strategy = strategies.asynchronous(client, model, clock, concurrency=8)
    """
    at_least("asynchronous", "concurrency", concurrency, 1)
    if held_rows is not None:
        at_least("asynchronous", "held_rows", held_rows, 1)
    aggregator, optimizer = aggregator or mean(), as_server(server or step(1.0))
    stale, held = staleness or constant(), held or changes()
    assembly = federated(
        client, model, uplink, aggregator, optimizer, clients_per_chunk, stages=stages
    )

    def fresh(key, num_clients) -> State:
        state = assembly.init(key, num_clients)
        flight = empty(key, state.shared, uplink, held, concurrency, held_rows, num_clients)
        more = {"flight": flight, "version": jnp.int32(0), "clock": jnp.float32(0)}
        return replace(state, server={**state.server, **more})

    def init(key, num_clients: int) -> State:
        if concurrency > num_clients:
            raise ValueError(
                f"asynchronous(concurrency={concurrency}) is more than the {num_clients} clients "
                f"there are; use concurrency <= {num_clients}."
            )
        outline: Any = jax.eval_shape(lambda k: fresh(k, num_clients), key)
        refuse_too_large(
            "uploads in flight", trees.nbytes(outline.server["flight"]), concurrency,
            "use a lower concurrency, or held_rows=... where clients touch few rows of a table",
        )  # fmt: skip
        return fresh(key, num_clients)

    rule: Any = assembly.chunk

    def start(key, state: State, flight, cohort: Cohort, chunk: int | None):
        """(private, memory, flight, RoundInfo, names of what clients send beside their updates)
        after all of the cohort have trained and sent."""
        before, nobody = trees.trainable(state.shared), cohort.data.num_clients
        clock_key = keys.stream(jax.random.fold_in(key, state.round), "clock")
        train, of_clients, now = at_work(client, key, state.round, state.shared, cohort)
        sender = uplink_of(uplink, stages, state.shared)
        everyone = over_clients(train, state.private, cohort)
        outline = jax.eval_shape(everyone, cohort.ids[:1], state.private)[1]
        _check_aux(outline.aux)
        _check_known(outline.known)
        c = clients_at_once(chunk, rule, key, state, cohort)

        def played(held_now, ids):
            private, memory, flight = held_now
            here, upload, down = everyone(ids, private)
            change = upload.update
            remembered, upload, up = sender.chunk(
                ids, of_clients.encode(ids), at(memory, ids), upload, now
            )
            keep, upload, rejected = judged(ids, nobody, here, change, upload)
            weight = upload.weight
            took = clock.seconds(clock_key, ids, weight, down, up)
            hold = vmapped(
                lambda update: held.hold(before, laid_out(update, held_rows)), upload.update
            )
            sent = {"seconds": took, "weight": weight, "bytes": up, "held": hold(upload.update)}
            sent["steps"] = upload.aux.get("steps", jnp.zeros_like(weight))
            places = places_of(flight, ids, nobody)
            flight = {**flight, **{k: put(flight[k], places, x) for k, x in sent.items()}}
            metrics = {**upload.metrics, "client_seconds": took}
            info = RoundInfo(metrics, weight, up, down, rejected=rejected)
            here = kept(client, weight, at(private, ids), here)
            return (put(private, keep, here), put(memory, keep, remembered), flight), (), (), info

        begin = state.private, state.memory, flight
        after, _, _, info, _ = in_chunks(played, begin, cohort, c)
        return *after, info, tuple(outline.aux)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        check_clients(clock, cohort)
        if cohort.mesh is not None:
            raise ValueError(
                "asynchronous: what clients send waits in one place, so they are played on one "
                "device; use devices=1."
            )
        count, nobody = cohort.ids.shape[0], cohort.data.num_clients
        if count > concurrency:
            raise ValueError(
                f"asynchronous(concurrency={concurrency}) is below the cohort of {count}, whose "
                f"number of uploads makes a server step; use concurrency >= {count}."
            )
        of_round, before = jax.random.fold_in(key, state.round), state.server
        ids = starters(keys.stream(of_round, "start"), before["flight"], cohort)
        flight = reserved(before["flight"], ids, before["version"], nobody)
        starting = replace(cohort, ids=ids)
        private, memory, flight, info, aux = start(key, state, flight, starting, chunk)

        places, there = arriving(flight, count, nobody)
        due = (flight["ids"] < nobody).sum() - (concurrency - count)
        there &= jnp.arange(count) < jnp.where((ids == nobody).all(), count, due)
        weight = jnp.where(there, flight["weight"][places], 0.0)
        # Where nothing that came weighs anything, nothing moves, by momentum neither.
        some = (weight > 0).any()
        took = jnp.where(there, flight["seconds"][places], 0.0).max()
        tau = jnp.where(there, before["version"] - flight["version"][places], 0)
        tau = tau.astype(jnp.float32)

        def stepped():
            latest, now = trees.trainable(state.shared), now_of(state.round, state.shared, cohort)
            nbytes = trees.nbytes(flight["held"]) // concurrency
            c = chunk_of(chunk or clients_per_chunk, nbytes, cohort)
            summary = summary_of(
                aggregator, before["aggregator"], now(None), lambda x: held.release(latest, x),
                flight, aux, places, weight, stale.weight(tau), c,
            )  # fmt: skip
            aggregate_key = keys.stream(of_round, "aggregate")
            finished, update, verdicts = aggregator.finish(
                aggregate_key, before["aggregator"], summary, now(None)
            )
            update = with_its_ids("finish", update)
            update = uplink_of(uplink, stages).receive(
                keys.stream(of_round, "receive"), update, now(None)
            )
            after = finished, *optimizer.apply(before["optimizer"], state.shared, update)
            after = trees.typed_as(after, same)  # sums are wider than what is kept
            if verdicts is None:
                return after, jnp.bool_(True)
            taken = ((verdicts[:count] > 0) & (weight > 0)).any()
            return trees.select(taken, after, same), taken

        same = before["aggregator"], before["optimizer"], state.shared
        args = some, stepped, lambda: (same, jnp.bool_(False))
        (finished, moved, shared), steps = jax.lax.cond(*args)
        now = before["clock"] + took
        states = {"aggregator": finished, "optimizer": moved, "clock": now}
        states["flight"] = after_arrival(flight, places, there, took, nobody)
        states["version"] = before["version"] + steps

        everybody = {"simulated_seconds": took, "simulated_time": now, "arrived": there.sum()}
        everybody["staleness"] = tau.sum() / jnp.maximum(there.sum(), 1)
        alike = {k: jnp.full(count, x, jnp.float32) for k, x in everybody.items()}
        info = of_cohort(replace(info, metrics={**info.metrics, **alike}), ids, cohort)
        info = replace(info, bytes_up=jnp.where(there, flight["bytes"][places], jnp.uint32(0)))
        return State(shared, private, memory, states, state.round + 1), info

    return replace(assembly, init=init, round=round, delayed=True)


def _check_aux(aux) -> None:
    """Raises ValueError where clients send what a buffer of uploads does not hold."""
    more = sorted(set(aux) - {"steps"})
    if more:
        raise ValueError(
            f"asynchronous(client) sends {more[0]!r} beside its update, which uploads in flight do "
            "not hold; use a client that sends `steps` or nothing."
        )


def _check_known(known) -> None:
    """Raises ValueError where the server keeps something of each client that its upload moves."""
    if known:
        raise ValueError(
            f"asynchronous(client): the server knows {sorted(known)[0]!r} of it, which is another "
            "when the upload arrives; use a client such as clients.local_training."
        )
