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

import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least
from ..clients import Local
from ..clients.batches import Passes
from ..clients.own import begun, ended, mixed, stored, with_own
from ..clients.rates import rated
from ..clients.training import (
    change,
    first_private,
    kept,
    metrics_of,
    several,
    train,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows.fields import ids_of
from ..types import (
    Client,
    Model,
    PyTree,
    Strategy,
    Transform,
    Upload,
)

Optimizer = Local | Sequence[Local] | Transform


def ditto(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    lam: float = 0.1,
    optimizer: Optimizer | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    own_optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """v_k <- v_k - eta (grad f_k(v_k) + lam (v_k - w)), beside `fedavg` of w; see `ditto_client`.

    The probe and the evaluation see v_k. Two passes by its mathematics.
    Arguments that are not named here are those of `fedavg`.

    Args:
        lam: how hard v_k is pulled to w; 0 is local training alone.
        own_optimizer: of v_k; default the optimizer of w_k.
        assembly: as in `federated`.

    Raises:
        ValueError: for lam < 0.

    Example:
        >>> strategy = strategies.ditto(model, data.pointwise(4), lam=0.1)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = ditto_client(
        model, examples, local, lam, own_optimizer,
        Passes(epochs, steps, batch_size), probe,
    )  # fmt: skip
    return federated(client, own(model), **assembly)


def own(model: Model) -> Model:
    """`model` with clients that score with v_k, see `clients.own`."""

    def view(shared, private):
        share = private["met"].astype(jnp.float32)
        return mixed(share, private["own"]["shared"], shared), private["own"]["private"]

    return model.through(view, with_own(model))


def ditto_client(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    lam: float = 0.1,
    own_optimizer: Local | Sequence[Local] | Transform | None = None,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training`, and an own model v_k trained on the same batches.

    Metrics: `loss` of w_k, `own_loss` of v_k without the pull. The pull acts in every step on all
    dense leaves of `shared`, and of a table on the rows that the batch touches, once each however
    often they stand in it; the other rows wait for their turn. So a row in m of T batches is pulled
    m times, where the paper pulls it T times. There is no pull on private parameters, which w has
    not. Two passes by its mathematics. Memory: N times the whole of `shared`, `private` being
    {"model": ..., "own": {"shared": ..., "private": ...}, "met": bool[]}.

    Arguments that are not named here are those of `local_training`.

    Args:
        optimizer: of w_k.
        lam: how hard v_k is pulled to w.
        own_optimizer: of v_k; None is `optimizer`.
        passes: how much a client does in a round, to either model.
        probe: sees v_k with its own private parameters.

    Raises:
        ValueError: for lam < 0.

    Example:
        >>> client = strategies.ditto_client(model, data.pointwise(4), clients.sgd(0.1), lam=0.1)
    """
    at_least("ditto", "lam", lam, 0)
    optimizers = several(optimizer)
    owns = optimizers if own_optimizer is None else several(own_optimizer)

    def update(key, private, shared, data, now):
        common = train(model, batches, optimizers, passes, key, private["model"], shared, data, now)
        held = begun(private, shared)
        whole = trees.with_frozen(held["shared"], shared)
        server = trees.trainable(shared)

        def pulled(start):
            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                mine = _pull(gradients["shared"], params["shared"], server, batch, lam)
                return value, {**gradients, "shared": mine}

            return direction

        mine = train(model, batches, owns, passes, key, held["private"], whole, data, now, pulled)
        seen = metrics_of(mine, probe, model, whole, data)
        metrics = {**seen, "loss": common.loss, "own_loss": mine.loss}
        held = {"shared": stored(mine, held["shared"]), "private": kept(mine)}
        after = ended(private, {"model": kept(common), "own": held}, common)
        return after, Upload(change(common, shared), common.count, metrics)

    return Client(first_private(own(model)), update, examples=batches)


def _pull(gradients: PyTree, own: PyTree, server: PyTree, batch: dict, lam: float) -> PyTree:
    """gradients + lam (own - server), of tables at the rows of the batch, once a row."""

    def one(g, v, w):
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

    return rows.map_nodes(one, gradients, own, server)
