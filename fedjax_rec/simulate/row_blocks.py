"""Where a state lies on a mesh whose devices hold tables together: blocks of rows.

The tables of the model that clients train lie in blocks of rows along the axis `rows.AXIS`, and so
does what the server keeps of each of their rows: moments of an optimizer, counts, what a downlink
knows. Everything else lies where the compiler puts it. What is laid out so is a matter of memory,
and of no number: a program for the server's part is one for whole arrays, which XLA divides.

Dimensions: `I` rows of a table, `R` devices of the axis.
"""

from __future__ import annotations

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import pieces, rows, trees
from ..rounds.chunks import shards
from ..types import State
from .base_pieces import base_elsewhere, base_places, refuse_whole


def refuse_undivided(state: State, mesh: Mesh | None) -> None:
    """Raises ValueError where the devices of the mesh cannot hold the tables of a state together:
    there are none, or their rows are not divided evenly; and so with a frozen base."""
    refuse_whole(state, mesh)
    count = shards(mesh)
    if count == 1:
        return
    sizes = sorted({table.shape[0] for table in rows.tables(trees.trainable(state.shared))})
    if not sizes:
        raise ValueError(
            f"row_devices={count}: the model has no table of rows that clients touch, which could "
            f"lie on several devices; {rows.ALONE}."
        )
    for size in sizes:
        if size % count:
            fit = max(r for r in range(1, count) if size % r == 0)
            raise ValueError(
                f"row_devices={count} does not divide a table of {size} rows; use "
                f"row_devices={fit}, or a table of {-(-size // count) * count} rows."
            )


def places(state: State, mesh: Mesh | None) -> list[NamedSharding | None]:
    """For each leaf of a state, or of its outline, where it has to lie; None for anywhere."""
    leaves = jax.tree.leaves(state)
    if pieces.count(mesh) > 1:
        return base_places(state, mesh)
    if shards(mesh) == 1 or mesh is None:
        return [None] * len(leaves)
    trained = rows.tables(trees.trainable(state.shared))
    tables, sizes = {id(x.values) for x in trained}, {x.shape[0] for x in trained}
    kept = {id(x) for x in jax.tree.leaves(state.server) if x.ndim in (1, 2)}
    by_rows = NamedSharding(mesh, PartitionSpec(rows.AXIS))
    blocked = lambda x: id(x) in tables or (id(x) in kept and x.shape[0] in sizes)
    return [by_rows if blocked(x) else None for x in leaves]


def laid(state: State, mesh: Mesh | None) -> State:
    """`state`, while a program is traced, with what lies in blocks of rows held there."""
    leaves, structure = jax.tree.flatten(state)
    held = lambda x, place: x if place is None else jax.lax.with_sharding_constraint(x, place)
    return jax.tree.unflatten(structure, map(held, leaves, places(state, mesh)))


def elsewhere(state: State, mesh: Mesh | None) -> tuple[int, int, int]:
    """Bytes that a device does not have, since others hold them: of the model, of what the server
    keeps, and of the frozen base."""
    leaves, count = jax.tree.leaves(state), shards(mesh)
    if pieces.count(mesh) > 1:
        return 0, 0, base_elsewhere(state, mesh)
    there = [x for x, place in zip(leaves, places(state, mesh), strict=True) if place is not None]
    model = {id(x) for x in jax.tree.leaves(state.shared)}
    of = lambda mine: trees.nbytes([x for x in there if (id(x) in model) == mine])
    return of(True) * (count - 1) // count, of(False) * (count - 1) // count, 0
