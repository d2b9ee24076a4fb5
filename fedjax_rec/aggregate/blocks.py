"""Rows with ids, laid out for all clients, some of the rows at a time.

Of a table of which each client sends some rows, a rule is to see what all said of one row side by
side. The rows that it asks for are numbered one after another, and those with the numbers first to
first + K - 1 are laid out as [n, K, D]: as many numbers as fit into a cache,
however long the table is.
Rows that nobody needs, such as those of too few clients, are in no block.

`n` clients, `L` rows of an update, `I` rows of a table, `K` rows of a block, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..rows import RowsUpdate

ROOM = 2**22  # numbers of a block
FAR = 2**30  # a place in no block


class Blocks(NamedTuple):
    """The rows that were asked for.

    ids: int32[R], theirs in their order, and after them `I`; R as many as there may be.
    count: int32[], how many there are.
    room: K.
    at: at(first) -> (values float[n, K, D], said bool[n, K]) of those from `first` on; zero, and
        said by nobody, where there are no more.
    """

    ids: jax.Array
    count: jax.Array
    room: int
    at: Callable[[jax.Array], tuple[jax.Array, jax.Array]]

    def over(self, each: Callable, begin):
        """each(first, values, said, carry) -> carry over the blocks that are not empty."""

        def turn(b, carry):
            first = b * self.room
            return each(first, *self.at(first), carry)

        return jax.lax.fori_loop(0, -(-self.count // self.room), turn, begin)


def blocks(x: RowsUpdate, wanted: jax.Array, room: int = ROOM) -> Blocks:
    """The rows `wanted` bool[I] of updates [n, L] with ids, as `listed` has them.

    room: numbers of a block.
    """
    n, length = x.live.shape
    most = max(min(n * length, x.size), 1)
    each = max(n * x.values.shape[-1], 1)
    k = min(max(room // each, 1), most)
    number = jnp.cumsum(wanted, dtype=jnp.int32) - 1
    number = jnp.where(wanted, number, FAR)
    of_slot = number.at[x.ids].get(mode="fill", fill_value=FAR)
    client = jnp.arange(n, dtype=jnp.int32)[:, None]
    slots = jnp.arange(length, dtype=jnp.int32)[None, :] + client * length
    flat, nowhere = x.values.reshape(n * length, -1), n * length
    (ids,) = jnp.nonzero(wanted, size=most, fill_value=x.size)

    def at(first):
        place = of_slot - first
        place = jnp.where((place >= 0) & (place < k), place, k)
        slot = jnp.full((n, k), nowhere, jnp.int32).at[client, place].set(slots, mode="drop")
        return flat.at[slot].get(mode="fill", fill_value=0), slot < nowhere

    return Blocks(ids.astype(jnp.int32), wanted.sum(dtype=jnp.int32), k, at)


def touches(x: RowsUpdate) -> jax.Array:
    """int32[I]: how many clients touched each row, of updates as `listed` has them."""
    if x.ids is None:
        return x.live.sum(0, dtype=jnp.int32)
    return jnp.zeros(x.size, jnp.int32).at[x.ids].add(1, mode="drop")
