"""SCAFFOLD: control variates c_k and c take the drift of a client out of its steps.

    y <- y - eta (g_k(y; batch) - c_k + c),      T times from y = x
    c_k' = c_k - c + (x - y) / (T eta),          up: y - x and (c_k' - c_k) / N
    x <- x + mean_k (y_k - x),                   c <- c + sum_k (c_k' - c_k) / N

(Karimireddy et al., ICML 2020, algorithm 1, option II: c_k' is the mean of the g_k.) c stands
beside the model in `shared` as {"model": ..., "control": c}, c_k in `private`; the aggregator adds
what comes up, so that c = mean_k c_k over all N clients, those that were never there included.

Of a table a client knows c at the rows that it touches, and corrects these; on the others, where
its gradients are zero, neither model nor c_k change.

Cost: an array like `shared` for every client, and twice as much sent, both ways.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rows, servers, trees
from ..aggregate import uniform
from ..aggregate.parts import by_part, total
from ..clients import Local, sgd
from ..clients.batches import Passes
from ..clients.optimizers import path_of
from ..clients.training import (
    Terms,
    change,
    first_private,
    kept,
    metrics_of,
    several,
    train,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows import as_update, here, put, zeros_of
from ..types import (
    Aggregator,
    Client,
    Model,
    Now,
    Server,
    Strategy,
    Transform,
    Upload,
)


def scaffold(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """y_k <- y_k - eta (g_k - c_k + c);  x <- x + mean_k (y_k - x);  c <- mean of all c_k.

    Memory: N times the whole of `shared`. An uplink is of both parts; a lossy one lets c drift from
    mean_k c_k.

    Args:
        aggregator: of the model, default `uniform()`.
        server: of the model, default `step(1.0)`.
    """
    passes = Passes(epochs, steps, batch_size)
    client = controlled(model, examples, optimizer or sgd(0.1), passes, probe)

    parts = {"model": aggregator or uniform(), "control": total()}
    both = {
        "model": servers.as_server(server or servers.step(1.0)),
        "control": servers.step(1.0),
    }
    return federated(
        client, beside_control(model), aggregator=by_part(parts), server=servers.by_part(both),
        **assembly,
    )  # fmt: skip


def controlled(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with control variates of the shared parameters.

    `private` is {"model": ..., "control": c_k}: every client keeps an array like the whole of
    `shared`. A step costs the rows of its batch, see `clients.lazy`.

    Raises:
        ValueError: in the round, where the step on a shared parameter is not one of SGD.
    """
    optimizers = several(optimizer)

    def update(key, private, shared, data, now):
        common, own = shared["control"], private["control"]
        server = trees.trainable(shared["model"])

        def corrected(start):
            both = (here(x, start["shared"]) for x in (common, own))
            return Terms(push=jax.tree.map(jnp.subtract, *both))

        trained = train(
            model, batches, optimizers, passes, key, private["model"], shared["model"], data,
            now, terms=corrected,
        )  # fmt: skip
        local, steps = trained.params["shared"], trained.steps

        def option_two(path, y, x, c, mine):
            rate = _rate(optimizers, "shared/" + path_of(path), now)
            mean = (x - y) / (rate * jnp.maximum(steps, 1.0)) - c + mine
            return jnp.where(steps > 0, mean, mine)

        before = rows.dense(trained.start["shared"])
        there = [here(x, local) for x in (common, own)]
        fresh = jax.tree_util.tree_map_with_path(option_two, rows.dense(local), before, *there)
        change_of_own = jax.tree.map(
            lambda new, old: (new - old) / data.store.num_clients, fresh, there[1]
        )
        sent = {
            "model": change(trained, shared["model"]),
            "control": as_update(change_of_own, local, server),
        }
        metrics = metrics_of(trained, probe, model, shared["model"], data)
        after = {"model": kept(trained), "control": put(own, local, fresh)}
        return after, Upload(sent, trained.count, metrics)

    return Client(first_private(beside_control(model)), update)


def _rate(optimizers: Sequence[Local], path: str, now: Now):
    """eta of the leaf at `path`; 1 where it is not trained, and so does not move."""
    rates = [o.rate(path, now) for o in optimizers if o.covers(path)]
    if len(rates) > 1 or None in rates:
        raise ValueError(
            f"controlled(optimizer=...): the control variate of {path} needs steps of SGD; use "
            "clients.sgd, clients.scheduled(sgd, ...) or groups of them."
        )
    return rates[0] if rates else 1.0


def beside_control(model: Model) -> Model:
    """`model` of shared {"model": ..., "control": c} and private {"model": ..., "control": c_k}."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        # Two buffers, since a run gives its state away and may give none away twice.
        zeros = lambda: zeros_of(shared)
        return {"model": shared, "control": zeros()}, {"model": private, "control": zeros()}

    return model.through(lambda shared, private: (shared["model"], private["model"]), init)
