"""Leave-one-out at random: a user's rows are shuffled, the last is the test, the one before it
validation, the rest training."""

from __future__ import annotations

import numpy as np

from .. import check
from .interactions import Interactions
from .splits import Split, Splitter, at_least_three, last_two, places_of


def random_leave_one_out(seed: int = 0) -> Splitter:
    """A random interaction of each user is the test, another validation, the rest training.

    Times are not looked at. For sets without them, and for comparison with papers that hold out at
    random.

    Args:
        seed: of the draw; in a configuration that of the run, where it is not set.

    Raises:
        ValueError: for a user with fewer than 3 interactions, and for no seed of 32 bits.

    Example:
        >>> split = data.random_leave_one_out(seed=1)(interactions)
    """
    check.seed("random_leave_one_out", seed)

    def split(interactions: Interactions) -> Split:
        counts = at_least_three("random_leave_one_out", interactions)
        draw = np.random.default_rng(seed).random(len(interactions))
        order = np.lexsort((draw, interactions.users))  # shuffles the rows of each user in place
        left = counts[interactions.users] - places_of(interactions)
        part = np.empty(len(interactions), np.int8)
        part[order] = last_two(left)
        return Split(interactions, part)

    return split
