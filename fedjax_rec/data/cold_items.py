"""Whole items held out of training, as when they are new: what does a model make of them?

`cold_items` tests on them, `warm_items` on the other items, and both train on the same rows, so a
pair of runs shows both sides (Schein et al., SIGIR 2002). No negative is drawn among them, since
they are not there yet; in a full ranking they compete with all others.
"""

from __future__ import annotations

import numpy as np

from .interactions import Interactions
from .splits import TEST, TRAIN, Split, Splitter, holding_out


def cold_items(fraction: float = 0.2, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """Hold a random `fraction` of the items out of training, and validate and test on them alone.

    What `split` trains on of them becomes UNUSED, as do validation and test rows of other items.
    `Split.absent` tells which they are.

    Args:
        fraction: of all items.
        split: which rows train, validate and test before; default `leave_one_out()`.
        seed: of the draw.

    Raises:
        ValueError: outside 0 < fraction < 1, for no seed of 32 bits, and where no row is left to
            train or test on.

    Example:
        >>> split = data.cold_items(0.2)(interactions)
    """
    return _splitter("cold_items", fraction, split, seed, tests_cold=True)


def warm_items(fraction: float = 0.2, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """The training rows of `cold_items`, with validation and tests on the items that are left.

    Arguments that are not named here are those of `cold_items`.

    Raises:
        ValueError: as `cold_items`.

    Example:
        >>> split = data.warm_items(0.2)(interactions)
    """
    return _splitter("warm_items", fraction, split, seed, tests_cold=False)


def _splitter(name: str, fraction: float, split: Splitter | None, seed: int, tests_cold: bool):
    def drawn(rng: np.random.Generator, before: Split):
        size = before.interactions.num_items
        absent = np.zeros(size, bool)
        absent[rng.choice(size, round(fraction * size), replace=False)] = True
        return absent[before.interactions.items], absent

    divide = holding_out(name, fraction, split, seed, tests_cold, drawn)

    def checked(interactions: Interactions) -> Split:
        found = divide(interactions)
        for kept, what in ((TRAIN, "trains"), (TEST, "tests")):
            if not (found.part == kept).any():
                raise ValueError(
                    f"{name}(fraction={fraction}, seed={seed}) leaves no row that {what}; use "
                    "another fraction."
                )
        return found

    return checked
