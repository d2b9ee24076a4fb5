"""A cohort in chunks of clients: sorted by size, scanned, and put back in its order.

Clients of like length share a chunk, so the loop inside it runs as long as its longest client and
pads almost nothing, and one compiled loop serves them all.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import trees
from ..types import Cohort, PyTree


def over_chunks(
    step: Callable, carry: PyTree, cohort: Cohort, clients_per_chunk: int
) -> tuple[PyTree, PyTree, PyTree]:
    """(carry, stacks, seen) of step(carry, ids int32[c]) -> (carry, (stack, seen)) for each chunk.

    stacks: leaves [chunks, ...]. seen: leaves [C, ...], of leaves [c, ...] of each chunk, in the
    order of `cohort.ids`; of padded clients 0.
    """
    size, store = cohort.ids.shape[0], cohort.data
    c = min(clients_per_chunk, size)
    order = jnp.argsort(-store.sizes(cohort.ids), stable=True)
    fill = jnp.full(-size % c, store.num_clients, jnp.int32)
    ids = jnp.concatenate([cohort.ids[order], fill])

    def in_order(x):
        x = x.reshape(-1, *x.shape[2:])[:size]
        real = trees.leading(cohort.ids < store.num_clients, x)
        return jnp.where(real, jnp.zeros_like(x).at[order].set(x), jnp.zeros_like(x))

    carry, (stacks, seen) = jax.lax.scan(step, carry, ids.reshape(-1, c))
    return carry, stacks, jax.tree.map(in_order, seen)


def at(tree: PyTree, ids: jax.Array) -> PyTree:
    """The slices `ids` of leaves [N, ...]; of padding any."""
    return jax.tree.map(lambda x: x.at[ids].get(mode="clip"), tree)


def put(tree: PyTree, ids: jax.Array, new: PyTree) -> PyTree:
    """`tree` with the slices `ids` replaced; padding vanishes."""
    return jax.tree.map(lambda x, y: x.at[ids].set(y, mode="drop"), tree, new)
