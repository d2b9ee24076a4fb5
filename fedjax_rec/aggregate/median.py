"""The coordinate-wise median of updates.

    u[i] = median {u_k[i] : k touched row i},  and of a dense leaf the median over all clients

(Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.)
Breakdown point: less than half of the clients of a row, 1/2. Cost: 32 passes over n numbers a
coordinate, nothing is sorted.
"""

from __future__ import annotations

from ..check import at_least
from ..types import Aggregator
from .listed import listing
from .touched import median_of, of_groups


def median(floor: int = 3) -> Aggregator:
    """The median of each coordinate, of a row over the clients that touched it.

    Each client counts once, whatever it weighs, and nobody is rejected. A row that `f` attackers
    and at most as many others touch is the attackers': against `f` of them use `floor=2 * f + 1`.
    Of a dense leaf everybody said something, so the floor is of rows alone.

    Args:
        floor: rows touched by fewer clients are left where they are. 1 or more.

    Returns:
        An `Aggregator` that lists uploads.

    Raises:
        ValueError: for a floor below 1.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.median(floor=5).additive
        False
    """
    at_least("median", "floor", floor, 1)

    def finish(key, state, uploads, now):
        return state, of_groups(median_of, uploads, 1, floor), None

    return listing(finish)
