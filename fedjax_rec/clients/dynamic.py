"""FedDyn: a linear and a proximal term make the local optima of all clients meet.

    x_k <- x_k - eta (grad f_k(x_k; batch) - h_k + alpha (x_k - x))
    h_k <- h_k - alpha (x_k - x), after the round

(Acar et al., "Federated learning based on dynamic regularization", ICLR 2021, algorithm 1.) h_k is
kept by the client; the server's part is in `strategies.corrected`. Of a table both terms act on the
rows that the client touches in the round.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rows
from ..check import positive
from ..rows.update import here, put, zeros_for
from ..types import Client, Model, Transform, Upload
from .batches import Passes
from .control import score_of
from .optimizers import Local
from .training import Terms, change, first_private, kept, metrics_of, moving, several, train


def dynamic(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    alpha: float,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` of f_k - <h_k, x> + alpha/2 |x - x0|^2, shared parameters.

    `shared` is {"model": ...}. The metric `share` is 1/N, by which the server, who knows how many
    clients there are, counts what part of them was there. `private` is {"model": ..., "linear":
    h_k}, an array like the whole of `shared`. A step of SGD costs the rows of its batch, see
    `drift`.
    Raises ValueError for alpha <= 0.
    """
    positive("dynamic", "alpha", alpha)
    optimizers, first = several(optimizer), first_private(model)

    def init(key, client):
        return {"model": first(key, client), "linear": zeros_for(model)}

    def update(key, private, shared, data):
        linear, server = private["linear"], shared["model"]

        def regularized(start):
            return Terms(alpha, jax.tree.map(jnp.negative, here(linear, start["shared"])))

        trained = train(
            model, batches, optimizers, passes, key, private["model"], server, data,
            terms=regularized,
        )  # fmt: skip
        local = trained.params["shared"]
        moved = lambda h, x, x0: h - alpha * (x - x0)
        values = rows.dense(local), rows.dense(trained.start["shared"])
        after = {
            "model": kept(trained),
            "linear": put(linear, local, jax.tree.map(moved, here(linear, local), *values)),
        }
        share = jnp.where(trained.count > 0, 1.0 / data.store.num_clients, 0.0)
        metrics = {**metrics_of(trained, probe, model, server, data), "share": share}
        sent = {"model": change(trained, server)}
        return after, Upload(sent, trained.count, metrics)

    at = moving(optimizers, lambda now: dynamic(model, batches, now, alpha, passes, probe))
    return Client(init, update, at, score_of(model))
