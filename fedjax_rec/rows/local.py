"""What a client has of a table: numbers, gradients and terms at the rows that it touches.

Parameters are trees with tables as `LocalTable`. A term, or a number that is kept beside the model,
is an array for each node: of a table for its local rows, [L, D]. It counts only where the client
touches the row in the round: what it does not touch, it does not have.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from ..types import PyTree
from .narrow import indexable
from .table import RowsGradient, RowsUpdate, is_table
from .walk import map_nodes


def with_term(g, term):
    """g + term: a gradient, of a table or an array, with a term for every row added."""
    if isinstance(g, RowsGradient):
        return replace(g, dense=term if g.dense is None else g.dense + term)
    return g + term


def at_rows(gradients: PyTree, params: PyTree) -> PyTree:
    """`gradients` at `params` as arrays [L, D] of all local rows, zero where a batch has none."""

    def one(g, p):
        if not isinstance(g, RowsGradient):
            return g
        start = jnp.zeros_like(p.values) if g.dense is None else jnp.asarray(g.dense)
        return start.at[g.slots].add(g.values, mode="promise_in_bounds")

    return map_nodes(one, gradients, params)


def here(tree: PyTree, local: PyTree) -> PyTree:
    """The numbers of `tree` at the rows of `local`: an array a node.

    Args:
        tree: structured as the trainable part of `shared`, with whole tables or arrays [I, D].
        local: a client's parameters, or its update.
    """

    def one(mine, x):
        if not is_table(mine):
            return x
        values = x.values if is_table(x) else x
        return values if mine.ids is None else indexable(values).at[mine.ids].get(mode="clip")

    return map_nodes(one, local, tree)


def put(tree: PyTree, local: PyTree, values: PyTree) -> PyTree:
    """`tree`, as in `here`, with `values` at the live rows of `local`."""

    def one(mine, x, new):
        if not is_table(mine):
            return new
        old = x.values if is_table(x) else x
        if mine.ids is None:
            after = jnp.where(mine.live[:, None], new, old)
        else:
            ids = jnp.where(mine.live, mine.ids, old.shape[0])
            after = jnp.asarray(old).at[ids].set(new, mode="drop")
        return replace(x, values=after) if is_table(x) else after

    return map_nodes(one, local, tree, values)


def as_update(values: PyTree, local: PyTree, shared: PyTree) -> PyTree:
    """An update of `values`, as of `here`, at the live rows of `local`.

    shared: trainable part, whose tables say how many rows there are.
    """

    def one(value, mine, x):
        if not is_table(x):
            return value
        value = jnp.where(mine.live[:, None], value, 0)
        return RowsUpdate(value, mine.ids, mine.live, None, x.shape[0])

    return map_nodes(one, values, local, shared)


def settled(after: PyTree, before: PyTree) -> PyTree:
    """`after` with the rows of tables that are not live as in `before`."""

    def one(a, b):
        if not is_table(a):
            return a
        return replace(a, values=jnp.where(a.live[:, None], a.values, b.values))

    return map_nodes(one, after, before)
