"""Local steps along gradients that know the gradient of all clients, and the server's momentum.

    SVRG       y <- y - eta (g(y; batch) - g(x; batch) + c)
    Mime       y <- y - eta ((1 - beta) (g(y; batch) - g(x; batch) + c) + beta m)
    MimeLite   y <- y - eta ((1 - beta) g(y; batch) + beta m)

x is the server's model, c the gradient of all clients of the round at x, m the server's momentum,
the same in all steps; then m <- beta m + (1 - beta) c (FSVRG: Konecny et al., "Federated
optimization", 2016, algorithm 3; Karimireddy et al., "Mime", NeurIPS 2021, algorithm 1).

Of a table a client has the rows that it touches. On the others its gradients are zero, so that its
T steps make y - x = -T eta d, d what is the same for all, which the server adds by itself: a client
sends of the touched rows what its gradients did besides, and T, and a table is trained as the
array.

`fsvrg` and `mime` make two trips a round: all clients send their gradient at x, then they train.
FSVRG also scales rows by how many clients have them, which `aggregate.per_row()` does; its scaling
of local gradients by frequency (S_k) is left out, since drawn negatives have no frequency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp

from .. import rows, servers, trees, wire
from ..aggregate import mean
from ..aggregate.drift import with_drift
from ..aggregate.parts import by_part
from ..check import fraction
from ..clients import Local
from ..clients.batches import Passes
from ..clients.rates import rated
from ..clients.training import (
    Terms,
    driven_change,
    first_private,
    kept,
    metrics_of,
    path_of,
    several,
    sgd_rate,
    steps_beside,
    train,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rounds.inside import inside
from ..rounds.trips import compressor_of_trip, stage_of_trip
from ..rows import as_update, here, zeros_of
from ..types import (
    Aggregator,
    Client,
    Cohort,
    Compressor,
    Model,
    Packet,
    PyTree,
    Server,
    Stage,
    State,
    Strategy,
    Transform,
    Upload,
)
from .fedsgd import full_gradient, mean_gradient


def fsvrg(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """Two trips: c = mean_k grad f_k(x), then variance-reduced local steps. Arguments that are not
    named here are those of `fedavg`.

    Args:
        kwargs: as in `fedavg`, without `downlink`, `clock` and `deadline`; uplink, stages and
            aggregator are of both trips.

    Example:
        >>> strategy = strategies.fsvrg(model, data.pointwise(4))
    """
    return _after_gradient(model, examples, probe, beta=None, **kwargs)


def mime(model: Model, examples: Batches, probe=None, *, beta: float = 0.9, **kwargs) -> Strategy:
    """`fsvrg` with momentum of the server in local steps; then m <- beta m + (1 - beta) c.
    Arguments that are not named here are those of `fsvrg`.

    Args:
        beta: what a round keeps of m.

    Raises:
        ValueError: outside 0 <= beta <= 1.

    Example:
        >>> strategy = strategies.mime(model, data.pointwise(4), beta=0.9)
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
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """One trip, in which a client sends its change and its gradient at x, and gets x and m.
    Arguments that are not named here are those of `fedavg`.

    Args:
        beta: what a round keeps of m.
        assembly: as in `federated`.

    Raises:
        ValueError: outside 0 <= beta <= 1.

    Example:
        >>> strategy = strategies.mime_lite(model, data.pointwise(4), beta=0.9)
    """
    fraction("mime_lite", "beta", beta)
    passes = Passes(epochs, steps, batch_size)
    optimizers = several(rated(model, optimizer, user_learning_rate, item_learning_rate))
    client = with_momentum(model, examples, optimizers, passes, beta, probe)

    each = aggregator or mean()
    moving = _with_common(each, optimizers, lambda shared: _scaled(shared, beta))
    both = {"model": servers.as_server(server or servers.step(1.0)), "momentum": _averaging(beta)}
    return federated(
        client, beside_common(model, ["momentum"], frozen=False),
        aggregator=by_part({"model": moving, "momentum": each}),
        server=servers.by_part(both), **assembly,
    )  # fmt: skip


def _after_gradient(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    beta: float | None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """A round of gradients, whose mean is put into `shared`, and then one of `variance_reduced`.

    Both see the same examples, and draw what stages and compressors draw each for itself. The state
    of the first is beside that of the second.
    """
    passes, aggregator = Passes(epochs, steps, batch_size), aggregator or mean()
    optimizers = several(rated(model, optimizer, user_learning_rate, item_learning_rate))
    client = variance_reduced(model, examples, optimizers, passes, beta, probe)
    gradients = full_gradient(model, examples, None, None, batch_size)
    first_trip = None if uplink is None else compressor_of_trip(uplink, 1)
    of_gradients = federated(
        gradients, model, first_trip, aggregator, _keeping(), clients_per_chunk,
        stages=[stage_of_trip(stage, 1) for stage in stages],
    )  # fmt: skip
    names = ["gradient"] if beta is None else ["gradient", "momentum"]
    moving = _with_common(aggregator, optimizers, lambda shared: _common(shared, beta))
    training = federated(
        client, beside_common(model, names, frozen=True), uplink, by_part({"model": moving}),
        _with_momentum(servers.as_server(server or servers.step(1.0)), beta),
        clients_per_chunk, stages=stages,
    )  # fmt: skip

    def init(key, num_clients):
        first, state = (each.init(key, num_clients) for each in (of_gradients, training))
        both = lambda name: {"gradient": getattr(first, name), "model": getattr(state, name)}
        return replace(state, memory=both("memory"), server=both("server"))

    def apart(state: State) -> tuple[State, State]:
        parts = lambda name: (state.memory[name], state.server[name])
        first = State(state.shared["model"], state.private, *parts("gradient"), state.round)
        memory, server = parts("model")
        return first, replace(state, memory=memory, server=server)

    def gradient(key, state: State, cohort: Cohort, chunk: int | None = None):
        """(state of the gradients, its info, state of the training with the gradient in it)."""
        first, second = apart(state)
        first, info = of_gradients.round(key, first, cohort, chunk)
        c = trees.Frozen(first.server["optimizer"])
        return first, info, replace(second, shared={**second.shared, "gradient": c})

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        first, before, second = gradient(key, state, cohort, chunk)
        second, info = training.round(key, second, cohort, chunk)
        after = replace(
            second, memory={"gradient": first.memory, "model": second.memory},
            server={"gradient": first.server, "model": second.server},
        )  # fmt: skip
        up, down = info.bytes_up + before.bytes_up, info.bytes_down + before.bytes_down
        rejected = jax.tree.map(jnp.maximum, info.rejected, before.rejected)
        return after, replace(info, bytes_up=up, bytes_down=down, rejected=rejected)

    hears: Any = inside(of_gradients, lambda state: apart(state)[0])
    within, sends = inside(training, lambda state: apart(state)[1]), cast(Any, training)

    def packets(key, state: State, cohort: Cohort):
        """The messages of both trips, of which no other client has changed the first."""
        first, bytes_first = hears.packets(key, state, cohort)
        second, bytes_second = sends.packets(key, gradient(key, state, cohort)[2], cohort)
        return (first, second), bytes_first + bytes_second

    opened = lambda state, trips, *args: hears.opened(state, trips[0], *args)
    return replace(
        within, init=init, round=round, packets=packets, uploads=hears.uploads, opened=opened
    )


def variance_reduced(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    beta: float | None = None,
    probe=None,
) -> Client:
    """SVRG or, given beta, Mime, on the shared parameters.

    `shared` is {"model": ..., "gradient": Frozen(c)}, for Mime with "momentum": Frozen(m), of which
    the model is trained. A batch costs two gradients. Private parameters descend along their own
    gradient.
    """
    optimizers = several(optimizer)

    def beside(start):
        """The gradient less that at the start, times 1 - beta."""

        def direction(gradient, params, batch):
            value, at_now = gradient(params, batch)
            _, then = gradient({**params, "shared": start["shared"]}, batch)
            apart = rows.subtract(at_now["shared"], then["shared"])
            apart = apart if beta is None else rows.scale(apart, 1 - beta)
            return value, {**at_now, "shared": apart}

        return direction

    def common(shared):
        return lambda start: Terms(push=_common(shared, beta, lambda x: here(x, start["shared"])))

    def update(key, private, shared, data, now):
        server = shared["model"]
        trained = train(
            model, batches, optimizers, passes, key, private, server, data, now, beside,
            common(shared),
        )  # fmt: skip
        sent = {**trees.trainable(shared), "model": driven_change(trained, server)}
        # c and, where there is one, m, at the rows that the client touches: it has x already.
        local, server = trained.params["shared"], trees.trainable(server)
        names = ("gradient",) if beta is None else ("gradient", "momentum")
        parts = [as_update(here(shared[name].value, local), local, server) for name in names]
        down = wire.nbytes(Packet(parts))
        metrics = metrics_of(trained, probe, model, shared["model"], data)
        return kept(trained), Upload(
            sent, trained.count, metrics, steps_beside(trained, server), down
        )

    return Client(first_private(model), update, examples=batches)


def with_momentum(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    beta: float = 0.9,
    probe=None,
) -> Client:
    """MimeLite: `shared` is {"model": ..., "momentum": m}; what goes up as "momentum" is the
    gradient of all of the client's examples at x, a pass over them of its own."""
    optimizers = several(optimizer)

    def update(key, private, shared, data, now):
        server, momentum = shared["model"], shared["momentum"]

        def smaller(start):
            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                return value, {**gradients, "shared": rows.scale(gradients["shared"], 1 - beta)}

            return direction

        terms = lambda start: Terms(push=trees.scale(here(momentum, start["shared"]), beta))
        full = Passes(1, None, passes.batch_size)
        mean = mean_gradient(model, batches, full, key, private, server, data)
        trained = train(
            model, batches, optimizers, passes, key, private, server, data, now, smaller, terms
        )
        sent = {
            "model": driven_change(trained, server),
            "momentum": as_update(mean.shared, mean.local, trees.trainable(server)),
        }
        metrics = metrics_of(trained, probe, model, server, data)
        return kept(trained), Upload(sent, trained.count, metrics, steps_beside(trained, server))

    return Client(first_private(model), update, examples=batches)


def _common(shared: PyTree, beta: float | None, arrays: Callable = rows.dense) -> PyTree:
    """What is the same in the steps of all clients, c, or (1 - beta) c + beta m; arrays(tree): of
    all rows, or of some."""
    c = arrays(shared["gradient"].value)
    if beta is None:
        return c
    m, share = arrays(shared["momentum"].value), beta
    return jax.tree.map(lambda c, m: (1 - share) * c + share * m, c, m)


def _scaled(shared: PyTree, beta: float) -> PyTree:
    return trees.scale(rows.dense(shared["momentum"]), beta)


def _with_common(
    aggregator: Aggregator, optimizers: Sequence[Local], common: Callable[[PyTree], PyTree]
) -> Aggregator:
    """`aggregator`, and -eta T common(shared) on every row of tables, T the mean of all steps."""

    def drift(steps, now):
        def one(path, x, d):
            if not rows.is_table(x):
                return None
            path = "shared/" + path_of(path)
            return -sgd_rate("variance_reduced", optimizers, path, now) * steps * d

        server = trees.trainable(now.shared["model"])
        return rows.map_nodes_with_path(one, server, common(now.shared))

    return with_drift(aggregator, lambda upload: upload.aux.get("steps", ()), drift)


def _averaging(beta: float) -> Server:
    """m <- beta m + (1 - beta) c, on every row, for gradients c."""

    def apply(state, shared, update):
        return state, _moved(beta, shared, rows.to_dense(update))

    return Server(lambda shared: (), apply)


def _moved(beta: float, m: PyTree, c: PyTree) -> PyTree:
    """beta m + (1 - beta) c; c: an array a leaf."""
    mixed = jax.tree.map(lambda m, c: beta * m + (1 - beta) * c, rows.dense(m), c)
    return rows.with_values(m, mixed)


def _keeping() -> Server:
    """Leaves the model alone and has as its state the mean gradient, tables as whole tables."""

    def apply(state, shared, update):
        gradient = rows.negative(rows.to_dense(update))
        return rows.with_values(state, gradient), shared

    return Server(zeros_of, apply)


def _with_momentum(server: Server, beta: float | None) -> Server:
    """`server` for the model; and m <- beta m + (1 - beta) c, where there is any momentum."""

    def apply(state, shared, update):
        state, model = server.apply(state, shared["model"], update["model"])
        after = {**shared, "model": model}
        if beta is not None:
            c = rows.dense(shared["gradient"].value)
            after["momentum"] = trees.Frozen(_moved(beta, shared["momentum"].value, c))
        return state, after

    return Server(lambda shared: server.init(shared["model"]), apply)


def beside_common(model: Model, names: Sequence[str], frozen: bool) -> Model:
    """`model` of shared {"model": ..., name: zeros like it}, frozen or not."""
    wrap = trees.Frozen if frozen else (lambda x: x)

    def init(key, common=None):
        shared, private = model.init(key, common)
        return {"model": shared, **{name: wrap(zeros_of(shared)) for name in names}}, private

    return model.through(lambda shared, private: (shared["model"], private), init)
