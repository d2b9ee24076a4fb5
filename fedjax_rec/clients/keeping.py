"""Local training whose optimizer goes on where it was: momentum that a client keeps over rounds.

    m_k <- beta m_k + grad,   x_k <- x_k - eta m_k,   with m_k from the client's last round

`local_training` starts its optimizer anew in every round. The state kept is as large as the model
for each of its moments; of a table a client goes on with the rows that it touches, and the state of
the others waits.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from .. import rows
from ..types import Client, Model, PyTree, Upload
from .batches import Passes
from .optimizers import from_optax
from .training import change, first_private, kept, metrics_of, train


def keeping(
    model: Model,
    batches,
    transform: optax.GradientTransformation,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` with an optax transform whose state stays with the client.

    `private` is {"model": ..., "optimizer": state}. Raises TypeError for other optimizers.
    """
    if not isinstance(transform, optax.GradientTransformation):
        raise TypeError(
            f"keeping(transform={transform!r}) has no state that can be kept; give an optax "
            "transform such as optax.sgd(0.1, momentum=0.9)."
        )
    plain = from_optax(transform)

    def update(key, private, shared, data, now):
        state = private["optimizer"]
        local = replace(plain, init=lambda params, now: _at(transform, state, params))
        trained = train(model, batches, [local], passes, key, private["model"], shared, data, now)
        # Momentum moves every row of a whole local table.
        still = rows.settled(trained.params["shared"], trained.start["shared"])
        trained = replace(trained, params={**trained.params, "shared": still})
        after = _put(transform, state, trained.states[0], trained.params)
        metrics = metrics_of(trained, probe, model, shared, data)
        own = {"model": kept(trained), "optimizer": after}
        return own, Upload(change(trained, shared), trained.count, metrics)

    return Client(first_private(kept_beside(model, transform)), update)


def kept_beside(model: Model, transform: optax.GradientTransformation) -> Model:
    """`model` of clients that keep {"model": ..., "optimizer": state}."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        whole = {"shared": rows.dense(rows.zeros_of(shared)), "private": rows.dense(private)}
        return shared, {"model": private, "optimizer": transform.init(whole)}

    return model.through(lambda shared, private: (shared, private["model"]), init)


def _rows_of(params: PyTree) -> PyTree:
    """int32[L] a compact table, of which dead rows are out of range; empty for what is whole."""

    def one(x):
        if not rows.is_table(x) or x.ids is None:
            return jnp.zeros(0, jnp.int32)
        return jnp.where(x.live, x.ids, jnp.iinfo(jnp.int32).max)

    return rows.map_nodes(one, params)


def _touched(params: PyTree) -> PyTree:
    """As `_rows_of`, but of whole shared tables too the rows that are live."""

    def one(x):
        if not rows.is_table(x) or x.ids is not None:
            return _rows_of(x)
        return jnp.where(x.live, jnp.arange(x.live.size), jnp.iinfo(jnp.int32).max)

    shared = rows.map_nodes(one, params["shared"])
    return {"shared": shared, "private": _rows_of(params["private"])}


def _at(transform, state, params):
    """The state of the whole model at the rows of `params`."""

    def one(s, ids):
        return s if not ids.size else s.at[ids].get(mode="clip")

    return optax.tree.map_params(transform, one, state, _rows_of(params))


def _put(transform, state, local, params):
    """`state` with that of the rows of `params` as in `local`."""

    def one(s, new, ids):
        return new if not ids.size else s.at[ids].set(new, mode="drop")

    ids = optax.tree.map_params(
        transform,
        lambda _, ids: ids,
        local,
        _touched(params),
        transform_non_params=lambda _: jnp.zeros(0, jnp.int32),
    )
    return jax.tree.map(one, state, local, ids)
