"""Order among the clients that touched a row, for rules that go coordinate by coordinate.

Most clients do not touch most rows. To a rule that goes by coordinates, those that did not touch a
row have said nothing of it: they are no zeros, of which a median would be made nearly everywhere.
Of a dense leaf everybody said something.

A group is what was said of one row, or of one dense leaf, some of its coordinates at a time: `G` of
them side by side. Nothing is sorted. The k-th smallest of a coordinate is found bit by bit,

    t <- t + 2^b  where at most k are below t + 2^b,   b = 31, ..., 0

on integers in the order of the floats, first of the upper sixteen bits and then, among those that
have the same, of the lower: 32 passes over short integers that are in a cache, each of them a
comparison and a count, of which a CPU does sixteen or more at a time. Rows with ids are laid out in
blocks (`blocks`), and only those that enough clients touched.

`n` clients, `I` rows of a table, `D` width, `P` numbers of a dense leaf.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least
from ..rows import RowsUpdate
from ..types import Aggregator, PyTree
from .blocks import blocks, touches
from .listed import count, listing, refuse_too_few

MOST = 2**31 - 1
CACHED = 2**17  # numbers that are looked at 32 times in a row
SHORT = 2**15  # as many as short integers count


@dataclass(frozen=True)
class Groups:
    """Groups side by side. values: float[n, G, D], 0 where nobody said anything; there:
    bool[n, G, 1], who said something."""

    values: jax.Array
    there: jax.Array

    @property
    def count(self) -> jax.Array:
        """int32[G, 1]: how many clients are in each group."""
        return number(self.there)

    def ordered(self, values: jax.Array | None = None) -> jax.Array:
        """int32[n, G, D]: `values`, their own for None, as integers in their order; what nobody
        said is after all others."""
        values = self.values if values is None else values
        return jnp.where(self.there, _in_order_of_bits(values), MOST)


def held(x: jax.Array, there: jax.Array) -> jax.Array:
    """`x`, of which there is one: what is made of it twice is made of the same bits.

    XLA computes what is cheap anew in each place that reads it, and a product and a difference may
    be one operation there, with one rounding less. What is then compared with the k-th smallest is
    no number that was looked at. A branch that hangs on numbers is kept (a barrier is not, on a
    CPU).
    there: bool[...], who is there; of nobody, `x` means nothing.
    """
    return jax.lax.cond(there.any(), lambda x: x, jnp.zeros_like, x)


def total(x: jax.Array) -> jax.Array:
    """float[...]: the sum over the first axis of float[n, ...]."""
    # As a product: a sum over the first axis of a stack is far slower.
    flat = x.reshape(x.shape[0], x.size // max(x.shape[0], 1))
    ones = jnp.ones(x.shape[0], x.dtype)
    return jnp.matmul(ones, flat, precision="highest").reshape(x.shape[1:])


def number(chosen: jax.Array) -> jax.Array:
    """int32[...]: how many of bool[n, ...] hold."""
    short = chosen.shape[0] < SHORT
    return chosen.sum(0, dtype=jnp.int16 if short else jnp.int32).astype(jnp.int32)


def smallest(ordered: jax.Array, k) -> jax.Array:
    """int32[...]: the k-th smallest, from 0, of `ordered` int32[n, ...]; k: int32[...], or less."""
    low_of = lambda x: ((x & 0xFFFF) - SHORT).astype(jnp.int16)
    high = (ordered >> 16).astype(jnp.int16)
    upper = _smallest_of_short(high, k)
    same = high == upper
    # Those with the same upper bits; all others are after them.
    low = jnp.where(same, low_of(ordered), jnp.int16(SHORT - 1))
    lower = _smallest_of_short(low, k - number(high < upper))
    return (upper.astype(jnp.int32) << 16) | (lower.astype(jnp.int32) + SHORT)


def _smallest_of_short(ordered: jax.Array, k) -> jax.Array:
    """int16[...]: the k-th smallest of int16[n, ...]."""

    def turn(i, found):
        further = found + jax.lax.shift_left(jnp.int16(1), (15 - i).astype(jnp.int16))
        return jnp.where(number(ordered < further) <= k, further, found)

    begin = jnp.full(ordered.shape[1:], -SHORT, jnp.int16)
    return jax.lax.fori_loop(0, 16, turn, begin)


def value(ordered: jax.Array) -> jax.Array:
    """The float that an integer of `Groups.ordered` stands for."""
    return jax.lax.bitcast_convert_type(_turned(ordered), jnp.float32)


def median_of(groups: Groups) -> jax.Array:
    """float[G, D]: the median of each group; of an even number, the mean of the two in the middle.
    Of an empty group it means nothing."""
    ordered, n = groups.ordered(), groups.count
    low = smallest(ordered, (n - 1) // 2)
    above = jnp.where(ordered > low, ordered, MOST).min(0, initial=MOST)
    again = number(ordered <= low) > n // 2
    return held((value(low) + value(jnp.where(again, low, above))) / 2, groups.there)


def of_groups(rule: Callable[[Groups], jax.Array], uploads, least, floor) -> PyTree:
    """rule(groups) -> float[G, D] of every leaf, where enough clients said something.

    Args:
        rule: on the groups of one leaf.
        uploads: of all clients, `Listed`.
        least: clients that the rule takes at least; of fewer, what it is about does not move.
        floor: and of a row.

    Returns:
        An update. Rows of fewer clients are not live and zero.
    """

    def enough(groups: Groups, least) -> jax.Array:
        return jnp.where(groups.count >= least, rule(groups), 0)

    def one(x):
        if not rows.is_table(x):
            flat = held(x, uploads.there)
            return _of_array(lambda groups: enough(groups, least), flat, uploads.there)
        fewest = jnp.maximum(least, floor)
        moving = touches(x) >= fewest
        by_row = lambda values, said: _of_rows(lambda g: enough(g, fewest), values, said)
        values = held(x.values, uploads.there)
        if x.ids is None:
            return RowsUpdate(by_row(values, x.live), None, moving, None, x.size)
        some = blocks(replace(x, values=values), moving)
        made = jnp.zeros((some.ids.shape[0] + some.room, x.values.shape[-1]))

        def put(first, values, said, made):
            return jax.lax.dynamic_update_slice(made, by_row(values, said), (first, 0))

        made = some.over(put, made)[: some.ids.shape[0]]
        return RowsUpdate(made, some.ids, some.ids < x.size, None, x.size)

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


def _of_array(rule: Callable, x: jax.Array, there: jax.Array) -> jax.Array:
    """rule of a dense leaf [n, ...], as one group, some of its coordinates at a time."""
    n, shape = x.shape[0], x.shape[1:]
    flat = x.reshape(n, x.size // n)

    def some(first, width):
        part = jax.lax.dynamic_slice_in_dim(flat, first, width, 1)
        return rule(Groups(part[:, None], there[:, None, None]))[0]

    return _in_parts(some, flat.shape[1], n, ()).reshape(shape)


def _of_rows(rule: Callable, values: jax.Array, said: jax.Array) -> jax.Array:
    """float[K, D]: rule of rows [n, K, D], some of them at a time."""
    n, _, d = values.shape

    def some(first, width):
        part = jax.lax.dynamic_slice_in_dim(values, first, width, 1)
        who = jax.lax.dynamic_slice_in_dim(said, first, width, 1)
        return rule(Groups(part, who[..., None]))

    return _in_parts(some, values.shape[1], n * d, (d,))


def _in_parts(some: Callable, length: int, each: int, shape: tuple) -> jax.Array:
    """float[length, *shape] of some(first, width) -> float[width, *shape], as many at a time as fit
    into a cache. each: numbers that one of them takes."""
    width = min(max(CACHED // max(each, 1), 1), length)
    if not width:
        return jnp.zeros((0, *shape))

    def turn(b, made):
        # The last part begins earlier, so that it has as many: what is made twice is the same.
        first = jnp.minimum(b * width, length - width)
        return jax.lax.dynamic_update_slice_in_dim(made, some(first, width), first, 0)

    return jax.lax.fori_loop(0, -(-length // width), turn, jnp.zeros((length, *shape)))


def _in_order_of_bits(x: jax.Array) -> jax.Array:
    """int32 in the order of float32."""
    return _turned(jax.lax.bitcast_convert_type(x, jnp.int32))


def _turned(bits: jax.Array) -> jax.Array:
    """The bits of negative numbers, larger where the number is smaller; its own inverse."""
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
