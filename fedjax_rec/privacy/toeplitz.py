"""Noise correlated by a banded Toeplitz matrix (DP-BandMF).

    C_ij = c_{i-j} for 0 <= i - j < b,      w_t = ( Z_t - sum_{0 < j < b} c_j w_{t-j} ) / c_0

(Choquette-Choo et al., "(Amplified) banded matrix factorization", NeurIPS 2023; McMahan, Xu &
Zhang, 2024.) The coefficients make the mean squared error of prefix sums times sens(C)^2 smallest,
by L-BFGS in float64, among those that fall: then the worst that a client can do is known. Where a
client's rounds are at least b apart its columns are orthogonal and sens(C)^2 is how often it comes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.signal import lfilter

from ..check import at_least, static
from .factorization import Correlation, Factorization, apart_of, lower_toeplitz, sensitivity_of
from .sampling import Sampling


def banded(bands: int) -> Correlation:
    """The best banded Toeplitz matrix.

    Keeps `bands - 1` numbers for each of the model's. No use where everybody takes part in every
    round: a client that is in all of them moves the sum of all by as much as without correlation.

    Args:
        bands: b; 1 for noise that is independent. Rounds of a client should be at least as far
            apart. At least 1.

    Returns:
        A `Correlation`.

    Raises:
        ValueError: for bands < 1; `over` as `Correlation` says.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.banded(16).over(200, privacy.in_order(40, clients=6040))
        >>> round(noise.error * noise.sensitivity(200), 2)  # independent noise has 22.42
        7.45
    """
    static("banded", "bands", bands)
    at_least("banded", "bands", bands, 1)

    def over(rounds: int, sampling: Sampling) -> Factorization:
        separation = apart_of("banded", rounds, sampling)
        made = _optimal(rounds, min(bands, rounds), separation)
        return _of(made, rounds, sampling)

    return Correlation(over)


def toeplitz(coefficients: Sequence[float]) -> Correlation:
    """A banded Toeplitz matrix that is given, such as one of `jax_privacy.matrix_factorization`.

    Args:
        coefficients: c_0, c_1, ... The first is positive.

    Returns:
        A `Correlation`.

    Raises:
        ValueError: for no coefficients, or c_0 that is not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> everybody = privacy.poisson_sampled(1.0, clients=100)
        >>> privacy.toeplitz([1.0]).over(9, everybody).sensitivity(9)
        3.0
    """
    given = tuple(map(float, coefficients))
    if not given or not given[0] > 0:
        raise ValueError(
            f"toeplitz(coefficients={list(given)}) has no inverse; use a positive first one."
        )

    def over(rounds: int, sampling: Sampling) -> Factorization:
        apart_of("toeplitz", rounds, sampling)
        return _of(given[:rounds], rounds, sampling)

    return Correlation(over)


@functools.lru_cache(maxsize=64)
def _of(coefficients: tuple[float, ...], rounds: int, sampling: Sampling) -> Factorization:
    c = np.array(coefficients) / np.linalg.norm(coefficients)
    past = len(c) - 1

    def next(key, kept, shape):
        drawn = jax.random.normal(key, shape)
        if not past:
            return kept, drawn
        w = (drawn - jnp.tensordot(jnp.asarray(c[1:], jnp.float32), kept, 1)) / float(c[0])
        return jnp.concatenate([w[None], kept[:-1]]), w

    init = lambda shape: jnp.zeros((past, *shape)) if past else ()
    error, sensitivity = told_of(c, rounds, sampling)
    return Factorization(rounds, sampling, past, error, sensitivity, init, next)


def told_of(
    coefficients: np.ndarray, rounds: int, sampling: Sampling
) -> tuple[float, Callable[[int], float]]:
    """(error, sensitivity) as of `Factorization`; missing coefficients are 0."""
    c = np.zeros(rounds)
    c[: len(coefficients)] = coefficients[:rounds]
    whole = lower_toeplitz(c)

    @functools.lru_cache(maxsize=1024)
    def sensitivity(t: int) -> float:
        return sensitivity_of(whole[:t, :t], sampling)

    return loss(c, rounds, 1)[1] ** 0.5, sensitivity


def loss(c: np.ndarray, rounds: int, separation: int) -> tuple[float, float, np.ndarray]:
    """(log of error^2 sens^2, error^2, gradient of the first) of coefficients that fall.

    error^2 is the mean over t of the variance of prefix sums, sum_j v_j^2 (T - j) / T with
    v = C^-1 1, and sens^2 = |C p|^2 with p = 1 in rounds 0, b, 2 b, ...
    """
    share = 1 - np.arange(rounds) / rounds
    v = np.asarray(lfilter([1.0], c, np.ones(rounds)))
    error = float(share @ v**2)
    back = np.asarray(lfilter([1.0], c, (2 * share * v)[::-1]))[::-1]
    p = (np.arange(rounds) % separation == 0).astype(float)
    moved = np.asarray(lfilter(c, [1.0], p))
    sens = float(moved @ moved)
    lagged = lambda x, y: np.correlate(x, y, "full")[rounds - 1 : rounds - 1 + len(c)]
    gradient = -lagged(back, v) / error + 2 * lagged(moved, p) / sens
    return np.log(error) + np.log(sens), error, gradient


@functools.lru_cache(maxsize=64)
def _optimal(rounds: int, bands: int, separation: int) -> tuple[float, ...]:
    """c, as what is left of it at each place: c_i = sum_{j >= i} d_j, d >= 0, with c_0 = 1."""
    i = np.arange(1, bands)
    start = np.concatenate([[1.0], np.cumprod((2 * i - 1) / (2 * i))])  # of 1 / sqrt(1 - x)
    falls = -np.diff(start, append=0.0)

    def of_falls(d):
        value, _, gradient = loss(np.cumsum(d[::-1])[::-1], rounds, separation)
        return value, np.cumsum(gradient)

    bounds = [(1e-9 if k == bands - 1 else 0.0, None) for k in range(bands)]
    options = {"maxiter": 2000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-9}
    found = minimize(of_falls, falls, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    c = np.cumsum(found.x[::-1])[::-1]
    return tuple(map(float, c / c[0]))
