"""The trimmed mean: of each coordinate the mean without the f smallest and the f largest.

    u[i] = 1 / (m - 2f) sum of the (f+1)-th to the (m-f)-th smallest of the m clients of row i

(Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.)
Breakdown point: f of 2f + 1 clients. Cost: 64 passes over n numbers a coordinate; nothing
is sorted.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..types import Aggregator
from .touched import Groups, leaving_out, number, smallest, total, value


def without_ends(groups: Groups, f: int):
    """float[G, D]: the mean of each group without its f smallest and f largest entries."""
    ordered, n = groups.ordered(), groups.count
    low, high = smallest(ordered, f), smallest(ordered, n - f - 1)
    within = (ordered > low) & (ordered < high)
    # Of entries that equal the smallest and the largest that stay, some may be taken off.
    lows = number(ordered <= low) - f
    highs = n - f - number(ordered < high)
    inside = total(jnp.where(within, groups.values, 0))
    mean = (inside + lows * value(low) + highs * value(high)) / jnp.maximum(n - 2 * f, 1)
    return jnp.where(low == high, value(low), mean)


def trimmed_mean(f: int, floor: int = 1) -> Aggregator:
    """The mean of each coordinate without its f smallest and f largest, of a row over the clients
    that touched it.

    All f attackers may touch one row, so f are taken off at both ends whatever its clients are, and
    a row of 2f clients or fewer is left where it is. Each client counts once, whatever it weighs.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.
        floor: rows touched by fewer clients are left too. 1 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 2f clients or fewer in a round it makes a zero update
        and rejects all.

    Raises:
        ValueError: for f below 0 or a floor below 1; and in a round that has room for 2f clients or
            fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.trimmed_mean(f=3).additive
        False
    """
    return leaving_out("trimmed_mean", without_ends, f, floor)
