"""A whole model of a client's own beside the common one, as Ditto and APFL keep it.

`private` is {"model": ..., "own": {"shared": ..., "private": ...}, "met": bool[]}: `own` is what
the client keeps, `met` whether it has trained yet; until then its own model is the one it receives.
Memory: N times the whole of `shared`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import Model, PyTree
from .training import Trained


def with_own(model: Model, more: Callable[[], dict] = dict) -> Callable:
    """`Model.init` of a model with clients that keep one of their own. more(): what else they keep
    at first."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        zeros = trees.zeros_like(trees.trainable(shared))
        own = {"shared": zeros, "private": private}
        return shared, {"model": private, "own": own, "met": jnp.bool_(False), **more()}

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
    return rows.put(tables, local, rows.dense(local))


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
    tree = rows.map_nodes(one, own, trees.trainable(shared))
    return trees.with_frozen(tree, shared)
