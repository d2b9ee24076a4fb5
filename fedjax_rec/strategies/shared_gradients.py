"""Clients that share gradients: alone, or before they train.

- `fedsgd`     x <- x - eta sum_k n_k/n grad f_k(x): one gradient a client, one step of the server
               (McMahan et al., AISTATS 2017)
- `fsvrg`      local steps along g(y) - g(x) + c, c the gradient of all (Konecny et al., 2016)
- `mime`       the same, with the server's momentum in every local step (Karimireddy et al., NeurIPS
               2021), and `mime_lite` without g(x) and c

`fsvrg` and `mime` make two trips a round: all clients send their gradient at x, then they train.
FSVRG also scales rows by how many clients have them, which `aggregate.per_row()` does; its scaling
of local gradients by frequency (S_k) is left out, since drawn negatives have no frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees, wire
from ..aggregate import mean
from ..aggregate.parts import by_part
from ..check import fraction
from ..clients import Local, full_gradient, sgd
from ..clients.batches import Passes
from ..clients.variance_reduced import variance_reduced, with_momentum
from ..data import Batches
from ..rounds.federated import federated
from ..rows.update import zeros_of
from ..servers import step as servers
from ..types import (
    Aggregator,
    Cohort,
    Compressor,
    Model,
    Packet,
    PyTree,
    Server,
    State,
    Strategy,
    Transform,
)


def fedsgd(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    private: Local | Transform | None = None,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """Gradient sharing. server: default `step(0.1)`, whose rate is that of SGD.

    private: the optimizer of private parameters, which take one step a round; default `sgd(0.1)`.
    steps: batches of a client whose gradients are added up, one for a small batch; default all of
    its examples. assembly: as in `federated`.
    To step only every m rounds: `server=optax.MultiSteps(...).gradient_transformation()`.
    """
    client = full_gradient(model, examples, private or sgd(0.1), steps, batch_size, probe)
    return federated(
        client, lambda key: model.init(key)[0], aggregator=aggregator or mean(),
        server=server or servers.step(0.1), **assembly,
    )  # fmt: skip


def fsvrg(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """Two trips: c = mean_k grad f_k(x), then variance-reduced local steps.

    kwargs: optimizer of the clients, default `sgd(0.1)`; epochs, steps, batch_size; uplink and
    aggregator of both trips, the latter default `mean()`; server, clients_per_chunk.
    """
    return _after_gradient(model, examples, probe, beta=0.0, **kwargs)


def mime(model: Model, examples: Batches, probe=None, *, beta: float = 0.9, **kwargs) -> Strategy:
    """`fsvrg` with momentum of the server in local steps; then m <- beta m + (1 - beta) c.

    kwargs: as in `fsvrg`. Raises ValueError outside 0 <= beta <= 1.
    """
    fraction("mime", "beta", beta)
    return _after_gradient(model, examples, probe, beta=beta, **kwargs)


def mime_lite(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    beta: float = 0.9,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """One trip, in which a client sends its change and its gradient at x, and gets x and m.

    assembly: as in `federated`. Raises ValueError outside 0 <= beta <= 1.
    """
    fraction("mime_lite", "beta", beta)
    passes = Passes(epochs, steps, batch_size)
    client = with_momentum(model, examples, optimizer or sgd(0.1), passes, beta, probe)

    def init_shared(key):
        shared = model.init(key)[0]
        return {"model": shared, "momentum": zeros_of(shared)}

    each = aggregator or mean()
    both = {"model": servers.as_server(server or servers.step(1.0)), "momentum": _averaging(beta)}
    return federated(
        client, init_shared, aggregator=by_part({"model": each, "momentum": each}),
        server=servers.by_part(both), **assembly,
    )  # fmt: skip


def _averaging(beta: float) -> Server:
    """m <- beta m + (1 - beta) c, on every row, for gradients c."""

    def apply(state, shared, update):
        return state, _moved(beta, shared, rows.map_tables(rows.to_dense, update))

    return Server(lambda shared: (), apply)


def _moved(beta: float, m: PyTree, c: PyTree) -> PyTree:
    """beta m + (1 - beta) c; c: an array a leaf."""
    mixed = jax.tree.map(lambda m, c: beta * m + (1 - beta) * c, rows.dense(m), c)
    return servers.with_values(m, mixed)


def _keeping() -> Server:
    """Leaves the model alone and has as its state the mean gradient, tables as whole tables."""

    def apply(state, shared, update):
        gradient = jax.tree.map(jnp.negative, rows.map_tables(rows.to_dense, update))
        return servers.with_values(state, gradient), shared

    return Server(zeros_of, apply)


def _with_momentum(server: Server, beta: float) -> Server:
    """`server` for the model; and m <- beta m + (1 - beta) c, where there is any momentum."""

    def apply(state, shared, update):
        state, model = server.apply(state, shared["model"], update["model"])
        after = {**shared, "model": model}
        if beta:
            c = rows.dense(shared["gradient"].value)
            after["momentum"] = trees.Frozen(_moved(beta, shared["momentum"].value, c))
        return state, after

    return Server(lambda shared: server.init(shared["model"]), apply)


def _after_gradient(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    beta: float,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | None = None,
) -> Strategy:
    """A round of gradients, whose mean is put into `shared`, and then one of `variance_reduced`.

    Both see the same examples. The state of the first is beside that of the second.
    """
    passes, aggregator = Passes(epochs, steps, batch_size), aggregator or mean()
    client = variance_reduced(model, examples, optimizer or sgd(0.1), passes, beta, probe)
    gradients = full_gradient(model, examples, None, None, batch_size)
    of_gradients = federated(
        gradients, lambda key: model.init(key)[0], uplink, aggregator, _keeping(),
        clients_per_chunk,
    )  # fmt: skip

    def init_shared(key):
        shared = model.init(key)[0]
        names = ("gradient", "momentum") if beta else ("gradient",)
        return {"model": shared, **{name: trees.Frozen(zeros_of(shared)) for name in names}}

    training = federated(
        client, init_shared, uplink, by_part({"model": aggregator}),
        _with_momentum(servers.as_server(server or servers.step(1.0)), beta),
        clients_per_chunk,
    )  # fmt: skip

    def init(key, num_clients):
        first = of_gradients.init(key, num_clients)
        state = training.init(key, num_clients)
        both = lambda name: {"gradient": getattr(first, name), "model": getattr(state, name)}
        return replace(state, memory=both("memory"), server=both("server"))

    def apart(state: State) -> tuple[State, State]:
        memory, held = state.memory, state.server
        first = State(
            state.shared["model"], state.private, memory["gradient"], held["gradient"], state.round
        )
        return first, replace(state, memory=memory["model"], server=held["model"])

    def gradient(key, state: State, cohort: Cohort):
        """(state of the gradients, its info, state of the training with the gradient in it)."""
        first, second = apart(state)
        first, info = of_gradients.round(key, first, cohort)
        c = trees.Frozen(first.server["optimizer"])
        return first, info, replace(second, shared={**second.shared, "gradient": c})

    def round(key, state: State, cohort: Cohort):
        first, before, second = gradient(key, state, cohort)
        second, info = training.round(key, second, cohort)
        after = replace(
            second,
            memory={"gradient": first.memory, "model": second.memory},
            server={"gradient": first.server, "model": second.server},
        )
        up, down = info.bytes_up + before.bytes_up, info.bytes_down + before.bytes_down
        return after, replace(info, bytes_up=up, bytes_down=down)

    def packets(key, state: State, cohort: Cohort):
        """Both trips as one message, which is a header of 3 bytes or so less than two."""
        first, _ = apart(state)
        _, _, second = gradient(key, state, cohort)
        trips = [(of_gradients.packets, first), (training.packets, second)]
        sent = [send(key, at, cohort) for send, at in trips if send is not None]
        part = lambda name: [getattr(packet, name) for packet, _ in sent]
        packet = Packet(part("body"), part("side"), part("known"))
        return packet, jax.vmap(wire.nbytes)(packet)

    return Strategy(init, round, packets, client.score)
