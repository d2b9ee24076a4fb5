"""What the honest clients of a round say, row by row: mean and deviation, and forgeries of them.

Of a row of a table only the honest clients that touched it have said something, as for the rules
that go by coordinates (`aggregate.touched`). A malicious client forges the rows that it touched
itself: its upload touches what some user's does, and no more, whatever the values. Of a dense leaf
everybody said something. A row that no honest client touched is forged to zero.

`n` clients, `I` rows of a table, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import PyTree
from .attacked import Sides


def forged(update: PyTree, sides: Sides, value: Callable) -> PyTree:
    """`update` [n, ...] in which each who lies says value(mean, deviation) of what it touched.

    value: of arrays of like shape, the mean and the population's standard deviation of what honest
    clients said of each number; 0 where nobody did.
    """

    def one(x):
        if rows.is_table(x):
            told = value(*_of_rows(x, sides.honest))
            if x.ids is not None:
                told = told.at[x.ids].get(mode="fill", fill_value=0)
            lie = sides.lies[:, None, None] & x.live[..., None]
            return replace(x, values=jnp.where(lie, told, x.values))
        if not jnp.issubdtype(x.dtype, jnp.inexact):
            return x
        told = value(*_of_array(x, sides.honest))
        return jnp.where(trees.leading(sides.lies, x), told, x)

    return rows.map_nodes(one, update)


def of_rows(x: rows.RowsUpdate, honest: jax.Array, values: jax.Array) -> jax.Array:
    """float32[I, ...]: the sum of `values` [n, L, ...], which stand where those of `x` [n, L, D]
    do, over the honest clients that touched the row."""
    said = x.live & honest[:, None]
    values = jnp.where(said[..., None], values, 0)
    if x.ids is None:
        return values.sum(0)
    empty = jnp.zeros((x.size, values.shape[-1]), jnp.float32)
    return empty.at[jnp.where(said, x.ids, x.size)].add(values, mode="drop")


def touched(x: rows.RowsUpdate, honest: jax.Array) -> jax.Array:
    """float32[I, 1]: how many honest clients touched the row."""
    return of_rows(x, honest, jnp.ones((*x.live.shape, 1)))


def _of_rows(x: rows.RowsUpdate, honest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean, deviation) float32[I, D] over the honest clients that touched the row."""
    count = jnp.maximum(touched(x, honest), 1)
    mean = of_rows(x, honest, x.values) / count
    here = mean if x.ids is None else mean.at[x.ids].get(mode="fill", fill_value=0)
    return mean, jnp.sqrt(of_rows(x, honest, (x.values - here) ** 2) / count)


def _of_array(x: jax.Array, honest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The same of a dense leaf, over all honest clients."""
    said = trees.leading(honest, x)
    count = jnp.maximum(honest.sum(), 1)
    mean = jnp.where(said, x, 0).sum(0) / count
    return mean, jnp.sqrt(jnp.where(said, (x - mean) ** 2, 0).sum(0) / count)
