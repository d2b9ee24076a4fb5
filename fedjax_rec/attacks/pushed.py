"""What attacks that push items share: who is pushed, where items stand, and how a lie is laid out.

Such an adversary chooses the rows that its clients send, so that what they send is laid out anew:
the rows that it names stand in the place of those that the client touched, in a message as long.

`n` clients, `T` rows that are sent, `I` items, `D` width, `L` rows that an upload has room for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..types import PyTree


def wanted(where: str, targets: Sequence[int]) -> list[int]:
    """The ids of `targets`, or ValueError where they are not distinct items."""
    ids = list(targets)
    if not ids or len(set(ids)) != len(ids) or min(ids) < 0:
        raise ValueError(f"{where}(targets={ids}) names no items; use distinct ids >= 0.")
    return ids


def items_of(where: str, shared: PyTree, targets: Sequence[int] = ()) -> jax.Array:
    """float32[I, D] of the only table of `shared`, whose rows are items, `targets` among them.

    Raises:
        ValueError: for another count of tables or one whose rows are something else, and for a
            target that it does not have.
    """
    tables = rows.tables(trees.trainable(shared))
    if len(tables) != 1 or tables[0].fields != ("items",):
        raise ValueError(
            f"{where} pushes rows of the table of items, and the model has {len(tables)} "
            "tables; use a model with one, such as models.fedmf."
        )
    values = jnp.asarray(tables[0].values, jnp.float32)
    in_catalogue(where, targets, values.shape[0])
    return values


def in_catalogue(where: str, targets: Sequence[int], num_items: int) -> None:
    """Raises ValueError where a target is no row of `num_items`."""
    if targets and max(targets) >= num_items:
        raise ValueError(
            f"{where}(targets={list(targets)}): there is no item {max(targets)}; use ids below "
            f"{num_items}."
        )


def sent(where: str, update: PyTree, lies: jax.Array, ids: jax.Array, said: PyTree) -> PyTree:
    """`update` in which those who lie change the rows `ids`, and dense leaves, as they say, and
    nothing else.

    Args:
        where: whose error it is that there is no room.
        update: leaves [n, ...], tables without origin and factor.
        lies: bool[n].
        ids: int32[T], or [n, T] where each sends rows of its own; each once, `I` or more for none.
        said: structured as `update`: of a table float[T, D] or [n, T, D], of a dense leaf an array
            as one client's or as all clients', or None for zero. See `of_tables`.

    Raises:
        ValueError: where uploads have no room for `T` rows.
    """
    count = ids.shape[-1]

    def rows_of(x: rows.RowsUpdate, ids, values):
        """(values [L, D], ids [L] or None, live [L]) of one who lies."""
        room, width = x.live.shape[1], x.values.shape[-1]
        empty, values = jnp.zeros((room, width), x.values.dtype), values.astype(x.values.dtype)
        none, there = jnp.zeros(room, bool), ids < x.size
        if x.ids is None:
            put = lambda a, b: a.at[ids].set(b, mode="drop")
            return put(empty, values), None, put(none, there)
        first = jnp.arange(count)
        padded = jnp.full(room, x.size, x.ids.dtype).at[first].set(ids.astype(x.ids.dtype))
        values = empty.at[first].set(jnp.where(there[:, None], values, 0))
        return values, padded, none.at[first].set(there)

    def one(x, said):
        put = lambda new, old: jnp.where(trees.leading(lies, old), new, old)
        if not rows.is_table(x):
            return put(jnp.zeros_like(x) if said is None else said.astype(x.dtype), x)
        if x.ids is not None and x.live.shape[1] < count:
            raise ValueError(
                f"{where} sends {count} rows, and uploads have room for {x.live.shape[1]}; have it "
                "send fewer, or clients train on more."
            )
        own = [0 if a.ndim == dims else None for a, dims in ((ids, 2), (said, 3))]
        lay = lambda ids, values: rows_of(x, ids, values)
        lay = lay if own == [None, None] else jax.vmap(lay, own)
        values, where_to, live = lay(ids, said)
        where_to = None if x.ids is None else put(where_to, x.ids)
        return replace(x, values=put(values, x.values), ids=where_to, live=put(live, x.live))

    return rows.map_nodes(one, update, said)


def beside(update: PyTree, lies: jax.Array, ids: jax.Array, values: jax.Array) -> PyTree:
    """`update` in which those who lie change the rows `ids` of its tables by `values`, and all else
    as they did. Where a message has no room left, a row of theirs makes place.

    Args:
        update: leaves [n, ...], tables without origin and factor.
        lies: bool[n].
        ids: int32[T], each once.
        values: float[n, T, D].
    """

    def rows_of(x: rows.RowsUpdate, values):
        """(values, ids, live) of one who lies."""
        values = values.astype(x.values.dtype)
        if x.ids is None:
            return x.values.at[ids].set(values), None, x.live.at[ids].set(True)
        live = x.live & ~jnp.isin(x.ids, ids)
        slots = jnp.argsort(live)[: ids.size]  # those that hold nothing come first
        kept = jnp.where(live[:, None], x.values, 0).at[slots].set(values)
        named = jnp.where(live, x.ids, x.size).at[slots].set(ids.astype(x.ids.dtype))
        return kept, named, live.at[slots].set(True)

    def one(x):
        if not rows.is_table(x):
            return x
        made = jax.vmap(rows_of)(x, values)
        put = lambda new, old: jnp.where(trees.leading(lies, old), new, old)
        values_, ids_, live = (
            old if new is None else put(new, old)
            for new, old in zip(made, (x.values, x.ids, x.live), strict=True)
        )
        return replace(x, values=values_, ids=ids_, live=live)

    return rows.map_nodes(one, update)


def of_tables(update: PyTree, values: jax.Array) -> PyTree:
    """What says `values` of each table of `update` and nothing of dense leaves, for `sent`."""
    return rows.map_nodes(lambda x: values if rows.is_table(x) else None, update)


def in_turn(
    lies: jax.Array, client: jax.Array, state: PyTree, one: Callable[..., tuple[PyTree, Any]]
):
    """(state, made [n, ...]) after each who lies had its turn, in the order of their ids; it costs
    what one of them costs times how many there are.

    Args:
        lies: bool[n].
        client: int32[n], the ids.
        state: what goes from one to the next.
        one: one(k, state) -> (state, made) of who stands in place k; others are left at zero.
    """
    order = jnp.lexsort((client, ~lies))
    outline = jax.eval_shape(one, jnp.int32(0), state)[1]
    empty = jax.tree.map(lambda x: jnp.zeros((lies.size, *x.shape), x.dtype), outline)

    def turn(i, carry):
        state, all_made = carry
        state, made = one(order[i], state)
        put = lambda x, new: x.at[order[i]].set(new)
        return state, jax.tree.map(put, all_made, made)

    return jax.lax.fori_loop(0, lies.sum(), turn, (state, empty))
