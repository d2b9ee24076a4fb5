"""Masks that cancel in a sum modulo 2^b.

    y_i = x_i + m_i + sum_{j in N(i), i < j} m_ij - sum_{j in N(i), j < i} m_ij   (mod 2^b)

m_ij is drawn from a seed that the pair has agreed on, m_i from one of the client's own. N(i) are
all others, or the k nearest on a circle on which the cohort is put at random in each round (the
Harary graph of Bell et al., 2020). What is left of masks in the sum over those who are there is
their m_i, and m_ij of pairs of which one is away: a server that is given these seeds takes it off.

Seeds come from one seed by client ids and round, since this is a simulation; masks are
`keys.counted`, which is statistical and not cryptographic: real ones are AES in counter mode.

Dimensions: `C` places of the cohort, `k` neighbours, `d` numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..types import Now

TOGETHER = 8  # masks that are added in one pass over the numbers
BLOCK = 4096  # numbers that get all of their masks before the next ones do


@dataclass(frozen=True)
class Circle:
    """The cohort of a round. ring: int32[C], its ids around a circle. order: int32[C], the places
    in the cohort that they have. steps: int[k], from a place on the circle to its neighbours. key:
    of the round's masks."""

    ring: jax.Array
    order: jax.Array
    steps: np.ndarray
    key: jax.Array

    def neighbours(self, at) -> jax.Array:
        """int32[..., k]: places on the circle next to `at`, int32[...]."""
        return (jnp.asarray(at)[..., None] + self.steps) % self.ring.shape[0]

    def own(self, client) -> jax.Array:
        """uint32[2]: the seed of m_i."""
        return keys.words(jax.random.fold_in(keys.stream(self.key, "own"), client), 2)

    def shared(self, client, other) -> jax.Array:
        """uint32[2]: the seed of m_ij, the same of i and of j."""
        low, high = jnp.minimum(client, other), jnp.maximum(client, other)
        pairs = keys.stream(self.key, "pairs")
        return keys.words(jax.random.fold_in(jax.random.fold_in(pairs, low), high), 2)


def circle(seed: int, now: Now, neighbours: int) -> Circle:
    """The circle of `now.cohort`, with as many neighbours as there are or one or two more than an
    odd number asked for. It hangs on who takes part, and not on their order."""
    assert now.cohort is not None
    key = keys.of_round(seed, now.round, now.trip)
    salt, turn = keys.words(keys.stream(key, "circle"), 2)
    # A bijection of ids, so that no two of them tie.
    order = jnp.argsort(keys.mix(keys.mix(now.cohort.astype(jnp.uint32) + salt) ^ turn))
    count = now.cohort.shape[0]
    half = -(-neighbours // 2)
    steps = np.arange(1, count)
    if 2 * half < count - 1:
        steps = np.concatenate([steps[:half], steps[count - 1 - half :]])
    return Circle(now.cohort[order], order, steps, key)


def hiding(circle: Circle, client, coded: Callable, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(uint32[d], float32[]): what a client sends of x [d], all its masks upon it, and what `coded`
    counts.

    coded(index uint32[B], x [B]) -> (codes uint32[B], counted bool[B]). In blocks, each of which
    stays in a cache until all masks are on it, and in which XLA does not reckon places in tables.
    """
    others = circle.ring[circle.neighbours(jnp.argmax(circle.ring == client))]
    seeds = jax.vmap(lambda other: circle.shared(client, other))(others)
    seeds = jnp.concatenate([circle.own(client)[None], seeds])
    minus = jnp.concatenate([jnp.zeros(1, bool), client > others])
    size = min(BLOCK, x.size)

    def block(turn, carry):
        sent, seen = carry
        # The last one begins earlier, and says again what the one before it has said.
        start = jnp.minimum(turn * size, x.size - size)
        index = start.astype(jnp.uint32) + jax.lax.iota(jnp.uint32, size)
        codes, told = coded(index, jax.lax.dynamic_slice(x, (start,), (size,)))
        sent = jax.lax.dynamic_update_slice(sent, codes + _all(seeds, minus, index), (start,))
        return sent, seen + (told & (index >= turn.astype(jnp.uint32) * size)).sum()

    begin = jnp.zeros(x.size, jnp.uint32), jnp.int32(0)
    sent, seen = jax.lax.fori_loop(0, -(-x.size // size), block, begin)
    return sent, seen.astype(jnp.float32)


def _all(seeds: jax.Array, minus: jax.Array, index: jax.Array) -> jax.Array:
    """`summed`, of many in groups."""
    whole = len(seeds) // TOGETHER if len(seeds) > 2 * TOGETHER else 0
    first = whole * TOGETHER
    total = summed(seeds[first:], minus[first:], index)
    if not whole:
        return total
    grouped = lambda x: x[:first].reshape(whole, TOGETHER, *x.shape[1:])
    add = lambda total, group: (total + summed(group[0], group[1], index), None)
    return jax.lax.scan(add, total, (grouped(seeds), grouped(minus)))[0]


def left(circle: Circle, there: jax.Array, count: int) -> jax.Array:
    """uint32[count]: what is left of all masks in the sum over those who are there.

    there: bool[C], around the circle. Costs a mask for each of them, and one for each pair of which
    one is away.
    """
    places = circle.ring.shape[0]
    near = circle.neighbours(jnp.arange(places)).reshape(-1)
    at = jnp.concatenate([jnp.arange(places), jnp.repeat(jnp.arange(places), len(circle.steps))])
    other = jnp.concatenate([jnp.arange(places), near])  # itself, where the mask is its own
    known = there[at] & ((at == other) | ~there[other])
    listed, wanted = jnp.nonzero(known, size=known.size, fill_value=0)[0], known.sum()

    def seeds(entry):
        client, beside = circle.ring[at[entry]], circle.ring[other[entry]]
        own = client == beside
        return jnp.where(own, circle.own(client), circle.shared(client, beside)), client > beside

    def group(turn, total):
        entry = turn * TOGETHER + jnp.arange(TOGETHER)
        found, minus = jax.vmap(seeds)(listed[entry])
        return total + summed(found, minus, index, entry < wanted)

    index = jax.lax.iota(jnp.uint32, count)
    turns = -(-wanted // TOGETHER)
    return jax.lax.fori_loop(0, turns, group, jnp.zeros(count, jnp.uint32))


def summed(seeds: jax.Array, minus: jax.Array, index: jax.Array, there=None) -> jax.Array:
    """uint32: numbers `index` of the sum of the masks of seeds uint32[n, 2], those that are `minus`
    bool[n] taken off, and of those that are `there` bool[n] where it is given.

    Unrolled, so that a number stays in a register until all n are added.
    """
    every = jnp.uint32(0xFFFFFFFF)
    words = jnp.where(minus, every, jnp.uint32(0))  # minus x is ~x + 1
    ones = minus if there is None else minus & there
    total = jnp.broadcast_to(ones.sum().astype(jnp.uint32), index.shape)
    for j in range(len(seeds)):
        mask = keys.counted(seeds[j], index) ^ words[j]
        total = total + (mask if there is None else mask & jnp.where(there[j], every, 0))
    return total
