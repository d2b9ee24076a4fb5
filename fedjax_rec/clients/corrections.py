"""What directions of local training are made of: terms for every row of a client's local tables.

Parameters are {"shared": ..., "private": ...} with tables as `rows.LocalTable`; a term is an array
for each leaf of `shared`, of a table for its local rows [L, D]. A term on a row counts only where
the client touches it in the round: what it does not touch, it does not have.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import PyTree
from .optimizers import Local


def plus(gradients: PyTree, terms: PyTree) -> PyTree:
    """`gradients` with `terms` added in their `shared` part; what is not trained stays None."""

    def one(g, term):
        if g is None:
            return None
        if isinstance(g, rows.RowsGradient):
            return replace(g, dense=term if g.dense is None else g.dense + term)
        return g + term

    is_leaf = lambda x: x is None or rows.is_table(x)
    return {**gradients, "shared": jax.tree.map(one, gradients["shared"], terms, is_leaf=is_leaf)}


def scaled(gradients: PyTree, factor: float) -> PyTree:
    """`gradients` with their `shared` part times `factor`."""

    def one(g):
        if isinstance(g, rows.RowsGradient):
            dense = None if g.dense is None else factor * g.dense
            return replace(g, values=factor * g.values, dense=dense)
        return factor * g

    return {**gradients, "shared": jax.tree.map(one, gradients["shared"], is_leaf=rows.is_table)}


def minus(a: PyTree, b: PyTree) -> PyTree:
    """a - b in the `shared` part, of gradients of one batch; the rest of `a`."""

    def one(x, y):
        if isinstance(x, rows.RowsGradient):
            return replace(x, values=x.values - y.values)
        return x - y

    is_leaf = rows.is_table
    return {**a, "shared": jax.tree.map(one, a["shared"], b["shared"], is_leaf=is_leaf)}


def here(tree: PyTree, local: PyTree) -> PyTree:
    """The numbers of `tree`, structured as the trainable part of `shared` with whole tables, at
    the rows of `local`: an array a leaf."""

    def one(x, mine):
        if not rows.is_table(x):
            return x
        return x.values if mine.ids is None else x.values.at[mine.ids].get(mode="clip")

    return jax.tree.map(one, tree, local, is_leaf=rows.is_table)


def put(tree: PyTree, local: PyTree, values: PyTree) -> PyTree:
    """`tree`, as in `here`, with `values` at the live rows of `local`."""

    def one(x, mine, new):
        if not rows.is_table(x):
            return new
        if mine.ids is None:
            return replace(x, values=jnp.where(mine.live[:, None], new, x.values))
        ids = jnp.where(mine.live, mine.ids, x.shape[0])
        return replace(x, values=x.values.at[ids].set(new, mode="drop"))

    return jax.tree.map(one, tree, local, values, is_leaf=rows.is_table)


def as_update(values: PyTree, local: PyTree, shared: PyTree) -> PyTree:
    """An update of `values`, as in `here`, at the live rows of `local`.

    shared: trainable part, whose tables say how many rows there are.
    """

    def one(value, mine, x):
        if not rows.is_table(x):
            return value
        value = jnp.where(mine.live[:, None], value, 0)
        return rows.RowsUpdate(value, mine.ids, mine.live, None, x.shape[0])

    return jax.tree.map(one, values, local, shared, is_leaf=rows.is_table)


def remembering(optimizer: Local) -> Local:
    """`optimizer`, whose state also holds under "sum" the gradients of the shared part that it was
    given, added up over batches with examples and without their terms for every row."""

    def init(params):
        zero = trees.zeros_like(rows.dense(params["shared"]))
        return {"inner": optimizer.init(params), "sum": zero}

    def apply(state, params, gradients, active):
        inner, changed = optimizer.apply(state["inner"], params, gradients, active)
        times = active.astype(jnp.float32)

        def one(g, total):
            if g is None:
                return total
            if isinstance(g, rows.RowsGradient):
                return total.at[g.slots].add(times * g.values, mode="promise_in_bounds")
            return total + times * g

        is_leaf = lambda x: x is None or rows.is_table(x)
        total = jax.tree.map(one, gradients["shared"], state["sum"], is_leaf=is_leaf)
        return {"inner": inner, "sum": total}, changed

    return Local(init, apply, optimizer.covers)


def settled(after: PyTree, before: PyTree) -> PyTree:
    """`after` with the rows of tables that are not live as in `before`."""

    def one(a, b):
        if not rows.is_table(a):
            return a
        return replace(a, values=jnp.where(a.live[:, None], a.values, b.values))

    return jax.tree.map(one, after, before, is_leaf=rows.is_table)


def zeros_of(shared: PyTree) -> PyTree:
    """Zeros like the trainable part of `shared`, tables as whole tables."""
    return trees.zeros_like(trees.trainable(shared))
