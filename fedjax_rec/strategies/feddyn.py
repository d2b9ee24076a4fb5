"""FedDyn: a linear and a proximal term make the local optima of all clients meet.

    x_k <- x_k - eta (grad f_k(x_k; batch) - h_k + alpha (x_k - x))
    h_k <- h_k - alpha (x_k - x), after the round
    h <- h - alpha/N sum_k (x_k - x);   x <- x + mean_k (x_k - x) - h / alpha

(Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, algorithm 1.) h_k is
kept by the client, h by the server, and h = mean_k h_k over all N.

Of a table a client has the rows that it touches. On the others its gradient is zero, so that T
steps make, with a = 1 - eta alpha,

    x_k - x = (1 - a^T) / alpha h_k,   h_k <- a^T h_k

which the server adds by itself: it keeps each h_k too, as it can tell it from what the client sent.
So what is sent are the touched rows, and T, and a table is trained as the array; under an uplink
that loses something, a server would know h_k but for what was lost.

Cost: an array like `shared` for every client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, servers, trees
from ..aggregate import uniform
from ..aggregate.drift import with_drift
from ..aggregate.parts import each_of, total
from ..check import positive
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
from ..rows import here, put, zeros_of
from ..types import (
    Aggregator,
    Client,
    Model,
    Server,
    Strategy,
    Transform,
    Upload,
)


def feddyn(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.1,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """h <- h - alpha/N sum_k (x_k - x);  x <- x + mean_k (x_k - x) - h / alpha.

    Memory: N times the whole of `shared`. Arguments that are not named here are those of `fedavg`.

    Args:
        alpha: large is short steps.
        aggregator: of x_k - x, default `uniform()`.
        assembly: as in `federated`.

    Raises:
        ValueError: as `dynamic`.

    Example:
        >>> strategy = strategies.feddyn(model, data.pointwise(4), alpha=0.1)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    passes = Passes(epochs, steps, batch_size)
    client = dynamic(model, examples, local, alpha, passes, probe)
    return federated(
        client,
        beside_linear(model),
        aggregator=_with_sum(aggregator or uniform()),
        server=_dynamic_server(alpha),
        **assembly,
    )


def dynamic(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    alpha: float,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` of f_k - <h_k, x> + alpha/2 |x - x0|^2, shared parameters.

    `shared` is {"model": ...}, `private` is {"model": ..., "linear": h_k}, an array like the whole
    of `shared`. Beside the update, which of tables is without what h_k does on every row, go the
    `steps`; `known` to the server are `share`, 1/N, and `drift`, what h_k does. A step of SGD costs
    the rows of its batch, see `clients.lazy`.

    Arguments that are not named here are those of `local_training`.

    Args:
        alpha: of the quadratic term.
        passes: how much a client does in a round.

    Raises:
        ValueError: for alpha <= 0, and in the round where the step on a table is not one of SGD.

    Example:
        >>> client = strategies.dynamic(model, data.pointwise(4), clients.sgd(0.1), alpha=0.1)
    """
    positive("dynamic", "alpha", alpha)
    optimizers = several(optimizer)

    def update(key, private, shared, data, now):
        linear, server = private["linear"], shared["model"]

        def regularized(start):
            for path, x in rows.nodes_with_path(start["shared"]):
                if rows.is_table(x):
                    sgd_rate("dynamic", optimizers, "shared/" + path_of(path), now)
            return Terms(alpha, jax.tree.map(jnp.negative, here(linear, start["shared"])))

        trained = train(
            model, batches, optimizers, passes, key, private["model"], server, data, now,
            terms=regularized,
        )  # fmt: skip
        local, driven = trained.params["shared"], rows.dense(trained.driven)
        # What h_k alone does: on every row of a table, nothing apart on other leaves.
        drift = rows.map_nodes(
            lambda h, reach: None if reach is None else reach * h.values, linear, trained.reach
        )
        waned = rows.map_nodes(
            lambda h, by: h if by is None else replace(h, values=h.values - alpha * by),
            linear, drift,
        )  # fmt: skip
        moved = jax.tree.map(
            lambda h, x, x0: h - alpha * (x - x0),
            here(waned, local), driven, rows.dense(trained.start["shared"]),
        )  # fmt: skip
        after = {"model": kept(trained), "linear": put(waned, local, moved)}
        metrics = metrics_of(trained, probe, model, server, data)
        share = jnp.where(trained.count > 0, 1.0 / data.store.num_clients, 0.0)
        return after, Upload(
            {"model": driven_change(trained, server)}, trained.count, metrics,
            steps_beside(trained, server),
            known={"share": share, "drift": drift},
        )  # fmt: skip

    # A server that did not get the upload did not move its h.
    stay = lambda before, after: {**after, "linear": before["linear"]}
    return Client(first_private(beside_linear(model)), update, stay, examples=batches)


def beside_linear(model: Model) -> Model:
    """`model` of shared {"model": ...} and private {"model": ..., "linear": h_k}."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        return {"model": shared}, {"model": private, "linear": zeros_of(shared)}

    return model.through(lambda shared, private: (shared["model"], private["model"]), init)


def _with_sum(aggregator: Aggregator) -> Aggregator:
    """{"model": what `aggregator` makes of the model, "sum": sum_k share_k u_k}."""

    def model_of(uploads: Upload) -> Upload:
        return replace(uploads, update=uploads.update["model"])

    everywhere = lambda a: with_drift(a, lambda upload: upload.known["drift"])
    parts = {
        "model": (everywhere(aggregator), model_of),
        "sum": (everywhere(_by_share()), model_of),
    }
    return each_of(parts, lambda shared, name: shared["model"])


def _by_share() -> Aggregator:
    """sum_k share_k u_k over the clients that weigh something."""

    def reduce(state, uploads: Upload, now):
        return rows.weighted_sum(
            jnp.where(uploads.weight > 0, uploads.known["share"], 0.0), uploads.update
        )

    return replace(total(), reduce=reduce)


def _dynamic_server(alpha: float) -> Server:
    """State h, arrays like the trainable part of the model."""
    move = servers.step(1.0)

    def init(shared):
        return rows.dense(zeros_of(shared["model"]))

    def apply(h, shared, update):
        values = rows.to_dense(update["sum"])
        h = trees.subtract(h, trees.scale(values, alpha))
        _, model = move.apply((), shared["model"], update["model"])
        before = trees.trainable(model)
        lowered = trees.subtract(rows.dense(before), trees.scale(h, 1 / alpha))
        after = rows.with_values(before, lowered)
        return h, {**shared, "model": trees.with_frozen(after, shared["model"])}

    return Server(init, apply)
