"""What an aggregator makes of a chunk, held against what it was given.

Rows of a summary are named by their ids. A `reduce` that goes over all leaves alike, as
`jax.tree.map(lambda x: x.sum(0), uploads.update)` does, adds up ids as well, and the sum of two
ids is a third row: that is refused while the round is traced.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .. import rows
from ..types import PyTree, Upload

REMEDY = (
    "sum with rows.weighted_sum(weights, uploads.update), give back the arrays of "
    "rows.dense_view, or go through nodes with rows.map_nodes, whose tables say which rows they are"
)


def with_its_ids(where: str, made: PyTree, uploads: Upload | None = None) -> PyTree:
    """`made`, of an aggregator. where: `reduce` or `finish`.

    Raises ValueError where ids of its rows are no ids any more: no whole numbers, or, beside
    `uploads`, not one for each of theirs.
    """
    counts = {jnp.size(x.ids) for x in _with_ids(() if uploads is None else uploads.update)}
    for x in _with_ids(made):
        kind = jnp.asarray(x.ids).dtype
        if not jnp.issubdtype(kind, jnp.integer):
            told = f"of type {kind}"
        elif jnp.asarray(x.live).dtype != bool:
            told = f"whose live is {jnp.asarray(x.live).dtype}"
        elif counts and jnp.size(x.ids) not in counts:
            told = f"{jnp.size(x.ids)} of them for the {max(counts)} of the uploads"
        else:
            continue
        raise ValueError(f"aggregator.{where} changed the ids of rows, {told}; {REMEDY}.")
    return made


def _with_ids(tree: PyTree) -> list[Any]:
    return [x for x in rows.nodes(tree) if isinstance(x, rows.RowsUpdate) and x.ids is not None]
