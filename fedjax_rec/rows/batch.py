"""Parameters on the rows of one batch: what a direction can take many steps with and throw away.

A step on trial changes only rows of its batch, so that a copy of those is enough; one of a client's
local tables in each step would be most of a round.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import rows
from ..types import PyTree
from .fields import ids_of
from .update import with_term


def of_batch(params: PyTree, batch: dict) -> PyTree:
    """`params` with each table cut down to the rows that `batch` names, as many as it names ids;
    each row counts at its first place, and the others are never read."""

    def one(table):
        ids = jnp.sort(jnp.concatenate([ids_of(f, batch).reshape(-1) for f in table.fields]))
        values = table.values.at[table.slots(ids)].get(mode="clip")
        return rows.LocalTable(values, ids, jnp.ones(ids.shape, bool), table.fields)

    return rows.map_tables(one, params)


def back(gradients: PyTree, small: PyTree, params: PyTree) -> PyTree:
    """`gradients` at `small`, from `of_batch(params, ...)`, as gradients at `params`."""

    def one(g, few, table):
        if not isinstance(g, rows.RowsGradient):
            return g
        values = jnp.zeros_like(few.values) if g.dense is None else g.dense
        values = values.at[g.slots].add(g.values, mode="promise_in_bounds")
        return rows.RowsGradient(
            jnp.minimum(table.slots(few.ids), table.values.shape[0] - 1), values
        )

    is_leaf = lambda x: x is None or rows.is_table(x)
    return jax.tree.map(one, gradients, small, params, is_leaf=is_leaf)


def pulled(gradients: PyTree, params: PyTree, anchor: PyTree, factor: float) -> PyTree:
    """gradients + factor * (params - anchor), on all rows; where there is no gradient, none."""

    def one(g, x, y):
        if g is None:
            return None
        x, y = (v.values if rows.is_table(v) else v for v in (x, y))
        return with_term(g, factor * (x - y))

    is_leaf = lambda x: x is None or rows.is_table(x)
    return jax.tree.map(one, gradients, params, anchor, is_leaf=is_leaf)
