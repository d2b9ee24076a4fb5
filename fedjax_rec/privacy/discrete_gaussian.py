"""Discrete Gaussian noise in shares.

    P(N_k = i) ~ exp(-i^2 / (2 v)),     D_a <= min( a/2 e^2 + tau d,
        a/2 (e^2 + 2 tau D_1 / sqrt(m v) + tau^2 d),  a/2 (e + tau sqrt d)^2 ),    e = D_2/sqrt(m v)

    tau = 10 sum_{0 < k < m} exp(-2 pi^2 v k / (k + 1))

in steps (Kairouz, Liu & Steinke, ICML 2021, proposition 14). A sum of shares is no discrete
Gaussian, but within tau of one: for a deviation of two steps and more of each share tau is less
than 1e-16 times what it counts, and the guarantee that of a Gaussian of the same variance.
"""

from __future__ import annotations

import math

import numpy as np

from .shares import Sensitivity, Shares, shares_of


def discrete_gaussian(clip: float, noise_multiplier: float, there: int) -> Shares:
    """Discrete Gaussian noise, of which every client adds a share before it is masked.

    Args:
        clip: c, the norm of an upload. Positive.
        noise_multiplier: z, the deviation of the noise over c, where `there` clients are there. At
            least 0.
        there: m, clients of a round that must be there, and are not in league with the server.

    Returns:
        `Shares` for `secure_aggregation(noise=...)`. Its numbers shape a table, so that none can
        be traced.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.discrete_gaussian(clip=1.0, noise_multiplier=1.0, there=48)
        >>> hidden = privacy.secure_aggregation(1.0, clients=64, bits=20, noise=noise)
    """
    return shares_of("discrete_gaussian", clip, noise_multiplier, there, _masses, _renyi)


def _masses(deviation: float, reach: int) -> np.ndarray:
    return np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * deviation**2))


def _renyi(order: int, moves: Sensitivity, deviation: float, shares: int) -> float:
    whole, d = math.sqrt(shares) * deviation, moves.numbers
    near = 2 * (math.pi * deviation) ** 2
    tau = 10 * sum(math.exp(-near * k / (k + 1)) for k in range(1, shares))
    e, half = moves.l2 / whole, order / 2
    return min(
        half * e * e + tau * d,
        half * (e * e + 2 * tau * moves.l1 / whole + tau * tau * d),
        half * (e + tau * math.sqrt(d)) ** 2,
    )
