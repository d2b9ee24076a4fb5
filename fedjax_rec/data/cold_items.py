"""Whole items held out of training, as when they are new: what does a model make of them?

`cold_items` tests on them, `warm_items` on the other items, and both train on the same rows, so a
pair of runs shows both sides (Schein et al., SIGIR 2002). No negative is drawn among them, since
they are not there yet; in a full ranking they compete with all others.
"""

from __future__ import annotations

import numpy as np

from .. import check
from .interactions import Interactions
from .splits import TEST, TRAIN, UNUSED, Split, Splitter, leave_one_out


def cold_items(fraction: float = 0.2, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """Hold a random `fraction` of the items out of training, and validate and test on them alone.

    What `split` (leave_one_out()) trains on of them becomes UNUSED, as do validation and test rows
    of other items. `Split.absent` tells which they are.

    Raises:
        ValueError: where no row is left to train or test on.
    """
    return _splitter("cold_items", fraction, split, seed, tests_cold=True)


def warm_items(fraction: float = 0.2, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """The training rows of `cold_items`, with validation and tests on the items that are left."""
    return _splitter("warm_items", fraction, split, seed, tests_cold=False)


def _splitter(name: str, fraction: float, split: Splitter | None, seed: int, tests_cold: bool):
    check.seed(name, seed)
    if not 0 < fraction < 1:
        raise ValueError(f"{name}(fraction={fraction}) is not a share; use 0 < fraction < 1.")
    inner = leave_one_out() if split is None else split

    def divide(interactions: Interactions) -> Split:
        before = inner(interactions)
        part, size = before.part.copy(), interactions.num_items
        count = round(fraction * size)
        absent = np.zeros(size, bool)
        absent[np.random.default_rng(seed).choice(size, count, replace=False)] = True
        cold = absent[interactions.items]
        part[np.where(part == TRAIN, cold, cold != tests_cold)] = UNUSED
        for kept, what in ((TRAIN, "trains"), (TEST, "tests")):
            if not (part == kept).any():
                raise ValueError(
                    f"{name}(fraction={fraction}, seed={seed}) leaves no row that {what}; use "
                    "another fraction."
                )
        return Split(interactions, part, absent, before.ties)

    return divide
