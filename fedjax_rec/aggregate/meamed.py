"""Meamed, the mean around the median: of each coordinate the mean of the m - f nearest to it.

    u[i] = 1 / (m - f) sum of the m - f of the u_k[i] with the smallest |u_k[i] - median|

over the m clients that touched row i (Xie et al., "Generalized Byzantine-tolerant SGD", 2018).
Breakdown point: f of 2f + 1 clients. Cost: 64 passes over n numbers a coordinate; nothing
is sorted.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..types import Aggregator
from .touched import Groups, leaving_out, median_of, number, smallest, total


def around_median(groups: Groups, f: int):
    """float[G, D]: the mean of each group without the f entries farthest from its median; of two
    that are as far, the larger is left out."""
    middle, kept = median_of(groups), jnp.maximum(groups.count - f, 1)
    apart = groups.ordered(jnp.abs(groups.values - middle))
    last = smallest(apart, kept - 1)
    near, as_far = apart < last, apart == last
    below = groups.values < middle
    # Those that are as far as the last that is kept, below the median and above it.
    lows, highs = as_far & below, as_far & ~below
    more = kept - number(near)
    of_lows = jnp.minimum(more, number(lows))
    share = lambda chosen, some: some / jnp.maximum(number(chosen), 1)
    said = lambda chosen: total(jnp.where(chosen, groups.values, 0))
    ends = said(lows) * share(lows, of_lows) + said(highs) * share(highs, more - of_lows)
    return (said(near) + ends) / kept


def meamed(f: int, floor: int = 1) -> Aggregator:
    """The mean of the clients nearest to the median, f left out, of each coordinate; of a row over
    the clients that touched it.

    All f attackers may touch one row, so f are left out whatever its clients are, and a row of 2f
    clients or fewer is left where it is. Each client counts once, whatever it weighs.

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
        >>> aggregate.meamed(f=3).additive
        False
    """
    return leaving_out("meamed", around_median, f, floor)
