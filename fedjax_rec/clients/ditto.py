"""Ditto: beside the common model every client trains one of its own, which is pulled to it.

    w_k <- w_k - eta grad f_k(w_k),                          upload w_k - w
    v_k <- v_k - eta (grad f_k(v_k) + lam (v_k - w)),        kept; it is what scores

(Li et al., "Ditto: fair and robust federated learning through personalization", ICML 2021,
algorithm 1), w the received model. `v_k` starts as the model that a client receives first, and
takes as many steps in a round as w_k. Private parameters of the model have a copy in either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least
from ..rows.fields import ids_of
from ..rows.update import put, zeros_for
from ..types import Client, Model, PyTree, Transform, Upload
from .batches import Passes
from .optimizers import Local
from .training import Trained, change, first_private, kept, metrics_of, moving, several, train


def ditto(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    lam: float = 0.1,
    own_optimizer: Local | Sequence[Local] | Transform | None = None,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training`, and an own model v_k trained on the same batches.

    own_optimizer: of v_k; None is `optimizer`. The probe and `score` see v_k with its own private
    parameters. Metrics: `loss` of w_k, `own_loss` of v_k without the pull.
    The pull acts in every step on all dense leaves of `shared`, and of a table on the rows that the
    batch touches, once each however often they stand in it; the other rows wait for their turn. So
    a row in m of T batches is pulled m times, where the paper pulls it T times. There is no pull on
    private parameters, which w has not.
    Two passes by its mathematics. Memory: N times the whole of `shared`, `private` being
    {"model": ..., "own": {"shared": ..., "private": ...}, "met": bool[]}.
    Raises ValueError for lam < 0.
    """
    at_least("ditto", "lam", lam, 0)
    optimizers = several(optimizer)
    owns = optimizers if own_optimizer is None else several(own_optimizer)

    def update(key, private, shared, data):
        common = train(model, batches, optimizers, passes, key, private["model"], shared, data)
        own = begun(private, shared)
        whole = trees.with_frozen(own["shared"], shared)
        server = trees.trainable(shared)

        def pulled(start):
            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                own = _pull(gradients["shared"], params["shared"], server, batch, lam)
                return value, {**gradients, "shared": own}

            return direction

        mine = train(model, batches, owns, passes, key, own["private"], whole, data, pulled)
        seen = metrics_of(mine, probe, model, whole, data)
        metrics = {**seen, "loss": common.loss, "own_loss": mine.loss}
        own = {"shared": stored(mine, own["shared"]), "private": kept(mine)}
        after = ended(private, {"model": kept(common), "own": own}, common)
        return after, Upload(change(common, shared), common.count, metrics)

    def score(shared, private, items, user=0):
        own = mixed(private["met"].astype(jnp.float32), private["own"]["shared"], shared)
        return model.score(own, private["own"]["private"], items, user)

    def make(now):
        common, own = now[: len(optimizers)], now[len(optimizers) :]
        return ditto(model, batches, common, lam, own, passes, probe)

    return Client(first_own(model), update, moving([*optimizers, *owns], make), score)


def first_own(model: Model):
    """init(key, client) -> {"model": private, "own": {"shared": zeros, "private": private},
    "met": False}: until it is met, `own` is whatever the server has."""
    first = first_private(model)

    def init(key, client):
        private = first(key, client)
        own = {"shared": zeros_for(model), "private": private}
        return {"model": private, "own": own, "met": jnp.bool_(False)}

    return init


def begun(private: PyTree, shared: PyTree) -> PyTree:
    """The client's own model, in its first round the received one."""
    own = private["own"]
    received = trees.trainable(shared)
    return {**own, "shared": trees.select(private["met"], own["shared"], received)}


def ended(private: PyTree, after: PyTree, trained: Trained) -> PyTree:
    """`private` with what is in `after`, for a client that has examples."""
    after = {**private, **after, "met": jnp.bool_(True)}
    return trees.select(trained.count > 0, after, private)


def stored(trained: Trained, tables: PyTree) -> PyTree:
    """`tables`, as in `shared`, with the rows that the client trained."""
    local = trained.params["shared"]
    return put(tables, local, rows.dense(local))


def _pull(gradients: PyTree, own: PyTree, server: PyTree, batch: dict, lam: float) -> PyTree:
    """gradients + lam (own - server), of tables at the rows of the batch, once a row."""

    def one(g, v, w):
        if g is None:
            return None
        if not rows.is_table(v):
            return g + lam * (v - w)
        named = [ids_of(f, batch) for f in v.fields]
        real = [jnp.broadcast_to(trees.leading(batch["mask"], i), i.shape) for i in named]
        ids, real = (jnp.concatenate([x.reshape(-1) for x in xs]) for xs in (named, real))
        # A row that stands in the batch more than once gets its share each time.
        times = jnp.zeros(v.values.shape[0]).at[g.slots].add(real)[g.slots]
        share = lam * real / jnp.maximum(times, 1.0)
        apart = v.values[g.slots] - w.values.at[ids].get(mode="clip")
        return replace(g, values=g.values + share[:, None] * apart)

    is_leaf = lambda x: x is None or rows.is_table(x)
    return jax.tree.map(one, gradients, own, server, is_leaf=is_leaf)


def mixed(alpha: jax.Array, own: PyTree, shared: PyTree) -> PyTree:
    """alpha * own + (1 - alpha) * shared, leaf by leaf; frozen leaves are those of `shared`.

    Tables may be those of a loss (`rows.Gathered`), a server or a client after training.
    """

    def one(a, b):
        if isinstance(a, rows.Gathered):
            some = tuple(blend(x, y) for x, y in zip(a.rows, b.rows, strict=True))
            return replace(a, rows=some)
        if isinstance(a, (rows.Table, rows.Overlay)):
            fields = a.fields if isinstance(a, rows.Table) else a.table.fields
            return rows.Table(blend(a[:], b[:]), fields)
        return blend(a, b)

    blend = lambda x, y: alpha * x + (1 - alpha) * y
    tree = jax.tree.map(one, own, trees.trainable(shared), is_leaf=rows.is_table)
    return trees.with_frozen(tree, shared)
