"""Lies about any rows of a table: all of them, or as many as an upload has room for.

Whoever makes its upload up may name rows that no data of its own names. All of a table do not fit
into an upload that has room for what some user touches; then all uploads of the round are laid out
as whole tables, n I D numbers. Some rows do, and look like a user's.

`n` clients, `I` rows of a table, `R` of them that one who lies names, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import PyTree
from . import pushed
from .attacked import Sides
from .honest import touched


def everywhere(
    where: str,
    key: jax.Array,
    update: PyTree,
    sides: Sides,
    count: int | None,
    of_table: Callable,
    of_array: Callable,
) -> PyTree:
    """`update` in which those who lie say what they like of rows that they choose.

    Args:
        where: whose error it is that there is no room.
        key: of the rows that are chosen.
        update: leaves [n, ...], tables without origin and factor.
        sides: who lies.
        count: R; a client draws them by how many honest clients of the round touch them, without
            replacement. None for all.
        of_table: of_table(number, x, ids) -> float32[I, D], what all of them say, or [n, R, D]
            where each says something else; `x` is the table's update, the `number`th leaf, and ids
            int32[n, R] the rows, None for all.
        of_array: of_array(number, x) -> float32[...] or [n, ...], of a dense leaf x [n, ...].

    Raises:
        ValueError: where R is more than the rows of a table, or than an upload has room for.
    """
    numbers = iter(range(10**6))

    def one(x):
        number = next(numbers)
        if not rows.is_table(x):
            if not jnp.issubdtype(x.dtype, jnp.inexact):
                return x
            return jnp.where(trees.leading(sides.lies, x), of_array(number, x), x).astype(x.dtype)
        if count is None:
            ids, x = None, _whole(x)
        else:
            ids = _drawn(where, jax.random.fold_in(key, number), x, sides, count)
        said = of_table(number, x, ids)
        named = jnp.arange(x.size, dtype=jnp.int32) if ids is None else ids
        if ids is not None and said.ndim == 2:
            said = said[ids]
        return pushed.sent(where, x, sides.lies, named, said)

    return rows.map_nodes(one, update)


def _drawn(where: str, key, x: rows.RowsUpdate, sides: Sides, count: int) -> jax.Array:
    """int32[n, R], ascending: rows by how often the honest touch them, by exponential races."""
    room = min(x.live.shape[1], x.size)
    if count > room:
        raise ValueError(
            f"{where}(rows={count}) is more than an upload of this round has room for; use rows <= "
            f"{room}, or None for all."
        )
    weight = touched(x, sides.honest)[:, 0] + 1e-6
    clients = sides.client
    race = jax.vmap(lambda i: jax.random.gumbel(jax.random.fold_in(key, i), weight.shape))(clients)
    return jnp.sort(jax.lax.top_k(jnp.log(weight) + race, count)[1].astype(jnp.int32), axis=1)


def _whole(x: rows.RowsUpdate) -> rows.RowsUpdate:
    """`x` [n, L, D] as whole tables [n, I, D]."""
    if x.ids is None:
        return x
    blank = jnp.zeros((x.size, x.values.shape[-1])), None, jnp.zeros(x.size, bool), None, x.size
    return jax.vmap(lambda x: rows.spread(x, rows.RowsUpdate(*blank)))(x)
