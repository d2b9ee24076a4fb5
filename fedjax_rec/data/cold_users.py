"""Whole users held out of training, as when they are new: how well does a model serve them?

`cold_users` validates and tests on them, `warm_users` on the other users, and both train on the
same rows, so a pair of runs shows both sides (as Singhal et al., NeurIPS 2021, evaluate). A cold
user is a client without training rows: what it keeps is as the model began it. Its UNUSED rows are
known of it: they are no candidates, models that read a history read them, and `simulate.fitted`
fits to those before the held-out ones what the client keeps, as when it joins a trained model.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .cases import before
from .splits import TEST, TRAIN, UNUSED, VALIDATION, Split, Splitter, holding_out


def cold_users(fraction: float = 0.1, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """Hold a random `fraction` of the users with test rows out of training, and validate and test
    on them alone.

    What `split` trains on of them becomes UNUSED, as do validation and test rows of other users.
    `is_cold` tells which they are.

    Args:
        fraction: of the users with test rows under `split`.
        split: which rows train, validate and test before; default `leave_one_out()`.
        seed: of the draw.

    Raises:
        ValueError: outside 0 < fraction < 1, for no seed of 32 bits, and where no user is left on
            either side.

    Example:
        >>> split = data.cold_users(0.2)(interactions)
    """
    return _splitter("cold_users", fraction, split, seed, tests_cold=True)


def warm_users(fraction: float = 0.1, split: Splitter | None = None, seed: int = 0) -> Splitter:
    """The training rows of `cold_users`, with validation and tests on the users that are left.

    Arguments that are not named here are those of `cold_users`.

    Raises:
        ValueError: as `cold_users`.

    Example:
        >>> split = data.warm_users(0.2)(interactions)
    """
    return _splitter("warm_users", fraction, split, seed, tests_cold=False)


def _splitter(name: str, fraction: float, split: Splitter | None, seed: int, tests_cold: bool):
    def drawn(rng: np.random.Generator, before: Split):
        users = before.interactions.users
        able = np.unique(users[before.part == TEST])
        count = round(fraction * len(able))
        if not 0 < count < len(able):
            raise ValueError(
                f"{name}(fraction={fraction}) holds out {count} of the {len(able)} users that can "
                "be tested; use a fraction that leaves some on either side."
            )
        cold = np.zeros(before.interactions.num_users, bool)
        cold[rng.choice(able, count, replace=False)] = True
        return cold[users], before.absent

    return holding_out(name, fraction, split, seed, tests_cold, drawn)


def support_of_cold(split: Split) -> Split:
    """`split` whose training rows are what is known of the cold users: UNUSED rows before their
    first held-out one. Training rows of others are UNUSED."""
    held = np.isin(split.part, (VALIDATION, TEST))
    mine = is_cold(split)[split.interactions.users] & (split.part == UNUSED)
    part = np.where(held, split.part, UNUSED).astype(split.part.dtype)
    part[mine & before(split, held)] = TRAIN
    return replace(split, part=part)


def is_cold(split: Split) -> np.ndarray:
    """bool[num_users]: the user has test rows and no training row."""
    users, size = split.interactions.users, split.interactions.num_users
    trains = np.bincount(users[split.part == TRAIN], minlength=size) > 0
    tests = np.bincount(users[split.part == TEST], minlength=size) > 0
    return tests & ~trains
