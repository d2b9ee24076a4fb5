"""APFL: every client scores with a mixture of the common model and one of its own.

    w_k <- w_k - eta grad f_k(w_k),                       upload w_k - w
    v_k <- v_k - eta alpha_k grad f_k(u_k),               u_k = alpha_k v_k + (1 - alpha_k) w_k
    alpha_k <- alpha_k - rate <v_k - w_k, grad f_k(u_k)>, clipped to [0, 1], in a round's first step

(Deng, Kamani & Mahdavi, "Adaptive personalized federated learning", 2020, algorithm 1 and equation
10.) All of a step are taken at once, on one batch. `v_k` starts as the model that a client receives
first. Private parameters of the model have a copy in either, which are mixed likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, fraction
from ..clients import Local
from ..clients.batches import Passes
from ..clients.own import begun, ended, mixed, with_own
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
from ..rows import put
from ..types import (
    Client,
    Model,
    PyTree,
    Strategy,
    Transform,
    Upload,
)

Optimizer = Local | Sequence[Local] | Transform


def apfl(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.5,
    alpha_rate: float | None = None,
    optimizer: Optimizer | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """v_k <- v_k - eta alpha grad f_k(alpha v_k + (1 - alpha) w_k), in the loop of `fedavg` of w;
    see `apfl_client`.

    The probe and the evaluation see the mixture. Two gradients a batch by its mathematics.
    Arguments that are not named here are those of `fedavg`.

    Args:
        alpha: at the start, the share of v_k; 1 is local training alone.
        alpha_rate: of alpha, once a round; None keeps it.
        assembly: as in `federated`.

    Raises:
        ValueError: as `apfl_client`.

    Example:
        >>> strategy = strategies.apfl(model, data.pointwise(4), alpha=0.5, alpha_rate=0.01)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    passes = Passes(epochs, steps, batch_size)
    client = apfl_client(model, examples, local, alpha, alpha_rate, passes, probe)
    return federated(client, own(model, alpha), **assembly)


def own(model: Model, alpha: float) -> Model:
    """`model` with clients that score with u_k, in which w_k is the server's model."""

    def view(shared, private):
        share = private["alpha"] * private["met"]
        mine = {"model": private["model"], "own": private["own"]["private"], "alpha": share}
        return between({"model": shared, "own": private["own"]["shared"]}, mine)

    return model.through(view, with_own(model, lambda: {"alpha": jnp.float32(alpha)}))


def apfl_client(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    alpha: float = 0.5,
    alpha_rate: float | None = None,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` of w_k and v_k in one loop.

    The probe sees u_k. Metrics: `loss` is that of u_k, before each step, `alpha` that after the
    round. Two gradients a batch by its mathematics.
    Memory: N times the whole of `shared`, `private` being {"model": ..., "own": {"shared": ...,
    "private": ...}, "met": bool[], "alpha": float[]}.

    Arguments that are not named here are those of `local_training`.

    Args:
        optimizer: of w_k and, with a state of its own, of v_k.
        alpha: at the start, 1 is local training alone.
        alpha_rate: of alpha; None keeps it.
        passes: how much a client does in a round.

    Raises:
        ValueError: unless 0 <= alpha <= 1, and for alpha_rate < 0.

    Example:
        >>> client = strategies.apfl_client(model, data.pointwise(4), clients.sgd(0.1), alpha=0.25)
    """
    fraction("apfl", "alpha", alpha)
    if alpha_rate is not None:
        at_least("apfl", "alpha_rate", alpha_rate, 0)
    optimizers = several(optimizer)
    both = mixture(model)

    def update(key, private, shared, data, now):
        held = begun(private, shared)
        two = {"model": shared, "own": held["shared"]}
        start = {"model": private["model"], "own": held["private"], "alpha": private["alpha"]}
        pairs = [_both(o, alpha_rate if i == 0 else None) for i, o in enumerate(optimizers)]
        trained = train(both, batches, pairs, passes, key, start, two, data, now)
        after, local = kept(trained), trained.params["shared"]["own"]
        tables = put(held["shared"], local, rows.dense(local))
        after = {**after, "own": {"shared": tables, "private": after["own"]}}
        metrics = {**metrics_of(trained, probe, both, two, data), "alpha": after["alpha"]}
        upload = Upload(change(trained, two)["model"], trained.count, metrics)
        return ended(private, after, trained), upload

    return Client(first_private(own(model, alpha)), update, examples=batches)


def between(shared: PyTree, private: PyTree) -> tuple[PyTree, PyTree]:
    """u of {"model": w, "own": v} in `shared` and in `private`, with "alpha" in `private`."""
    alpha, common = private["alpha"], private["model"]
    return mixed(alpha, shared["own"], shared["model"]), mixed(alpha, private["own"], common)


def mixture(model: Model) -> Model:
    """The model u of w and v, see `between`. Its gradients are grad f(w) for w, alpha grad f(u) for
    v and <v - w, grad f(u)> for alpha; its loss is that of u."""

    def loss(shared, private, batch, key):
        common = model.loss(shared["model"], private["model"], batch, key)
        still = {**shared, "model": _still(shared["model"])}
        u = between(still, {**private, "model": _still(private["model"])})
        return model.loss(*u, batch, key) + common - jax.lax.stop_gradient(common)

    return replace(model.through(between), loss=loss)


def _still(tree: PyTree) -> PyTree:
    """`tree`, which no gradient flows into."""

    def one(x):
        if isinstance(x, rows.Gathered):
            return rows.Gathered(x.ids, tuple(map(jax.lax.stop_gradient, x.rows)), x.fields)
        return jax.lax.stop_gradient(x)

    return jax.tree.map(one, tree)


def _both(optimizer: Local, rate: float | None) -> Local:
    """`optimizer` on w and on v, and alpha by `rate` in the first batch with examples."""

    def side(tree, name):
        return {"shared": tree["shared"][name], "private": tree["private"][name]}

    def init(params, now):
        states = {name: optimizer.init(side(params, name), now) for name in ("model", "own")}
        return {**states, "fresh": jnp.bool_(True)}

    def apply(state, params, gradients, active, now):
        states, parts = {"fresh": state["fresh"] & ~active}, {}
        for name in ("model", "own"):
            states[name], parts[name] = optimizer.apply(
                state[name], side(params, name), side(gradients, name), active, now
            )
        alpha = params["private"]["alpha"]
        if alpha is not None and rate is not None:
            step = jnp.where(state["fresh"] & active, rate * gradients["private"]["alpha"], 0.0)
            alpha = jnp.clip(alpha - step, 0.0, 1.0)
        shared, private = ({n: p[kind] for n, p in parts.items()} for kind in ("shared", "private"))
        return states, {"shared": shared, "private": {**private, "alpha": alpha}}

    def covers(path: str) -> bool:
        if path == "private/alpha":
            return rate is not None
        kind, _, *rest = path.split("/")
        return optimizer.covers("/".join([kind, *rest]))

    return Local(init, apply, covers)
