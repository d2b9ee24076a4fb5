"""SCAFFOLD: control variates c_k and c take the drift of a client out of its steps.

    y <- y - eta (g_k(y; batch) - c_k + c),      T times from y = x
    c_k' = c_k - c + (x - y) / (T eta),          up: y - x and (c_k' - c_k) / N
    x <- x + mean_k (y_k - x),                   c <- c + sum_k (c_k' - c_k) / N

(Karimireddy et al., ICML 2020, algorithm 1, option II: c_k' is the mean of the g_k.) c stands
beside the model in `shared` as {"model": ..., "control": c}, c_k in `private`; the aggregator adds
what comes up, so that c = mean_k c_k over all N clients, those that were never there included.

Of a table a client has the rows that it touches. On the others its gradients are zero, so that

    y - x = -T eta (c - c_k),   c_k' = 0

which the server adds by itself: it knows c, and keeps each c_k too, as it was told it. So what is
sent of a table are the touched rows, of y - x what the gradients alone did and of c_k' all there
is, and T; and a table is trained as the array. Under an uplink that loses something, a server would
know c_k but for what was lost.

Cost: an array like `shared` for every client, and twice as much sent, both ways.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, servers, trees
from ..aggregate import uniform
from ..aggregate.drift import with_drift
from ..aggregate.parts import by_part, total
from ..clients import Local
from ..clients.batches import Passes
from ..clients.optimizers import path_of
from ..clients.rates import rated
from ..clients.training import (
    Terms,
    driven_change,
    first_private,
    kept,
    metrics_of,
    several,
    sgd_rate,
    steps_beside,
    train,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows import as_update, here, put, zeros_of
from ..types import (
    Aggregator,
    Client,
    Model,
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
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """y_k <- y_k - eta (g_k - c_k + c);  x <- x + mean_k (y_k - x);  c <- mean of all c_k.

    Memory: N times the whole of `shared`. An uplink is of both parts; a lossy one lets c drift from
    mean_k c_k. Arguments that are not named here are those of `fedavg`.

    Args:
        aggregator: of the model, default `uniform()`.
        server: of the model, default `step(1.0)`.
        assembly: as in `federated`.

    Raises:
        ValueError: as `controlled`.

    Example:
        >>> strategy = strategies.scaffold(model, data.pointwise(4), optimizer=clients.sgd(0.1))
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    passes = Passes(epochs, steps, batch_size)
    client = controlled(model, examples, local, passes, probe)

    of = lambda a, name: with_drift(a, lambda upload: upload.known[name])
    parts = {
        "model": of(aggregator or uniform(), "model"),
        "control": of(total(), "control"),
    }
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
    `shared`. Beside the update, which of tables is without what c_k - c does on every row, go the
    `steps`; `known` to the server are, of tables, what that does, and -c_k / N. A step costs the
    rows of its batch, see `clients.lazy`.

    Arguments that are not named here are those of `local_training`.

    Args:
        passes: how much a client does in a round.

    Raises:
        ValueError: in the round, where the step on a shared parameter is not one of SGD.

    Example:
        >>> client = strategies.controlled(model, data.pointwise(4), clients.sgd(0.1))
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
        local, steps, clients = trained.params["shared"], trained.steps, data.store.num_clients
        there = (steps > 0).astype(jnp.float32)

        def option_two(path, x, y, before, c, mine):
            """The mean of the client's gradients."""
            rate = sgd_rate("controlled", optimizers, "shared/" + path_of(path), now)
            length = rate * steps
            mean = (before - y) / jnp.where(length > 0, length, 1.0)
            return jnp.where(steps > 0, mean if rows.is_table(x) else mean - c + mine, mine)

        before = rows.dense(trained.start["shared"])
        held = [here(x, local) for x in (common, own)]
        fresh = rows.map_nodes_with_path(
            option_two, local, rows.dense(trained.driven), before, *held
        )
        told = rows.map_nodes(
            lambda x, new, old: (new if rows.is_table(x) else new - old) / clients,
            local, fresh, held[1],
        )  # fmt: skip
        sent = {
            "model": driven_change(trained, shared["model"]),
            "control": as_update(told, local, server),
        }
        of_tables = lambda one: rows.map_nodes(
            lambda mine, c, reach: None if reach is None else one(mine.values, c.values, reach),
            own, common, trained.reach,
        )  # fmt: skip
        known = {
            "model": of_tables(lambda mine, c, reach: reach * (mine - c)),
            "control": of_tables(lambda mine, c, reach: -mine / clients),
        }
        forgotten = rows.map_tables(lambda x: replace(x, values=(1 - there) * x.values), own)
        after = {"model": kept(trained), "control": put(forgotten, local, fresh)}
        metrics = metrics_of(trained, probe, model, shared["model"], data)
        aux = steps_beside(trained, server)
        return after, Upload(sent, trained.count, metrics, aux, known=known)

    # A server that did not get the upload did not move its c.
    stay = lambda before, after: {**after, "control": before["control"]}
    return Client(first_private(beside_control(model)), update, stay, examples=batches)


def beside_control(model: Model) -> Model:
    """`model` of shared {"model": ..., "control": c} and private {"model": ..., "control": c_k}."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        # Two buffers, since a run gives its state away and may give none away twice.
        zeros = lambda: zeros_of(shared)
        return {"model": shared, "control": zeros()}, {"model": private, "control": zeros()}

    return model.through(lambda shared, private: (shared["model"], private["model"]), init)
