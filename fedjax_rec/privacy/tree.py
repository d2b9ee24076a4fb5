"""Noise correlated by a binary tree over rounds, with the best estimate of each node from below.

    nodes  [a 2^h, (a+1) 2^h):  noise n_v = v_h Z_v + (1 - v_h) (n_left + n_right),
    v_0 = 1,  v_h = 1 / (1 + 1 / (2 v_{h-1}))        prefix sums: one node for each bit of t

(Dwork et al., 2010; Chan, Shi & Song, 2011; Honaker, "Efficient use of differentially private
binary trees", 2015; DP-FTRL of Kairouz et al., "Practical and private (deep) learning without
sampling or shuffling", ICML 2021.) C has a row for each node that is complete, over sqrt(h + 1),
h + 1 nodes being those that a round is in at most. v_h is the variance of a node's estimate.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .factorization import Correlation, Factorization, apart_of, sensitivity_of
from .sampling import Sampling


def tree() -> Correlation:
    """The binary tree of DP-FTRL, which nothing has to be optimised for.

    Keeps log2 of the rounds, rounded up, and one number more for each of the model's. No restarts.

    Returns:
        A `Correlation`.

    Raises:
        ValueError: `over` as `Correlation` says.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.tree().over(200, privacy.in_order(40, clients=6040))
        >>> round(noise.error * noise.sensitivity(200), 2)  # independent noise has 22.42
        11.09
    """

    def over(rounds: int, sampling: Sampling) -> Factorization:
        apart_of("tree", rounds, sampling)
        return _made(rounds, sampling)

    return Correlation(over)


def nodes_of(rounds: int) -> np.ndarray:
    """float64[m, T]: a row of ones for each node of the tree that is complete."""
    found = []
    for height in range(rounds.bit_length()):
        size = 2**height
        found += [(np.arange(rounds) // size == a).astype(float) for a in range(rounds // size)]
    return np.stack(found)


@functools.lru_cache(maxsize=64)
def _made(rounds: int, sampling: Sampling) -> Factorization:
    heights = rounds.bit_length()
    v = [1.0]
    for _ in range(heights):
        v.append(1 / (1 + 1 / (2 * v[-1])))
    scale = float(np.linalg.norm(nodes_of(rounds), axis=0).max())

    def next(key, kept, shape):
        sums, done = kept["sums"], kept["done"]
        drawn = jax.random.split(key, heights)
        node, before = jax.random.normal(drawn[0], shape), jnp.zeros(shape)
        height, merges = jnp.int32(0), jnp.bool_(True)
        for h in range(heights - 1):
            merges = merges & ((done >> h) & 1 == 1)

            def merge(node, before, h=h):
                own = jax.random.normal(drawn[h + 1], shape)
                node = v[h + 1] * own + (1 - v[h + 1]) * (sums[h] + node)
                return node, before + sums[h]

            node, before = jax.lax.cond(merges, merge, lambda *same: same, node, before)
            height += merges
        sums = sums.at[height].set(node)
        return {"sums": sums, "done": done + 1}, scale * (node - before)

    def init(shape):
        return {"sums": jnp.zeros((heights, *shape)), "done": jnp.int32(0)}

    @functools.lru_cache(maxsize=1024)
    def sensitivity(t: int) -> float:
        return sensitivity_of(nodes_of(t) / scale, sampling)

    bits = (np.arange(1, rounds + 1)[:, None] >> np.arange(heights)) & 1
    error = scale * float((bits @ np.array(v[:heights])).mean()) ** 0.5
    return Factorization(rounds, sampling, heights, error, sensitivity, init, next)
