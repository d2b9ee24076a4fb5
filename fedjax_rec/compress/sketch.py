"""Count sketches: T[r, h_r(i)] += s_r(i) x_i, from which every x_i can be estimated.

    x_i ~ median_r s_r(i) T[r, h_r(i)],   h_r(i) one of c columns, s_r(i) = +-1

(Charikar, Chen & Farach-Colton, 2002.) A sketch is linear: that of a sum is the sum of sketches,
so a server can add up sketches of clients and look for large coordinates in the total alone, which
is FetchSGD (Rothchild et al., ICML 2020), `strategies.fetch_sgd`. Estimates of one row are unbiased
with variance (|x|^2 - x_i^2) / c; so is the median of an odd number of rows, which the tails of a
few heavy coordinates do not move.

Hashes are `keys.mix` of the coordinate and a word of the row; whoever knows the words knows them.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import check, keys
from ..check import at_least
from ..rows import RowsUpdate
from ..types import Compressor
from ..wire import Live
from .leafwise import nodewise, numbers, room, touched, with_numbers

# Coordinates that are estimated at a time, so that their rows never take more than the update.
TILE = 4096


def count_sketch(rows: int = 5, columns: int = 1024, seed: int = 0) -> Compressor:
    """Sends a sketch of each node, with hashes that all clients share, new in every round.

    Unbiased over rounds, or seeds, for an odd number of rows; the error is large, d |x|^2 / c over
    d coordinates for one row: it is the mean of many clients, or `strategies.fetch_sgd`, that
    makes a sketch useful. A node with room for at most rows * columns numbers is sent as it is.
    Wire: 32 * rows * columns bits a node, and of a table the ids of its touched rows.

    Args:
        rows: of the sketch. Up to two decode linearly; the median of more does not.
        columns: c.
        seed: of the hashes.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: for rows or columns < 1, and for no seed of 32 bits.

    Example:
        >>> uplink = compress.count_sketch(rows=5, columns=1024)
    """
    at_least("count_sketch", "rows", rows, 1)
    at_least("count_sketch", "columns", columns, 1)
    check.seed("count_sketch", seed)

    def encode_node(key, memory, node, now):
        x = numbers(node)[0]
        if room(node) <= rows * columns:
            return memory, node, ()
        words = hash_words(seed, now.round, rows, now.trip)
        table = sketch(x.reshape(-1), coordinates(node).reshape(-1), words, columns)
        return memory, table.astype(x.dtype), touched(node)

    def decode_node(table, touched, node, now):
        like = numbers(node)[0]
        if room(node) <= rows * columns:
            return table
        if isinstance(node, (RowsUpdate, Live)):
            shape = (touched.live.shape[0], *like.shape[1:])
            node = replace(touched, values=jnp.zeros(shape, like.dtype))
        where, words = coordinates(node), hash_words(seed, now.round, rows, now.trip)
        x = estimate(table, where.reshape(-1), words).reshape(where.shape)
        return with_numbers(node, jnp.where(numbers(node)[1], x, 0).astype(like.dtype))

    # The median of one number, or two, is linear in them.
    def omega(node):
        return room(node) / columns if room(node) > rows * columns else 0.0

    return nodewise(lambda node: (), encode_node, decode_node, rows <= 2, omega)


def hash_words(seed: int, round, rows: int, trip: int = 0) -> jax.Array:
    """uint32[rows]: the words that the hashes of round `round` are made with."""
    return keys.words(keys.of_round(seed, round, trip), rows)


def coordinates(node) -> jax.Array:
    """uint32, as the array of `node`: the number of each coordinate. In a table that is
    id * D + column, whatever rows are there; in `Live`, entries count from the first that is."""
    x = numbers(node)[0]
    whole = x.size // max(1, x.shape[0]) * node.size if isinstance(node, RowsUpdate) else x.size
    if whole > 2**32:
        raise ValueError(
            f"count_sketch: a node of {whole} coordinates has more than there are hashes of 32 "
            "bits, and two that share one would always meet; use random_mask, or a narrower table."
        )
    if isinstance(node, RowsUpdate):
        row = jnp.arange(x.shape[0]) if node.ids is None else jnp.asarray(node.ids)
    elif isinstance(node, Live):
        row = jnp.cumsum(jnp.asarray(node.live)) - 1
    else:
        return jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
    width = x.size // max(1, x.shape[0])
    first = row.astype(jnp.uint32)[:, None] * jnp.uint32(width)
    return (first + jnp.arange(width, dtype=jnp.uint32)).reshape(x.shape)


def sketch(x: jax.Array, where: jax.Array, words: jax.Array, columns: int) -> jax.Array:
    """float32[rows, columns]: T of the numbers x [d] at the coordinates `where`."""

    def one(word):
        column, sign = _hashed(where, word, columns)
        return jnp.zeros(columns).at[column].add(sign * x, mode="promise_in_bounds")

    return jax.lax.map(one, words)


def estimate(table: jax.Array, where: jax.Array, words: jax.Array) -> jax.Array:
    """float32[d]: what the sketch says of the coordinates `where`."""
    if not where.size:
        return jnp.zeros(where.shape)
    table, words = jnp.asarray(table), jnp.asarray(words)

    def one(i):
        seen = []
        for r in range(table.shape[0]):
            column, sign = _hashed(i, words[r], table.shape[1])
            seen.append(sign * table[r].at[column].get(mode="promise_in_bounds"))
        return _median(seen)

    return jax.lax.map(one, where, batch_size=min(TILE, where.size))


def _hashed(where: jax.Array, word: jax.Array, columns: int) -> tuple[jax.Array, jax.Array]:
    """(column, sign): the high bits of a word for one, the lowest for the other."""
    bits = keys.mix(where ^ word)
    sign = 1.0 - 2.0 * (bits & 1).astype(jnp.float32)
    return keys.below(bits, jnp.uint32(columns)), sign


def _median(values: list[jax.Array]) -> jax.Array:
    """By a sorting network, since sorting a short axis costs XLA fifty times as much."""
    values = list(values)
    for turn in range(len(values)):
        for i in range(turn % 2, len(values) - 1, 2):
            a, b = values[i], values[i + 1]
            values[i], values[i + 1] = jnp.minimum(a, b), jnp.maximum(a, b)
    half = len(values) // 2
    return values[half] if len(values) % 2 else 0.5 * (values[half - 1] + values[half])
