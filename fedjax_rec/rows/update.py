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
from ..types import Model, PyTree


def with_term(g, term):
    """A gradient with a term for every row added."""
    if isinstance(g, rows.RowsGradient):
        return replace(g, dense=term if g.dense is None else g.dense + term)
    return g + term


def scaled(gradients: PyTree, factor) -> PyTree:
    """`factor` times a tree of gradients, those of tables by their rows."""

    def one(g):
        if isinstance(g, rows.RowsGradient):
            dense = None if g.dense is None else factor * g.dense
            return replace(g, values=factor * g.values, dense=dense)
        return factor * g

    return jax.tree.map(one, gradients, is_leaf=rows.is_table)


def minus(a: PyTree, b: PyTree) -> PyTree:
    """a - b, trees of gradients of one batch."""

    def one(x, y):
        if isinstance(x, rows.RowsGradient):
            return replace(x, values=x.values - y.values)
        return x - y

    return jax.tree.map(one, a, b, is_leaf=rows.is_table)


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


def zeros_for(model: Model) -> PyTree:
    """Zeros like the trainable part of what `model` shares: what a client keeps beside it."""
    return zeros_of(jax.eval_shape(model.init, jax.random.key(0))[0])
