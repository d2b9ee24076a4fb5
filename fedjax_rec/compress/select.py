"""The k largest coordinates of a node by magnitude, exactly and in their order, and the way back.

Without their sign, floats order as the integers of their bits. So the k-th largest is found by
bisecting over integers, one count of what is at least as large a step:

    t = max {t : #{i : |x_i| >= t} >= k}

What is chosen becomes one bit a coordinate, and the j-th set bit is found by popcounts. Nothing is
sorted. On a CPU this costs 25 to 35 copies of the node, whatever the data and k, where `lax.top_k`
takes 8 to 190. Ties go to the lowest index, so that exactly k are kept.

Of a node with d coordinates the chosen ones are a `RowsUpdate` of width 1 and size d. A table has
d = I * D, whatever rows there are, and coordinate = row id * D + column. `Live` entries count from
the first that is live.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from ..check import holds, static
from ..rows import RowsUpdate
from ..wire import Live, is_node
from .leafwise import count_real, numbers

LANES = 32  # coordinates a word of chosen bits
INFINITY = 0x7F800000  # the bits of float32 infinity: what lies above is no number
# 0.07 * 100 is a little more than 7, and 8 is not meant: what is beyond by less does not count.
ALMOST = 1 - 2**-20


def check_fraction(where: str, name: str, value) -> None:
    """Raises ValueError outside 0 < value <= 1."""
    if not holds(value, lambda x: (x > 0) & (x <= 1)):
        nothing = "is more than all" if value > 1 else "keeps nothing"
        raise ValueError(f"{where}({name}={value}) {nothing}; use 0 < {name} <= 1.")


def check_room(where: str, name: str, value) -> None:
    """`check_fraction` of one that says how much room there is, which cannot be traced."""
    static(where, name, value)
    check_fraction(where, name, value)


def capacity(fraction: float, size: int) -> int:
    """ceil(fraction * size), the room for what is chosen of `size` coordinates."""
    return min(size, math.ceil(fraction * size * (1 - 1e-12)))


def count_kept(fraction, *nodes) -> jax.Array:
    """int32[]: ceil(fraction * n) of the n real coordinates of nodes; fraction may be traced.

    Exact for arrays and a fraction that is a number, else to one in 10^6."""
    sizes = [node.size for node in nodes if not is_node(node)]
    if len(sizes) == len(nodes) and isinstance(fraction, (int, float)):
        return jnp.int32(capacity(fraction, sum(sizes)))
    n = jnp.stack([count_real(*numbers(node)) for node in nodes]).sum()
    return jnp.ceil(n * (fraction * ALMOST)).astype(jnp.int32)


def array_of(node):
    """The array of a node as it is, for its shape and dtype; of an outline, an outline."""
    return node.values if is_node(node) else node


def magnitudes(x: jax.Array) -> jax.Array:
    """int32[...]: integers that order as |x| does, 0 for zeros and for NaN, which rank last."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32) & 0x7FFFFFFF
    return jnp.where(bits <= INFINITY, bits, 0)


def cut(keys: list[jax.Array], k: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(t, ties): the k-th largest of all `keys` together, which are int32[d] and not negative, and
    how many of those equal to t belong to the k largest, or more than there are where all of them
    do. t is 1 where fewer than k are positive."""
    words = [_words(key) for key in keys]

    def count(t):
        # Sums of bytes are what a CPU vectorizes best, three times as fast as one sum of integers.
        counts = [(word >= t).sum(-1, dtype=jnp.int8).sum(dtype=jnp.int32) for word in words]
        return sum(counts[1:], counts[0])

    def halve(state):
        low, high, above = state
        middle = low + (high - low) // 2
        n = count(middle)
        # Where n is k all is said: what is equal to t belongs to it, however many there are.
        high = jnp.where(n > k, high, jnp.where(n == k, middle + 1, middle))
        above = jnp.where(n > k, above, jnp.where(n == k, 0, n))
        return jnp.where(n >= k, middle, low), high, above

    most = jnp.stack([key.max() for key in keys]).max()
    state = jnp.int32(1), jnp.maximum(most, 1) + 1, jnp.int32(0)
    t, _, above = jax.lax.while_loop(lambda state: state[1] - state[0] > 1, halve, state)
    return t, k - above


def positions(key: jax.Array, t: jax.Array, ties: jax.Array, room: int):
    """(int32[room], bool[room]): where `key` int32[d] is above t, and the first `ties` places where
    it equals t, in order; what is left of the room is d and not live."""
    words = _words(key)
    above, equal = _packed(words > t), _packed(words == t)
    count = jax.lax.population_count(equal).astype(jnp.int32)
    mine = ties - (jnp.cumsum(count) - count)
    chosen = above | jnp.where(mine >= count, equal, _below(equal, jnp.maximum(mine, 0)))
    count = jax.lax.population_count(chosen).astype(jnp.int32)
    end = jnp.cumsum(count)
    rank = jnp.arange(room, dtype=jnp.int32)
    # How many words end at or before a rank: the word that it is in, without a search.
    word = jnp.zeros(room, jnp.int32).at[end].add(1, mode="drop").cumsum(dtype=jnp.int32)
    word = jnp.minimum(word, end.shape[0] - 1)
    place = word * LANES + _place(chosen[word], rank - (end - count)[word])
    live = rank < end[-1]
    return jnp.where(live, place, key.shape[0]), live


def largest(key: jax.Array, k: jax.Array, room: int) -> tuple[jax.Array, jax.Array]:
    """`positions` of the k <= room largest of `key`; fewer where fewer are positive."""
    return positions(key, *cut([key], k), room)


def _words(key: jax.Array) -> jax.Array:
    return jnp.pad(key, (0, -key.shape[0] % LANES)).reshape(-1, LANES)


def _packed(bits: jax.Array) -> jax.Array:
    """uint32[w] of bool[w, 32], the first in the lowest bit."""
    shifted = bits.astype(jnp.uint32) << jnp.arange(LANES, dtype=jnp.uint32)
    return jax.lax.reduce(shifted, jnp.uint32(0), jax.lax.bitwise_or, (1,))


def _place(word: jax.Array, rank: jax.Array) -> jax.Array:
    """int32: which bit of uint32 `word` is its set bit number `rank`."""
    place = jnp.zeros_like(rank)
    for width in (16, 8, 4, 2, 1):
        low = (word >> place.astype(jnp.uint32)) & jnp.uint32((1 << width) - 1)
        count = jax.lax.population_count(low).astype(jnp.int32)
        beyond = rank >= count
        rank = rank - jnp.where(beyond, count, 0)
        place = place + jnp.where(beyond, width, 0)
    return place


def _below(word: jax.Array, count: jax.Array) -> jax.Array:
    """The lowest `count` set bits of uint32 `word`, which has more than that."""
    return word & ((jnp.uint32(1) << _place(word, count).astype(jnp.uint32)) - 1)


def size_of(node, what: str) -> int:
    """d of a node: of a table I * D. Raises ValueError where a coordinate is no int32."""
    shape = array_of(node).shape
    if isinstance(node, RowsUpdate):
        shape = (node.size, *shape[1:])
    if math.prod(shape) >= 2**31:
        raise ValueError(
            f"{what}: a table of {' x '.join(map(str, shape))} has 2^31 coordinates or more; "
            "use top_k_per_row(k), or split the table."
        )
    return math.prod(shape)


def picked(node, where: jax.Array, live: jax.Array, what: str) -> RowsUpdate:
    """The coordinates at `where` int32[k] in the array of `node`, as rows of width 1."""
    x, size = numbers(node)[0], size_of(node, what)
    values = jnp.where(live, x.reshape(-1).at[where].get(mode="clip"), 0)
    rows = rows_of(node)
    if rows is not None:
        width = x.size // x.shape[0]
        where = rows.at[where // width].get(mode="clip") * width + where % width
    return RowsUpdate(values[:, None], jnp.where(live, where, size), live, None, size)


def rows_of(node) -> jax.Array | None:
    """int32[L]: what each row is called in coordinates; None where that is its place."""
    if not isinstance(node, Live):
        named = isinstance(node, RowsUpdate) and node.ids is not None
        return jnp.asarray(node.ids) if named else None
    return jnp.cumsum(jnp.asarray(node.live), dtype=jnp.int32) - 1


def placed(chosen: RowsUpdate, entries, node):
    """The node of which `chosen` was picked, zero elsewhere; `node` gives layout and dtype.

    entries: of `Live`, what `touched` says. Of a table in the layout of ids, one row for every id
    among the chosen, and at most as many as `node` has.
    """
    like, dtype = array_of(node).shape, array_of(node).dtype
    live, values = jnp.asarray(chosen.live), jnp.asarray(chosen.values)[:, 0].astype(dtype)
    ids = jnp.where(live, jnp.asarray(chosen.ids), chosen.size)

    def flat(size, where):
        return jnp.zeros(size, dtype).at[where].set(values, mode="drop")

    if isinstance(node, Live):
        blocks = flat(math.prod(like), ids).reshape(like)
        # What arrived holds the live entries alone; here they stand where they stood.
        entries = Live(entries.values, jnp.asarray(entries.live))
        blocks = blocks.at[rows_of(entries)].get(mode="clip")
        real = entries.live.reshape(-1, *[1] * (blocks.ndim - 1))
        return Live(jnp.where(real, blocks, 0), entries.live)
    if not isinstance(node, RowsUpdate):
        return flat(math.prod(like), ids).reshape(like)
    width = math.prod(like[1:])
    row = ids // width
    if node.ids is None:
        there = jnp.zeros(node.size, bool).at[row].set(True, mode="drop")
        return RowsUpdate(flat(chosen.size, ids).reshape(like), None, there, None, node.size)
    first = live & jnp.concatenate([jnp.ones(min(1, row.size), bool), row[1:] != row[:-1]])
    slot = jnp.cumsum(first, dtype=jnp.int32) - 1
    room = min(row.size, like[0])
    where = jnp.where(live, slot * width + ids % width, room * width)
    rows = jnp.full(room, node.size, jnp.int32)
    rows = rows.at[jnp.where(first, slot, room)].set(row, mode="drop")
    values = flat(room * width, where).reshape(room, *like[1:])
    return RowsUpdate(values, rows, rows < node.size, None, node.size)
