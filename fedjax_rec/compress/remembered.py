"""What a client remembers of its model between rounds: errors, shifts, momentum.

A client touches few rows of a table in a round, and what it remembers of the others waits: rows
are recalled when they are touched again. `rows=None` keeps every row, N x model in all: 5.7 GB for
6,040 clients of MovieLens-1M at width 64. `rows=R` keeps the R rows of largest norm and forgets the
rest, which is no longer exact error feedback but costs N x R rows. bfloat16 halves either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import wire
from ..check import at_least, one_of
from ..rows import RowsUpdate, blank, here, put, values_at
from ..types import PyTree
from .leafwise import is_compressible, numbers, with_numbers


@dataclass(frozen=True)
class Remembered:
    """init(update) -> memory; recall(memory, update) -> values, one array a node, at the rows of
    `update`; store(memory, update, values) -> memory, with those rows overwritten."""

    init: Callable[..., PyTree]
    recall: Callable[..., list[Any]]
    store: Callable[..., PyTree]


def remembered(what: str, rows: int | None = None, dtype: str = "float32") -> Remembered:
    """Memory of the compressor called `what`, for its error messages."""
    one_of(what, "dtype", dtype, ("float32", "bfloat16"))
    if rows is not None:
        at_least(what, "rows", rows, 1)

    def init_node(node):
        if not isinstance(node, RowsUpdate):
            return jnp.zeros(numbers(node)[0].shape, dtype)
        memory = blank(node, rows, dtype)
        return memory.values if memory.ids is None else memory

    def recall_node(memory, node):
        if isinstance(memory, RowsUpdate):
            recalled = values_at(memory, node).astype(jnp.float32)
            return jnp.where(numbers(node)[1], recalled, 0)
        x, real = numbers(node)
        memory = here(memory, node) if isinstance(node, RowsUpdate) else memory
        return jnp.where(real, memory.astype(x.dtype), 0)

    def store_node(memory, node, values):
        if isinstance(memory, RowsUpdate):
            return _largest(memory, node, values.astype(memory.values.dtype))
        values = values.astype(memory.dtype)
        if isinstance(node, RowsUpdate):
            return put(memory, node, values)
        return jnp.where(numbers(node)[1], values, memory)

    return Remembered(
        lambda update: [init_node(node) for node in nodes(update)],
        lambda memory, update: [
            recall_node(m, node) for m, node in zip(memory, nodes(update), strict=True)
        ],
        lambda memory, update, values: [
            store_node(*each) for each in zip(memory, nodes(update), values, strict=True)
        ],
    )


def _largest(memory: RowsUpdate, node: RowsUpdate, values: jax.Array) -> RowsUpdate:
    """Of the remembered rows and the new ones, which replace them, those of largest norm."""
    held: Any = memory.ids
    now = replace(node, values=jnp.ones((node.live.shape[0], 1)) * node.live[:, None])
    fresh = jnp.arange(node.size) if node.ids is None else node.ids
    ids = jnp.concatenate([held, fresh])
    rows = jnp.concatenate([memory.values, values])
    overwritten = values_at(now, memory)[:, 0] > 0
    live = jnp.concatenate([memory.live & ~overwritten, node.live])
    norm = jnp.where(live, (rows.astype(jnp.float32) ** 2).sum(-1), 0.0)
    norm, chosen = jax.lax.top_k(norm, held.shape[0])
    order = jnp.argsort(jnp.where(norm > 0, ids[chosen], node.size))
    chosen, live = chosen[order], (norm > 0)[order]
    ids = jnp.where(live, ids[chosen], node.size).astype(jnp.int32)
    return RowsUpdate(jnp.where(live[:, None], rows[chosen], 0), ids, live, None, node.size)


def remembers_updates(memory: PyTree) -> bool:
    """Whether a compressor's memory holds errors, shifts or momentum of updates."""
    paths = jax.tree_util.tree_leaves_with_path(memory)
    kept = {"error", "shift", "velocity"}
    return any(getattr(key, "key", None) in kept for path, _ in paths for key in path)


def nodes(update: PyTree) -> list:
    """The nodes of an update that hold numbers, in order."""
    return [x for x in wire.nodes(update) if is_compressible(x)]


def values_of(update: PyTree) -> list[jax.Array]:
    """The numbers of `update`, one array a node."""
    return [numbers(node)[0] for node in nodes(update)]


def with_values(update: PyTree, values: list) -> PyTree:
    """`update` with the numbers `values`, one array a node."""
    new = iter(values)
    return wire.map_nodes(
        lambda node: with_numbers(node, next(new)) if is_compressible(node) else node, update
    )


def aligned(back: PyTree, update: PyTree) -> list[jax.Array]:
    """The numbers of `back`, decoded from what was made of `update`, at the rows of `update`."""
    leaves, structure = wire.flatten(update)
    return [
        values_at(mine, node) if isinstance(node, RowsUpdate) else numbers(mine)[0]
        for mine, (_, node) in zip(structure.flatten_up_to(back), leaves, strict=True)
        if is_compressible(node)
    ]
