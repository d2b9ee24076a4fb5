"""Graphs of clients and the weights that neighbours mix their models with.

    W[i, j] = 1 / (1 + max(d_i, d_j)) for neighbours,   W[i, i] = 1 - sum_j W[i, j]

(Metropolis weights, Xiao & Boyd, Systems & Control Letters 2004): symmetric, rows sum to 1. How
fast models come together is the second largest |eigenvalue| of W, see `contraction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .. import check
from ..check import fraction, static
from ..made import part


@part
class Graph:
    """mixing(num_clients) -> float64[N, N]: W, not negative, with rows that sum to 1.
    even: whether whoever is there mixes all who are there alike; else the weight of who is away
    stays with the client's own model."""

    mixing: Callable[[int], np.ndarray]
    even: bool = False


def ring() -> Graph:
    """Everyone has two neighbours.

    Example:
        >>> exchange = strategies.gossip(strategies.ring())
    """
    return Graph(lambda n: metropolis(_circulant(n, [1])))


def torus() -> Graph:
    """A grid of r x c clients that closes at both ends, r the largest divisor of N up to sqrt(N).

    Everyone has four neighbours. Of a prime number of clients it is a ring.

    Example:
        >>> exchange = strategies.gossip(strategies.torus())
    """

    def mixing(n):
        height = next(r for r in range(math.isqrt(n), 0, -1) if n % r == 0)
        row, column = np.divmod(np.arange(n), n // height)
        adjacent = np.zeros((n, n), bool)
        for down, right in ((1, 0), (0, 1)):
            there = (row + down) % height * (n // height) + (column + right) % (n // height)
            adjacent[np.arange(n), there] = True
        return metropolis(adjacent | adjacent.T)

    return Graph(mixing)


def erdos_renyi(probability: float, seed: int = 0) -> Graph:
    """A graph in which every pair of clients is joined with the same probability.

    Above ln(N) / N it is likely that all are connected.

    Args:
        probability: of an edge.
        seed: of the graph, which stays the same for the whole run.

    Raises:
        ValueError: outside 0 <= probability <= 1, and for no seed of 32 bits.

    Example:
        >>> exchange = strategies.gossip(strategies.erdos_renyi(0.2))
    """
    check.seed("erdos_renyi", seed)
    static("erdos_renyi", "probability", probability)
    fraction("erdos_renyi", "probability", probability)

    def mixing(n):
        upper = np.triu(np.random.default_rng(seed).random((n, n)) < probability, 1)
        return metropolis(upper | upper.T)

    return Graph(mixing)


def exponential() -> Graph:
    """A directed graph in which client i hears those at i + 1, i + 2, i + 4, ... with equal weights
    (Assran et al., ICML 2019). The mean of the models moves where somebody is away.

    Example:
        >>> exchange = strategies.gossip(strategies.exponential())
    """

    def mixing(n):
        hops = [2**j for j in range(max(1, math.ceil(math.log2(n))))]
        hears = np.eye(n)
        for hop in hops:
            hears[np.arange(n), (np.arange(n) + hop) % n] = 1
        return hears / hears.sum(1, keepdims=True)

    return Graph(mixing)


def complete() -> Graph:
    """Everybody hears everybody: one round, and the models of all who are there are their mean.

    Example:
        >>> exchange = strategies.gossip(strategies.complete())
    """
    return Graph(lambda n: np.full((n, n), 1 / n), even=True)


def from_matrix(mixing) -> Graph:
    """Any W, for instance of Metropolis weights (`metropolis`) on a graph of networkx.

    Args:
        mixing: W, float[N, N], not negative, with rows that sum to 1.

    Raises:
        ValueError: where W is not square, has a negative entry or a row that does not sum to 1;
            and, when it is used, where it is of another number of clients.

    Example:
        >>> graph = strategies.from_matrix([[0.75, 0.25], [0.25, 0.75]])
    """
    given = np.asarray(mixing, np.float64)
    if given.ndim != 2 or given.shape[0] != given.shape[1]:
        raise ValueError(f"from_matrix(mixing) has the shape {given.shape}; give [N, N].")
    if not ((given >= 0).all() and np.allclose(given.sum(1), 1)):  # NaN, too
        raise ValueError(
            "from_matrix(mixing) must have entries >= 0 and rows that sum to 1; "
            "use metropolis(adjacency)."
        )

    def of(n):
        if n != len(given):
            raise ValueError(f"from_matrix(mixing) is of {len(given)} clients and there are {n}.")
        return given

    return Graph(of)


def metropolis(adjacency) -> np.ndarray:
    """float64[N, N]: W[i, j] = 1 / (1 + max(d_i, d_j)) for neighbours, the rest on the diagonal.

    Args:
        adjacency: bool[N, N], symmetric; its diagonal does not count.

    Raises:
        ValueError: where `adjacency` is not symmetric.

    Example:
        >>> pairs = np.array([[0, 1], [1, 0]], bool)
        >>> graph = strategies.from_matrix(strategies.metropolis(pairs))
    """
    joined = np.asarray(adjacency, bool) & ~np.eye(len(adjacency), dtype=bool)
    if (joined != joined.T).any():
        raise ValueError("metropolis(adjacency) is not symmetric; use adjacency | adjacency.T.")
    degree = joined.sum(1)
    weights = joined / (1 + np.maximum(degree[:, None], degree))
    return weights + np.diag(1 - weights.sum(1))


def contraction(mixing: np.ndarray) -> float:
    """The second largest |eigenvalue| of W: the factor by which gossip brings models together.

    Args:
        mixing: W, float[N, N], as `Graph.mixing` makes it.

    Example:
        >>> float(strategies.contraction(np.array([[0.75, 0.25], [0.25, 0.75]])))
        0.5
    """
    return float(np.sort(np.abs(np.linalg.eigvals(mixing)))[-2]) if len(mixing) > 1 else 0.0


def _circulant(n: int, hops: list[int]) -> np.ndarray:
    joined = np.zeros((n, n), bool)
    for hop in hops:
        joined[np.arange(n), (np.arange(n) + hop) % n] = True
    return joined | joined.T
