"""Which clients take part in a round, drawn inside jit.

A cohort is int32[C] client ids of a static size C, where `id == num_clients` marks an empty place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .. import check, keys
from ..check import at_least, below, fraction, positive, static
from ..made import part
from ..privacy import Sampling, fixed_size, in_order, poisson_sampled


@part
class Cohorts:
    """size(num_clients) -> C; draw(key, round, num_clients) -> int32[C]. sampling(num_clients): how
    an accountant of `privacy` may take it; None where none can."""

    size: Callable[[int], int]
    draw: Callable[..., jax.Array]
    sampling: Callable[[int], Sampling] | None = None


def _within(where: str, size: int, num_clients: int) -> int:
    if size > num_clients:
        raise ValueError(
            f"{where}(size={size}) asks for more clients than the {num_clients} there are; "
            f"use size <= {num_clients}."
        )
    return size


def full() -> Cohorts:
    """Everyone, every round.

    Example:
        >>> cohorts = simulate.full()
        >>> cohorts.size(30)
        30
    """
    return Cohorts(
        lambda n: n,
        lambda key, round, n: jnp.arange(n, dtype=jnp.int32),
        lambda n: poisson_sampled(1.0, n),
    )


def uniform(size: int) -> Cohorts:
    """`size` distinct clients, uniformly.

    Args:
        size: C, clients of a round. 1 or more, and no more than there are.

    Raises:
        ValueError: for a size below 1; and, where clients are drawn, for more than there are.

    Example:
        >>> ids = simulate.uniform(4).draw(key, 0, 30)
        >>> ids.shape
        (4,)
    """
    at_least("uniform", "size", size, 1)

    def draw(key, round, n):
        return jax.random.choice(key, n, (_within("uniform", size, n),), replace=False).astype(
            jnp.int32
        )

    return Cohorts(
        lambda n: _within("uniform", size, n),
        draw,
        lambda n: poisson_sampled(1.0, n) if size == n else fixed_size(size, n),
    )


def fixed(ids: Sequence[int]) -> Cohorts:
    """The same clients every round.

    Args:
        ids: of the clients, each once.

    Raises:
        ValueError: for no ids or repeated ones; and, where clients are drawn, for ids of none.

    Example:
        >>> simulate.fixed([3, 5]).draw(key, 0, 30).tolist()
        [3, 5]
    """
    chosen = np.asarray(ids, np.int32)
    if chosen.ndim != 1 or len(np.unique(chosen)) != len(chosen) or not len(chosen):
        raise ValueError(f"fixed(ids={list(ids)}) must name distinct clients, at least one.")

    def size(n):
        if chosen.min() < 0 or chosen.max() >= n:
            raise ValueError(f"fixed(ids={list(ids)}) names clients outside 0..{n - 1}.")
        return len(chosen)

    return Cohorts(size, lambda key, round, n: jnp.asarray(chosen))


def poisson(rate: float, largest: int | None = None) -> Cohorts:
    """Each client independently with probability `rate`, as privacy accounting assumes.

    Args:
        rate: in (0, 1]; may be traced where `largest` is given.
        largest: places of the cohort; default six standard deviations above the mean, which a round
            exceeds with probability under 1e-8. Clients beyond it, chosen uniformly, are left out.

    Raises:
        ValueError: for a rate out of range, a traced one without `largest`, or largest below 1.

    Example:
        >>> cohorts = simulate.poisson(0.2)
        >>> cohorts.sampling(30).rate
        0.2
    """
    positive("poisson", "rate", rate)
    fraction("poisson", "rate", rate)
    if largest is None:
        static("poisson", "rate", rate)
    else:
        at_least("poisson", "largest", largest, 1)

    def size(n):
        mean = n * rate
        places = largest or int(np.ceil(mean + 6 * np.sqrt(mean * (1 - rate)) + 1))
        return max(1, min(n, places))

    def draw(key, round, n):
        coin, order = jax.random.split(key)
        return _places(jax.random.bernoulli(coin, rate, (n,)), order, size(n))

    return Cohorts(size, draw, lambda n: poisson_sampled(float(rate), n, size(n)))


def in_turns(size: int, seed: int = 0) -> Cohorts:
    """All clients one cohort after another, and again in the same order.

    A pass takes b = ceil(N / size) rounds, over which clients are dealt evenly, so that cohorts
    differ by one client at most; each client takes part in every b-th round. Noise that is
    correlated over rounds needs that (`privacy.banded`).

    Args:
        size: most clients of a round. 1 or more.
        seed: of the order.

    Raises:
        ValueError: for a size below 1, or no seed of 32 bits; and, where clients are drawn, for
            more than there are.

    Example:
        >>> cohorts = simulate.in_turns(10)
        >>> cohorts.sampling(30).apart
        3
    """
    at_least("in_turns", "size", size, 1)
    check.seed("in_turns", seed)

    def starts(n):
        period = -(-n // _within("in_turns", size, n))
        return np.arange(period + 1) * n // period

    def draw(key, round, n):
        first = jnp.asarray(starts(n), jnp.int32)
        turn = round % (len(first) - 1)
        place = first[turn] + jnp.arange(int(np.diff(starts(n)).max()))
        words = keys.words(keys.stream(jax.random.key(seed), "order"), 2)
        ids = keys.permute(jnp.minimum(place, n - 1).astype(jnp.uint32), jnp.uint32(n), words)
        return jnp.where(place < first[turn + 1], ids.astype(jnp.int32), n)

    return Cohorts(
        lambda n: int(np.diff(starts(n)).max()),
        draw,
        lambda n: in_order(len(starts(n)) - 1, n),
    )


def available(probability: Sequence[float] | Sequence[Sequence[float]], size: int) -> Cohorts:
    """Up to `size` of the clients that are there, uniformly.

    Args:
        probability: float[N], how likely each client is there in a round; or float[T, N], a trace
            whose row `round % T` counts, so that 0 and 1 replay a recorded one.
        size: C, places of the cohort. 1 or more, and no more than there are clients.

    Raises:
        ValueError: for what is no probability, or a size out of range; and, where the cohort is
            drawn, for another number of clients.

    Example:
        >>> nights = [[1.0] * 15 + [0.0] * 15, [0.0] * 15 + [1.0] * 15]
        >>> bool((simulate.available(nights, size=4).draw(key, 1, 30) >= 15).all())
        True
    """
    table = np.atleast_2d(np.asarray(probability, np.float32))
    if not ((table >= 0) & (table <= 1)).all():  # NaN, too
        raise ValueError("available(probability=...) must lie between 0 and 1.")
    at_least("available", "size", size, 1)

    def places(n):
        if table.shape[1] != n:
            raise ValueError(
                f"available(probability=...) describes {table.shape[1]} clients and there are {n}."
            )
        return _within("available", size, n)

    def draw(key, round, n):
        coin, order = jax.random.split(key)
        there = jax.random.uniform(coin, (n,)) < jnp.asarray(table)[round % table.shape[0]]
        return _places(there, order, places(n))

    return Cohorts(places, draw)


def dropout(cohorts: Cohorts, rate: float) -> Cohorts:
    """`cohorts`, of which each client fails to report: it is as if it had never been drawn, and
    its place stays empty.

    Args:
        cohorts: who is asked.
        rate: the probability that a client fails. In [0, 1), may be traced.

    Raises:
        ValueError: for a rate out of range.

    Example:
        >>> cohorts = simulate.dropout(simulate.uniform(8), rate=0.25)
    """
    fraction("dropout", "rate", rate)
    below("dropout", "rate", rate, 1)

    def draw(key, round, n):
        inner, coin = jax.random.split(key)
        ids = cohorts.draw(inner, round, n)
        return jnp.where(jax.random.bernoulli(coin, rate, ids.shape), n, ids)

    return Cohorts(cohorts.size, draw)


def without(cohorts: Cohorts, clients: Sequence[int]) -> Cohorts:
    """`cohorts`, in which some clients never are: their places stay empty. The run is then that of
    data in which these clients have nothing, to the bit: all others draw what they drew.

    Args:
        cohorts: who is asked.
        clients: ids of those who are left out, each once.

    Raises:
        ValueError: for repeated ids; and, where clients are drawn, for ids of none, and where
            nobody is left.

    Example:
        >>> simulate.without(simulate.full(), [0, 2]).draw(key, 0, 4).tolist()
        [4, 1, 4, 3]
    """
    out = np.asarray(clients, np.int64).reshape(-1)
    if len(np.unique(out)) != len(out):
        raise ValueError(
            f"without(clients={out.tolist()[:8]}) names a client twice; once is enough."
        )

    def size(n):
        if len(out) and (out.min() < 0 or out.max() >= n):
            wrong = int(out[(out < 0) | (out >= n)][0])
            raise ValueError(f"without(clients=[{wrong}, ...]) names clients outside 0..{n - 1}.")
        if len(out) == n:
            raise ValueError(f"without(clients=...) leaves out all {n} clients; leave somebody.")
        return cohorts.size(n)

    def draw(key, round, n):
        ids = cohorts.draw(key, round, n)
        away = np.zeros(n + 1, bool)
        away[out] = True
        return jnp.where(jnp.asarray(away)[ids], n, ids)

    return Cohorts(size, draw, cohorts.sampling)


def _places(there: jax.Array, key: jax.Array, size: int) -> jax.Array:
    """Up to `size` of the clients that are `there` bool[N], uniformly; empty places at the end."""
    n = there.shape[0]
    rank = jnp.where(there, jax.random.uniform(key, (n,)), 2.0)
    order = jnp.argsort(rank)[:size].astype(jnp.int32)
    return jnp.where(there[order], order, n)
