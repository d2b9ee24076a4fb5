"""Masks that cancel in a sum modulo 2^b.

    y_i = x_i + m_i + sum_{j in N(i), i < j} m_ij - sum_{j in N(i), j < i} m_ij   (mod 2^b)

m_ij is drawn from a seed that the pair has agreed on, m_i from one of the client's own. N(i) are
all others, or the k nearest on a circle on which the cohort is put at random in each round (the
Harary graph of Bell et al., 2020). What is left of masks in the sum over those who are there is
their m_i, and m_ij of pairs of which one is away: a server that is given these seeds takes it off.

Seeds come from one seed by client ids and round, since this is a simulation; masks are drawn by
`keys.mix`, which is statistical and not cryptographic: real ones are AES in counter mode.

Dimensions: `C` places of the cohort, `k` neighbours, `d` numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..types import Now


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

    def own(self, client, count: int) -> jax.Array:
        """uint32[count]: m_i."""
        return _stream(jax.random.fold_in(keys.stream(self.key, "own"), client), count)

    def shared(self, client, other, count: int) -> jax.Array:
        """uint32[count]: m_ij as i has it, which is minus what j has."""
        low, high = jnp.minimum(client, other), jnp.maximum(client, other)
        pairs = keys.stream(self.key, "pairs")
        mask = _stream(jax.random.fold_in(jax.random.fold_in(pairs, low), high), count)
        return jnp.where(client < other, mask, jnp.uint32(0) - mask)


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


def hiding(circle: Circle, client, count: int) -> jax.Array:
    """uint32[count]: all masks of one client."""
    others = circle.ring[circle.neighbours(jnp.argmax(circle.ring == client))]
    add = lambda total, other: (total + circle.shared(client, other, count), None)
    return jax.lax.scan(add, circle.own(client, count), others)[0]


def left(circle: Circle, there: jax.Array, count: int) -> jax.Array:
    """uint32[count]: what is left of all masks in the sum over those who are there.

    there: bool[C], around the circle. Costs a mask for each of them, and one for each pair of which
    one is away.
    """

    same = lambda total: total

    def place(at, total):
        client = circle.ring[at]

        def pair(total, other):
            add = lambda total: total + circle.shared(client, circle.ring[other], count)
            return jax.lax.cond(there[at] & ~there[other], add, same, total), None

        total = jax.lax.scan(pair, total, circle.neighbours(at))[0]
        add = lambda total: total + circle.own(client, count)
        return jax.lax.cond(there[at], add, same, total)

    return jax.lax.fori_loop(0, circle.ring.shape[0], place, jnp.zeros(count, jnp.uint32))


def _stream(key, count: int) -> jax.Array:
    """uint32[count] from 63 bits of `key`."""
    first, second = keys.words(key, 2)
    return keys.mix(jnp.arange(count, dtype=jnp.uint32) * (first | 1) + second)
