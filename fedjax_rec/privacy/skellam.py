"""Skellam noise in shares: the difference of two Poisson numbers, which adds up to itself.

    N_k = Poisson(v/2) - Poisson(v/2),     sum over m clients: Skellam of variance mu = m v

    D_a <= a D_2^2 / (2 mu) + min( ((2 a - 1) D_2^2 + 6 D_1) / (4 mu^2),  3 D_1 / (2 mu) )

in steps, for whole orders a (Agarwal, Kairouz & Liu, "The Skellam mechanism for differentially
private federated learning", NeurIPS 2021, theorem 3.5).
"""

from __future__ import annotations

import numpy as np
from scipy.special import ive

from .shares import Sensitivity, Shares, shares_of


def skellam(clip: float, noise_multiplier: float, there: int) -> Shares:
    """Skellam noise, of which every client adds a share before it is masked.

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
        >>> noise = privacy.skellam(clip=1.0, noise_multiplier=1.0, there=48)
        >>> hidden = privacy.secure_aggregation(1.0, clients=64, bits=20, noise=noise)
    """
    return shares_of("skellam", clip, noise_multiplier, there, _masses, _renyi)


def _masses(deviation: float, reach: int) -> np.ndarray:
    return ive(np.abs(np.arange(-reach, reach + 1.0)), deviation**2)


def _renyi(order: int, moves: Sensitivity, deviation: float, shares: int) -> float:
    mu, square = shares * deviation**2, moves.l2**2
    more = ((2 * order - 1) * square + 6 * moves.l1) / (4 * mu * mu)
    return order * square / (2 * mu) + min(more, 3 * moves.l1 / (2 * mu))
