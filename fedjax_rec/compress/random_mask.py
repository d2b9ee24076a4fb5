"""A random part of each node, scaled so that its mean is the node; where it was is a seed.

    C(x)_i = x_i / p  if i in S,  else 0

- `random_k`      S of fixed size, uniform without replacement (Stich, Cordonnier & Jaggi, 2018)
- `random_mask`   every i in S with probability p (Konecny et al., 2016)

Both ends make S from the seed, so that no index travels; of a table the ids of the touched rows
do, since S is among their coordinates. The numbers are the body, a `Live` vector.
"""

from __future__ import annotations

import jax.numpy as jnp

from .. import keys
from ..check import is_traced
from ..rows import RowsUpdate
from ..types import Compressor
from ..wire import Live
from .contradictions import miscounted
from .leafwise import count_real, in_place, nodewise, numbers, touched, with_numbers
from .select import array_of, capacity, check_fraction, check_room, count_kept, rows_of


def random_k(fraction: float = 0.1, scaled: bool = True) -> Compressor:
    """Sends k = ceil(fraction * n) of the n real coordinates of each node, times n / k.

    Unbiased with omega = n/k - 1 exactly, whatever the node. The set is a pseudo-random permutation
    of the coordinates, cut off at k.
    Wire: 32 k bits, a seed of 32, and of a table the ids of its touched rows.

    Args:
        fraction: of the coordinates. It sets shapes, so it cannot be traced.
        scaled: False sends them as they are, for use inside `error_feedback`: biased, and
            E|C(x) - x|^2 = (1 - k/n) |x|^2.

    Returns:
        A `Compressor` without memory, linear for one seed.

    Raises:
        ValueError: outside 0 < fraction <= 1.

    Example:
        >>> uplink = compress.error_feedback(compress.random_k(0.1, scaled=False))
    """
    check_room("random_k", "fraction", fraction)

    def places(seed, node, room: int):
        """(int32[room], bool[room], n / k): where in the array of `node` the set is."""
        n = count_real(*numbers(node))
        k = jnp.minimum(count_kept(fraction, node), room)
        rank = jnp.arange(room, dtype=jnp.uint32)
        live = rank < k
        count = jnp.maximum(n, 1).astype(jnp.uint32)
        seeds = jnp.stack([seed[0], keys.mix(~seed[0])])
        where = keys.permute(jnp.where(live, rank, 0), count, seeds).astype(jnp.int32)
        if isinstance(node, (RowsUpdate, Live)):
            rows = node.live.shape[0]
            width = numbers(node)[0].size // max(1, rows)
            mine = jnp.where(node.live, jnp.cumsum(node.live, dtype=jnp.int32) - 1, rows)
            row = jnp.zeros(rows, jnp.int32).at[mine].set(jnp.arange(rows), mode="drop")
            where = row.at[where // width].get(mode="clip") * width + where % width
        return where, live, n / jnp.maximum(k, 1) if scaled else 1.0

    def encode_node(key, memory, node, now):
        seed, x = keys.words(key, 1), numbers(node)[0].reshape(-1)
        where, live, _ = places(seed, node, capacity(fraction, x.size))
        values = jnp.where(live, x.at[where].get(mode="clip"), 0)
        return memory, Live(values, live), (seed, touched(node))

    def decode_node(body, side, node, now):
        seed, there = side
        node = _blank(there, node)
        x = numbers(node)[0]
        where, live, scale = places(jnp.asarray(seed), node, body.values.shape[0])
        values = (numbers(body)[0] * scale).astype(x.dtype)
        flat = jnp.zeros(x.size, x.dtype)
        flat = flat.at[jnp.where(live, where, x.size)].set(values, mode="drop")
        return with_numbers(node, flat.reshape(x.shape))

    def complaint(body, side, node, now):
        kept = count_kept(fraction, _blank(side[1], node))
        return miscounted("numbers", body.live, kept)

    omega = _omega(fraction, scaled)
    return nodewise(lambda node: (), encode_node, decode_node, True, lambda node: omega, complaint)


def random_mask(fraction: float = 0.1, scaled: bool = True) -> Compressor:
    """Sends every real coordinate with probability p = fraction, times 1 / p.

    Unbiased with omega = 1/p - 1 exactly, whatever the node. A hash of each coordinate says whether
    it is sent; nothing is gathered, so this is quicker than `random_k`, and how many are sent
    varies by sqrt(n p (1 - p)). Wire: about 32 n p bits, a seed of 32, and of a table the ids of
    its touched rows.

    Args:
        fraction: p, in steps of 2^-31; it may be traced.
        scaled: False sends them as they are, for use inside `error_feedback`: biased, and
            E|C(x) - x|^2 = (1 - p) |x|^2.

    Returns:
        A `Compressor` without memory, linear for one seed.

    Raises:
        ValueError: outside 0 < fraction <= 1.

    Example:
        >>> uplink = compress.random_mask(0.1)
    """
    check_fraction("random_mask", "fraction", fraction)

    def chances():
        """float32[]: of 2^31 hashes those that are sent, at least one; exact, p may be traced."""
        return jnp.maximum(jnp.round(jnp.float32(fraction) * 2.0**31), 1.0)

    def mask(seed, node):
        """bool[d], which coordinates in the array of `node` are sent."""
        last = chances().astype(jnp.uint32) * 2 - 1  # for p = 1 it is -1, the last of all
        x, real = numbers(node)
        rows = rows_of(node)
        where = jnp.arange(x.size, dtype=jnp.uint32)
        if rows is not None:
            width = x.size // max(1, x.shape[0])
            columns = jnp.arange(width, dtype=jnp.uint32)
            where = rows.astype(jnp.uint32)[:, None] * jnp.uint32(width) + columns
        drawn = keys.mix(where.reshape(x.shape) + seed[0]) <= last
        return (drawn & real).reshape(-1)

    def encode_node(key, memory, node, now):
        seed, x = keys.words(key, 1), numbers(node)[0].reshape(-1)
        sent = mask(seed, node)
        return memory, Live(jnp.where(sent, x, 0), sent), (seed, touched(node))

    def decode_node(body, side, node, now):
        seed, there = side
        node = _blank(there, node)
        sent = mask(jnp.asarray(seed), node)
        flat = in_place(numbers(body)[0] * (2.0**31 / chances() if scaled else 1.0), sent)
        x = numbers(node)[0]
        return with_numbers(node, flat.astype(x.dtype).reshape(x.shape))

    def complaint(body, side, node, now):
        seed, there = side
        return miscounted("numbers", body.live, mask(seed, _blank(there, node)).sum())

    omega = _omega(fraction, scaled)
    return nodewise(lambda node: (), encode_node, decode_node, True, lambda node: omega, complaint)


def _omega(fraction, scaled: bool):
    fraction = fraction if is_traced(fraction) else float(fraction)
    return 1 / fraction - 1 if scaled else 1 - fraction


def _blank(there, node):
    """A node of zeros with the rows `there`, from `touched`, and otherwise as `node`."""
    like = array_of(node)
    if not isinstance(node, (RowsUpdate, Live)):
        return jnp.zeros(like.shape, like.dtype)
    values = jnp.zeros((there.live.shape[0], *like.shape[1:]), like.dtype)
    live = jnp.asarray(there.live)
    if isinstance(node, Live):
        return Live(values, live)
    ids = None if there.ids is None else jnp.asarray(there.ids)
    return RowsUpdate(values, ids, live, None, node.size)
