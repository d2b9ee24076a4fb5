"""The trimmed mean: of each coordinate the mean without the f smallest and the f largest.

    u[i] = 1 / (m - 2f) sum of the (f+1)-th to the (m-f)-th smallest of the m clients of row i

(Yin et al., "Byzantine-robust distributed learning: towards optimal statistical rates", ICML 2018.)
Breakdown point: f of 2f + 1 clients. Cost: sorting, n log n a coordinate.
"""

from __future__ import annotations

from ..check import at_least
from ..types import Aggregator
from .listed import count, listing, refuse_too_few
from .touched import between, of_groups


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
    at_least("trimmed_mean", "f", f, 0)
    at_least("trimmed_mean", "floor", floor, 1)

    def finish(key, state, uploads, now):
        refuse_too_few("trimmed_mean", f, uploads.there, 2, 1)
        rule = lambda groups: between(groups, groups.in_order(), f, groups.count - f)
        update = of_groups(rule, uploads, 2 * f + 1, floor)
        verdicts = uploads.there & (count(uploads.there) > 2 * f)
        return state, update, verdicts.astype("float32")

    return listing(finish)
