"""Noise that is correlated over rounds: what one round adds, others take back (DP-FTRL).

    x_t = 1/K ( sum_k clip(u_k) + z S w_t ),   w = C^-1 Z,  Z of independent N(0, 1)

The model is a sum of all x up to now, so that what counts is the noise A C^-1 Z of prefix sums, A
all ones below the diagonal. A client that takes part in rounds p moves C A^-1 (prefix sums) by no
more than S |sum over p of columns of |C||, hence

    sens(C) = max over p that may be of  ( sum_{i, j in p} |C^T C|_ij )^1/2

and all rounds together are one Gaussian mechanism of noise multiplier z / sens(C) (Denisov et al.,
2022; Choquette-Choo et al., "Multi-epoch matrix factorization mechanisms", ICML 2023, and
"(Amplified) banded matrix factorization", NeurIPS 2023). Every C is scaled so that its largest
column has norm 1: for a client that takes part once, z means what it means without correlation.

`tree`, `banded` and `blt` say what C is. jax_privacy 2.0.0 optimises the same matrices (it installs
beside jax 0.10.2, for pydantic and 650 MB with jax): 4 s for 16 bands and 25 s for a BLT of 200
rounds, in its 64-bit mode, where SciPy takes less than a second. So they are made here, and tests
hold them against coefficients of that library; those themselves may be given to `toeplitz`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..check import at_least
from ..made import part
from ..types import PyTree
from .sampling import Sampling


@dataclass(frozen=True)
class Factorization:
    """C of so many rounds, and its noise, round by round.

    rounds: T. sampling: of the clients for whom it was made. copies: how many numbers are kept for
    each of the model's. error: the root mean square over rounds of the deviation of prefix sums, at
    z S / K = 1. sensitivity(t) -> sens(C) of the first t rounds. init(shape) -> what is kept for an
    array of that shape before the first round. next(key, kept, shape) -> (kept, w_t).
    """

    rounds: int
    sampling: Sampling
    copies: int
    error: float
    sensitivity: Callable[[int], float]
    init: Callable[[tuple[int, ...]], PyTree]
    next: Callable[..., tuple[PyTree, object]]


@part
class Correlation:
    """How noise is correlated. over(rounds, sampling) -> Factorization, for cohorts under which it
    is known how far apart a client's rounds are: `privacy.in_order`, `separated`, or everybody in
    every round. Raises ValueError for others. Made once for the same arguments."""

    over: Callable[[int, Sampling], Factorization]


def apart_of(where: str, rounds: int, sampling: Sampling) -> int:
    """b of `sampling`. Raises ValueError where it has none, and for no rounds."""
    at_least(where, "rounds", rounds, 1)
    if sampling.apart is None:
        raise ValueError(
            f"{where}: rounds of a client come by chance here ({sampling.adjacency}), and how far "
            "its updates move all rounds together is not known; use cohorts that come in order, "
            "simulate.in_turns, or everybody, simulate.full."
        )
    return sampling.apart


def sensitivity_of(encoder: np.ndarray, sampling: Sampling) -> float:
    """sens(C) of `encoder` C [m, t] under the rounds that `sampling` lets a client take part in.

    Exact where these are in order, and where C is Toeplitz and falls (a client that comes as early
    and as often as it may is the worst); else the bound of Choquette-Choo et al. (2023, algorithm
    4), which is exact where columns that are b apart are orthogonal.
    """
    separation = sampling.apart or 1
    gram = np.abs(encoder.T @ encoder)
    if sampling.ordered or separation == 1 or _falls(encoder):
        starts = range(min(separation, len(gram)))
        return float(max(gram[r::separation, r::separation].sum() for r in starts)) ** 0.5
    most = -(-len(gram) // separation)
    each = np.array([_largest(row, separation, most) for row in gram])
    return _largest(each, separation, most) ** 0.5


def _falls(encoder: np.ndarray) -> bool:
    """Whether C is lower triangular and Toeplitz, of numbers that fall and are not negative."""
    first = encoder[:, 0]
    if encoder.shape[0] != encoder.shape[1] or (np.diff(first) > 0).any() or (first < 0).any():
        return False
    return np.array_equal(encoder, lower_toeplitz(first))


def lower_toeplitz(coefficients: np.ndarray) -> np.ndarray:
    """float64[T, T] with coefficients float64[T] in its first column."""
    at = np.subtract.outer(np.arange(len(coefficients)), np.arange(len(coefficients)))
    return np.where(at >= 0, np.asarray(coefficients)[np.maximum(at, 0)], 0.0)


def _largest(x: np.ndarray, separation: int, most: int) -> float:
    """The largest sum of up to `most` numbers of x that are `separation` apart (algorithm 3)."""
    best = np.zeros(len(x) + separation)
    for _ in range(most):
        best[: len(x)] = x + best[separation:]
        best = np.maximum.accumulate(best[::-1])[::-1].copy()
    return float(best[0])
