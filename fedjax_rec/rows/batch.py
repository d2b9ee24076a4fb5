"""Parameters on the rows of one batch: what a direction can take many steps with and throw away.

A step on trial changes only rows of its batch, so that a copy of those is enough; one of a client's
local tables in each step would be most of a round.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ..types import PyTree
from .fields import ids_of
from .table import LocalTable, RowsGradient
from .update import add, dense, scale, subtract
from .walk import map_nodes, map_tables


def of_batch(params: PyTree, batch: dict) -> PyTree:
    """`params` with each table cut down to the rows that `batch` names, as many as it names ids;
    each row counts at its first place, and the others are never read."""

    def one(table):
        ids = jnp.sort(jnp.concatenate([ids_of(f, batch).reshape(-1) for f in table.fields]))
        values = jnp.asarray(table.values).at[table.slots(ids)].get(mode="clip")
        return LocalTable(values, ids, jnp.ones(ids.shape, bool), table.fields)

    return map_tables(one, params)


def back(gradients: PyTree, small: PyTree, params: PyTree) -> PyTree:
    """`gradients` at `small`, from `of_batch(params, ...)`, as gradients at `params`."""

    def one(g, few, table):
        if not isinstance(g, RowsGradient):
            return g
        values = jnp.zeros_like(few.values) if g.dense is None else g.dense
        values = values.at[g.slots].add(g.values, mode="promise_in_bounds")
        return RowsGradient(jnp.minimum(table.slots(few.ids), table.values.shape[0] - 1), values)

    return map_nodes(one, gradients, small, params)


def pulled(gradients: PyTree, params: PyTree, anchor: PyTree, factor: Any) -> PyTree:
    """gradients + factor * (params - anchor), on all rows; where there is no gradient, none.
    factor: float[]."""
    apart = subtract(dense(params), dense(anchor))
    return add(gradients, scale(apart, factor))
