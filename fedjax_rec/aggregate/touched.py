"""Order and sums among the clients that touched a row, for rules that go coordinate by coordinate.

Most clients do not touch most rows. To a rule that goes by coordinates, those that did not touch a
row have said nothing of it: they are no zeros, of which a median would be made nearly everywhere.
Of a dense leaf everybody said something.

A group is what was said of one row, or of one dense leaf: `G` of them. Where rows have ids, the
rows of all clients stand one after another by their ids and are sorted within each group, so that
no table is laid out for each client: m log m for each of `D` coordinates, of m = n L rows.

`n` clients, `L` rows of an update, `I` rows of a table, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least
from ..rows import RowsUpdate
from ..types import Aggregator, PyTree
from .listed import Listed, count, listing, refuse_too_few


@dataclass(frozen=True)
class Stacked:
    """Groups side by side. values: float[n, G, D]; there: bool[n, G, 1]."""

    values: jax.Array
    there: jax.Array

    @property
    def count(self) -> jax.Array:
        """int32[G, 1]: how many clients are in each group."""
        return self.there.sum(0, dtype=jnp.int32)

    @property
    def place(self) -> jax.Array:
        """int32[n, 1, 1]: of each entry in the order of its group, from 0."""
        return jnp.arange(self.there.shape[0])[:, None, None]

    def in_order(self, by: jax.Array | None = None) -> jax.Array:
        """float[n, G, D]: `values` from the smallest to the largest, or by the numbers `by` and
        where these are equal by their own; what nobody said is last."""
        return _sorted([], self.there, by, self.values)

    def each(self, x: jax.Array) -> jax.Array:
        """x [G, ...] of its group, for each entry."""
        return x[None]

    def total(self, x: jax.Array) -> jax.Array:
        """float[G, D]: the sum over each group."""
        return x.sum(0)


@dataclass(frozen=True)
class OneAfterAnother:
    """Groups one after another. values: float[m, D]; there: bool[m, 1]; group: int32[m], sorted."""

    values: jax.Array
    there: jax.Array
    group: jax.Array

    @property
    def count(self) -> jax.Array:
        return self.total(self.there.astype(jnp.int32))

    @property
    def place(self) -> jax.Array:
        here = jnp.arange(self.group.shape[0])
        first = jax.ops.segment_min(here, self.group, here.shape[0], indices_are_sorted=True)
        return (here - first[self.group])[:, None]

    def in_order(self, by: jax.Array | None = None) -> jax.Array:
        group = jnp.broadcast_to(self.group[:, None], self.values.shape)
        return _sorted([group], self.there, by, self.values)

    def each(self, x: jax.Array) -> jax.Array:
        return x[self.group]

    def total(self, x: jax.Array) -> jax.Array:
        room = self.group.shape[0]
        return jax.ops.segment_sum(x, self.group, room, indices_are_sorted=True)


def _sorted(first: list, there, by, values) -> jax.Array:
    """`values` in the order of `first`, `by` and themselves; those that are not there last."""
    keys = [_in_order_of_bits(jnp.where(there, x, jnp.inf)) for x in (by, values) if x is not None]
    keys = [*first, *keys]
    # What is equal in all keys is the same number, so it need not keep its place.
    found = jax.lax.sort(keys, dimension=0, num_keys=len(keys), is_stable=False)[-1]
    return jax.lax.bitcast_convert_type(_turned(found), jnp.float32)


def _in_order_of_bits(x: jax.Array) -> jax.Array:
    """int32 in the order of float32, which a CPU sorts in a fifth of the time."""
    return _turned(jax.lax.bitcast_convert_type(x, jnp.int32))


def _turned(bits: jax.Array) -> jax.Array:
    """The bits of negative numbers, larger where the number is smaller; its own inverse."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


Groups = Stacked | OneAfterAnother


def between(groups: Groups, values: jax.Array, low, high) -> jax.Array:
    """float[G, D]: the mean of the entries `low` to `high - 1` of `values`, which are in order."""
    low, high = (jnp.broadcast_to(x, groups.count.shape) for x in (low, high))
    within = (groups.place >= groups.each(low)) & (groups.place < groups.each(high))
    return groups.total(jnp.where(within, values, 0)) / jnp.maximum(high - low, 1)


def median_of(groups: Groups) -> jax.Array:
    """float[G, D]: the median of each group; of an even number, the mean of the two in the middle.
    Of an empty group it means nothing."""
    count = groups.count
    return between(groups, groups.in_order(), (count - 1) // 2, count // 2 + 1)


def of_groups(rule: Callable[[Groups], jax.Array], uploads: Listed, least, floor) -> PyTree:
    """rule(groups) -> float[G, D] of every leaf, where enough clients said something.

    Args:
        rule: on the groups of one leaf.
        uploads: of all clients.
        least: clients that the rule takes at least; of fewer, what it is about does not move.
        floor: and of a row.

    Returns:
        An update. Rows of fewer clients are not live and zero.
    """

    def one(x):
        if not rows.is_table(x):
            groups = _of_array(x, uploads.there)
            made = jnp.where(groups.count >= least, rule(groups), 0)
            return made.reshape(x.shape[1:])
        groups, ids = _of_rows(x)
        live = groups.count >= jnp.maximum(least, floor)
        made = jnp.where(live, rule(groups), 0)
        return RowsUpdate(made, ids, live[:, 0], None, x.size)

    return rows.map_nodes(one, uploads.update)


def leaving_out(where: str, rule: Callable[[Groups, int], jax.Array], f: int, floor) -> Aggregator:
    """The aggregator `where` of rule(groups, f) -> float[G, D], of clients that count once each;
    groups of 2f entries or fewer do not move.

    Raises:
        ValueError: for f below 0 or a floor below 1; and in a round that has room for 2f clients or
            fewer.
    """
    at_least(where, "f", f, 0)
    at_least(where, "floor", floor, 1)

    def finish(key, state, uploads, now):
        refuse_too_few(where, f, uploads.there, 2, 1)
        update = of_groups(lambda groups: rule(groups, f), uploads, 2 * f + 1, floor)
        verdicts = uploads.there & (count(uploads.there) > 2 * f)
        return state, update, verdicts.astype(jnp.float32)

    return listing(finish)


def _of_array(x: jax.Array, there: jax.Array) -> Stacked:
    n = there.shape[0]
    return Stacked(x.reshape(n, 1, x.size // n), there[:, None, None])


def _of_rows(x: RowsUpdate) -> tuple[Groups, jax.Array | None]:
    """(groups, the ids of their rows, `I` for none) of the updates of a table."""
    if x.ids is None:
        return Stacked(x.values, x.live[..., None]), None
    ids = jnp.asarray(x.ids).reshape(-1)
    order = jnp.argsort(ids)
    ids = ids[order]
    group = jnp.cumsum(jnp.append(False, ids[1:] != ids[:-1]), dtype=jnp.int32)
    there = (ids < x.size)[:, None]
    values = x.values.reshape(-1, x.values.shape[-1])[order]
    named = jnp.full(ids.shape, x.size, ids.dtype).at[group].set(ids)
    return OneAfterAnother(values, there, group), named
