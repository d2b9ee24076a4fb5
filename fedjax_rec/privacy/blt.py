"""Noise correlated by a buffered linear Toeplitz matrix (BLT).

    c_0 = 1,  c_i = sum_j omega_j theta_j^(i-1)
    w_t = Z_t - sum_j omega_j s_j,      s_j <- theta_j s_j + w_t

(Dvijotham et al., "Efficient and near-optimal noise generation for streaming differential privacy",
FOCS 2024; McMahan, Xu & Zhang, "A hassle-free algorithm for strong differential privacy in
federated learning systems", 2024.) Few buffers s do what many bands do. With omega >= 0, their sum
below 1 and theta in (0, 1) the coefficients fall, and sens(C) is that of a client that comes as
early and as often as it may.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from ..check import at_least, static
from .factorization import Correlation, Factorization, apart_of
from .sampling import Sampling
from .toeplitz import loss, told_of


def blt(buffers: int = 2) -> Correlation:
    """The best BLT that was found for so many rounds, so far apart.

    Keeps `buffers` numbers for each of the model's, whatever the rounds.

    Args:
        buffers: d; 2 are as good as any for hundreds of rounds. 1 to 8.

    Returns:
        A `Correlation`.

    Raises:
        ValueError: for buffers outside 1 to 8; `over` as `Correlation` says.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.blt().over(200, privacy.in_order(40, clients=6040))
        >>> round(noise.error * noise.sensitivity(200), 2)  # independent noise has 22.42
        6.51
    """
    static("blt", "buffers", buffers)
    at_least("blt", "buffers", buffers, 1)
    if buffers > 8:
        raise ValueError(f"blt(buffers={buffers}) cannot be told apart; use buffers <= 8.")

    def over(rounds: int, sampling: Sampling) -> Factorization:
        apart_of("blt", rounds, sampling)
        return _made(buffers, rounds, sampling)

    return Correlation(over)


@functools.lru_cache(maxsize=64)
def _made(buffers: int, rounds: int, sampling: Sampling) -> Factorization:
    omega, theta = _optimal(buffers, rounds, sampling.apart or 1)
    c = _coefficients(omega, theta, rounds)
    norm = float(np.linalg.norm(c))
    reads, decays = jnp.asarray(omega, jnp.float32), jnp.asarray(theta, jnp.float32)

    def next(key, kept, shape):
        w = jax.random.normal(key, shape) - jnp.tensordot(reads, kept, 1)
        kept = decays.reshape(-1, *[1] * len(shape)) * kept + w
        return kept, norm * w

    init = lambda shape: jnp.zeros((buffers, *shape))
    error, sensitivity = told_of(c / norm, rounds, sampling)
    return Factorization(rounds, sampling, buffers, error, sensitivity, init, next)


def _coefficients(omega: np.ndarray, theta: np.ndarray, rounds: int) -> np.ndarray:
    powers = theta ** np.arange(rounds - 1)[:, None]
    return np.concatenate([[1.0], powers @ omega])


@functools.lru_cache(maxsize=64)
def _optimal(buffers: int, rounds: int, separation: int) -> tuple[np.ndarray, np.ndarray]:
    """(omega, theta), the best of a few starts."""
    if rounds == 1:
        return np.zeros(buffers), np.linspace(0.1, 0.9, buffers)

    def apart(x):
        theta = 1 / (1 + np.exp(-x[:buffers]))
        shares = np.exp(x[buffers:] - np.logaddexp.reduce(np.append(x[buffers:], 0.0)))
        return shares, theta

    def of_numbers(x):
        omega, theta = apart(x)
        powers = theta ** np.arange(rounds - 1)[:, None]
        value, _, gradient = loss(np.concatenate([[1.0], powers @ omega]), rounds, separation)
        to_omega = gradient[1:] @ powers
        lower = np.arange(rounds - 1)[:, None] * theta ** np.maximum(
            np.arange(rounds - 1)[:, None] - 1, 0
        )
        to_theta = omega * (gradient[1:] @ lower)
        back = omega * (to_omega - omega @ to_omega)
        return value, np.concatenate([to_theta * theta * (1 - theta), back])

    best = None
    for slowest in (0.5, 0.9, 0.99):
        theta = 1 - (1 - slowest) ** (np.arange(1, buffers + 1) / buffers)
        omega = np.full(buffers, 0.4 / buffers)
        start = np.concatenate([np.log(theta / (1 - theta)), np.log(omega / 0.6)])
        bounds = [(-12.0, 12.0)] * buffers + [(-25.0, 25.0)] * buffers
        options = {"maxiter": 2000, "maxfun": 10_000, "ftol": 1e-13, "gtol": 1e-9}
        found = minimize(
            of_numbers, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
        )
        if best is None or found.fun < best.fun:
            best = found
    return apart(best.x)
