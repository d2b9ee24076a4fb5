"""Sums of updates: over the clients of a chunk, and over chunks.

Rows with ids do not add up without laying the table out: they are listed one after another, and an
id that stands in the list more than once means the sum of its rows. Where the list of all chunks
would have more rows than the table, the table is laid out, and each chunk is added to it in place.
Everything else adds.

`c` clients of a chunk, `n` chunks, `L` rows of an update, `I` rows of a table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from .. import trees
from ..types import Array, PyTree
from .apart import brought_home
from .table import RowsUpdate, is_table
from .walk import is_node, map_nodes


def weighted_sum(weights: Float[Array, " c"], updates: PyTree) -> PyTree:
    """sum_k weights[k] * update_k over the leading axis [c, ...] of all of `updates` but `origin`.

    Sums are float32, also of narrower leaves. An update of weight 0 counts as zeros, whatever it
    holds, NaN included.
    A table is dense where slots are ids: [I, D] in `values`. Else it is the rows of all clients one
    after another, [c * L, D].
    """
    return map_nodes(
        lambda x: _rows(weights, x) if is_table(x) else trees.weighted_sum(weights, x), updates
    )


def _rows(weights: jax.Array, update: RowsUpdate) -> RowsUpdate:
    c, length = update.live.shape
    w = weights.astype(jnp.float32)
    if update.ids is None:
        total = trees.weighted_sum(w, update.values)
        there = (update.live & (w != 0)[:, None]).any(0)
        if update.origin is not None:
            # What rounding leaves of rows that nobody touched would be a gradient to Adam.
            total = jnp.where(there[:, None], total - w.sum() * update.origin, 0)
        return RowsUpdate(total, None, there, None, update.size)
    values = update.values
    if update.factor is not None:
        values = values * update.factor.reshape(c, -1, 1)
    counts = (w != 0)[:, None]
    values = jnp.where(counts[..., None], w[:, None, None] * values, 0).reshape(c * length, -1)
    there = update.live & counts
    ids = jnp.where(there, update.ids, update.size)
    return RowsUpdate(values, ids.reshape(-1), there.reshape(-1), None, update.size)


def clients_per_row(weights: Float[Array, " c"], updates: PyTree) -> PyTree:
    """How many clients of positive weight touched each row, float32[I], and float32[], how many
    there are, for what is no table.

    Args:
        weights: float[c], of clients that may be padding.
        updates: with a leading axis [c, ...].
    """
    counts = (weights > 0).astype(jnp.float32).sum()

    def one(x):
        if not is_table(x):
            return counts
        there = x.live & (weights > 0)[:, None]
        if x.ids is None:
            return there.astype(jnp.float32).sum(0)
        ids = jnp.where(there, x.ids, x.size).reshape(-1)
        return jnp.zeros(x.size, jnp.float32).at[ids].add(1.0, mode="drop")

    return map_nodes(one, updates)


def divide(
    summary: PyTree, additive: bool | dict[str, Any], chunks: int = 1
) -> tuple[PyTree, PyTree]:
    """(what adds up over chunks, what is listed): rows with ids, unless the list of so many
    `chunks` has more rows than the table; or all where nothing adds up.

    additive: of the whole summary, or of each entry of a dict, which may be dicts themselves.
    """
    if isinstance(additive, dict):
        parts = {name: divide(summary[name], adds, chunks) for name, adds in additive.items()}
        sums, lists = ({name: part[i] for name, part in parts.items()} for i in (0, 1))
        return sums, lists

    def adds(x):
        return additive and not (_listed(x) and chunks * x.ids.shape[0] <= x.size)

    def keep(want):
        return map_nodes(lambda x: x if adds(x) == want else None, summary)

    return keep(True), keep(False)


def no_sum(adds: PyTree, shards: int = 1) -> PyTree:
    """Zeros to which `combine` adds; adds: shapes of what adds up of one chunk. shards: devices
    that hold each a block of the rows of a table, see `apart`."""

    def one(x):
        if not _listed(x):
            return trees.zeros_like(x)
        count = x.size // shards
        values = jnp.zeros((count, x.values.shape[-1]), x.values.dtype)
        return RowsUpdate(values, None, jnp.zeros(count, bool), None, x.size)

    return map_nodes(one, adds)


def combine(a: PyTree | None, b: PyTree, shards: int = 1) -> PyTree:
    """a + b of what adds up, of two chunks (of booleans, whether either is); `a` is None for
    nothing yet. shards: as of `no_sum`.
    """
    laid_out = _laid_out_here if shards == 1 else _laid_out_apart
    if a is None:
        return map_nodes(lambda y: laid_out(no_sum(y, shards), y) if _listed(y) else y, b)
    either = lambda x, y: x | y if x.dtype == bool else x + y
    one = lambda x, y: laid_out(x, y) if _listed(y) else jax.tree.map(either, x, y)
    return map_nodes(one, a, b)


def _laid_out_apart(total: RowsUpdate, more: RowsUpdate) -> RowsUpdate:
    """A block of a table, and rows with ids of any."""
    values, live = brought_home(total.values, total.live, more)
    return replace(total, values=values, live=live)


def _laid_out_here(total: RowsUpdate, more: RowsUpdate) -> RowsUpdate:
    """A whole table and rows with ids."""
    ids: Any = more.ids
    values = total.values.at[ids].add(more.values, mode="drop")
    live = total.live.at[jnp.where(more.live, ids, more.size)].set(True, mode="drop")
    return replace(total, values=values, live=live)


def _listed(x) -> bool:
    return is_table(x) and x.ids is not None


def parted(total: PyTree, adds: PyTree) -> tuple[PyTree, PyTree]:
    """(what every device has, blocks of tables) of a total on devices that hold each a block of
    the rows: each with None where the other has something.

    Args:
        total: the sum of uploads.
        adds: what is added to it, which says what of `total` is rows.
    """
    keep = lambda block: map_nodes(lambda x, t: t if _listed(x) == block else None, adds, total)
    return keep(False), keep(True)


def join(total: PyTree, stacks: PyTree) -> PyTree:
    """The summary of all chunks, of what `divide` parted: `total`, and `stacks`, what is listed,
    [n, c, ...], of all chunks one after another, [n * c, ...].
    """

    def one(t, s):
        return t if t is not None else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), s)

    return jax.tree.map(one, total, stacks, is_leaf=is_node)
