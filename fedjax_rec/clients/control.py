"""SCAFFOLD: control variates c_k and c take the drift of a client out of its steps.

    y <- y - eta (g_k(y; batch) - c_k + c),      T times from y = x
    c_k' = mean_t g_k(y_t; batch t),             up: y - x and (c_k' - c_k) / N

(Karimireddy et al., ICML 2020, algorithm 1.) For SGD the mean gradient is its option II,
c_k - c + (x - y) / (T eta), and it holds for other optimizers too. c stands beside the model in
`shared` as {"model": ..., "control": c}, c_k in `private`; the aggregator adds what comes up, so
that c = mean_k c_k over all N clients, those that were never there included.

Of a table a client knows c at the rows that it touches, and corrects these; on the others, where
its gradients are zero, neither model nor c_k change.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import trees
from ..rows import is_table
from ..types import Client, Model, Transform, Upload
from .corrections import as_update, here, plus, put, remembering, zeros_of
from .local import change, first_private, kept, metrics_of, moving, several, train
from .optimizers import Local
from .turns import Passes


def controlled(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with control variates of the shared parameters.

    `private` is {"model": ..., "control": c_k}: every client keeps an array like the whole of
    `shared`. A step costs the client's whole local tables.
    """
    plain = several(optimizer)
    optimizers = [remembering(o) for o in plain]
    first = first_private(model)

    def init(key, client):
        shared = jax.eval_shape(model.init, key)[0]
        return {"model": first(key, client), "control": zeros_of(shared)}

    def update(key, private, shared, data):
        common, own = shared["control"], private["control"]
        server = trees.trainable(shared["model"])

        def corrected(start):
            local = start["shared"]
            term = jax.tree.map(jnp.subtract, here(common, local), here(own, local))

            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                return value, plus(gradients, term)

            return direction

        trained = train(
            model, batches, optimizers, passes, key, private["model"], shared["model"], data,
            corrected,
        )  # fmt: skip
        local, steps = trained.params["shared"], trained.steps
        sums = [state["sum"] for state in trained.states]
        there = [here(x, local) for x in (common, own)]

        def mean(x, c, mine, *sums):
            # What was added up holds the term of dense leaves, and not that of tables.
            total = sum(sums) / jnp.maximum(steps, 1.0)
            return jnp.where(steps > 0, total if is_table(x) else total - (c - mine), mine)

        fresh = jax.tree.map(mean, local, *there, *sums, is_leaf=is_table)
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

    at = moving(plain, lambda now: controlled(model, batches, now, passes, probe))
    return Client(init, update, at, score_of(model))


def score_of(model: Model):
    """`model.score` for clients whose `shared` and `private` hold the model under "model"."""
    return lambda shared, private, items, user=0: model.score(
        shared["model"], private["model"], items, user
    )
