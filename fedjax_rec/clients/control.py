"""SCAFFOLD: control variates c_k and c take the drift of a client out of its steps.

    y <- y - eta (g_k(y; batch) - c_k + c),      T times from y = x
    c_k' = c_k - c + (x - y) / (T eta),          up: y - x and (c_k' - c_k) / N

(Karimireddy et al., ICML 2020, algorithm 1, option II: c_k' is the mean of the g_k.) c stands
beside the model in `shared` as {"model": ..., "control": c}, c_k in `private`; the aggregator adds
what comes up, so that c = mean_k c_k over all N clients, those that were never there included.

Of a table a client knows c at the rows that it touches, and corrects these; on the others, where
its gradients are zero, neither model nor c_k change.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..rows.update import as_update, here, put, zeros_for
from ..types import Client, Model, Transform, Upload
from .batches import Passes
from .optimizers import Local, path_of
from .training import Terms, change, first_private, kept, metrics_of, moving, several, train


def controlled(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with control variates of the shared parameters.

    `private` is {"model": ..., "control": c_k}: every client keeps an array like the whole of
    `shared`. A step costs the rows of its batch, see `drift`. Raises ValueError, in the round,
    where the step on a shared parameter is not one of SGD.
    """
    optimizers = several(optimizer)
    first = first_private(model)

    def init(key, client):
        return {"model": first(key, client), "control": zeros_for(model)}

    def update(key, private, shared, data):
        common, own = shared["control"], private["control"]
        server = trees.trainable(shared["model"])

        def corrected(start):
            both = (here(x, start["shared"]) for x in (common, own))
            return Terms(push=jax.tree.map(jnp.subtract, *both))

        trained = train(
            model, batches, optimizers, passes, key, private["model"], shared["model"], data,
            terms=corrected,
        )  # fmt: skip
        local, steps = trained.params["shared"], trained.steps

        def option_two(path, y, x, c, mine):
            rate = _rate(optimizers, "shared/" + path_of(path))
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

    at = moving(optimizers, lambda now: controlled(model, batches, now, passes, probe))
    return Client(init, update, at, score_of(model))


def _rate(optimizers: Sequence[Local], path: str):
    """eta of the leaf at `path`; 1 where it is not trained, and so does not move."""
    rates = [o.rate(path) for o in optimizers if o.covers(path)]
    if len(rates) > 1 or None in rates:
        raise ValueError(
            f"controlled(optimizer=...): the control variate of {path} needs steps of SGD; use "
            "clients.sgd, clients.scheduled(sgd, ...) or groups of them."
        )
    return rates[0] if rates else 1.0


def score_of(model: Model):
    """`model.score` for clients whose `shared` and `private` hold the model under "model"."""
    return lambda shared, private, items, user=0: model.score(
        shared["model"], private["model"], items, user
    )
