"""Which interactions train, validate and test: factories that return `Interactions -> Split`.

Rows of an `Interactions` are sorted by (user, time, original order). Of rows of one moment the last
in that order counts as the latest, or, with `ties="first"`, the first: of MovieLens-100K 415 of 943
users have their last two interactions in the same second, and the released PFedRec (with pandas'
`rank(method="first", ascending=False)`) tests on the first of these.

Leave-one-out follows He et al. 2017 (NCF); ratio splits count as RecBole does (Zhao et al. 2021);
the global temporal split is the leak-free one that Meng et al. 2020 recommend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fedjax_rec import check
from fedjax_rec.check import one_of
from fedjax_rec.data.interactions import Interactions, offsets

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 3


@dataclass(frozen=True)
class Split:
    """A part for each interaction. Of UNUSED ones is known that they were: their items are no
    candidates of a full ranking, and nothing else is made of them but the history that a model
    reads, where they come before what is held out. absent: items that training must not see, not
    even as negatives, or None. ties: which of a user's rows of one moment counts as the latest,
    "first" or "last" of them, or None where time does not decide."""

    interactions: Interactions
    part: np.ndarray  # int8[n]: TRAIN, VALIDATION, TEST or UNUSED
    absent: np.ndarray | None = None  # bool[num_items]
    ties: str | None = None


Splitter = Callable[[Interactions], Split]
TIES = ("last", "first")


def leave_one_out(ties: str = "last") -> Splitter:
    """A user's last interaction in time is the test, the one before it validation, the rest
    training.

    A pair that occurs twice can land in two parts: `implicit` removes repeats.

    Args:
        ties: which of rows of one moment counts as the latest, the "last" of the file or the
            "first".

    Raises:
        ValueError: for other `ties`, and for a user with fewer than 3.

    Example:
        >>> split = data.leave_one_out()(interactions)
    """
    one_of("leave_one_out", "ties", ties, TIES)

    def split(interactions: Interactions) -> Split:
        counts = at_least_three("leave_one_out", interactions)
        left = counts[interactions.users] - places_of(interactions, ties)
        return Split(interactions, last_two(left), ties=ties)

    return split


def at_least_three(name: str, interactions: Interactions) -> np.ndarray:
    """int64[num_users]: interactions of each. Raises ValueError for a user with fewer than 3."""
    counts = np.diff(offsets(interactions))
    short = np.flatnonzero(counts < 3)
    if len(short):
        user = interactions.user_names[short[0]]
        raise ValueError(
            f"{name} needs 3 interactions a user, but user '{user}' has {counts[short[0]]} "
            f"({len(short)} such users); filter with k_core(users=3, items=1) first."
        )
    return counts


def last_two(left: np.ndarray) -> np.ndarray:
    """int8[n]: TEST for a user's last row, VALIDATION for the one before; left: rows to the end."""
    return np.where(left == 1, TEST, np.where(left == 2, VALIDATION, TRAIN)).astype(np.int8)


def global_time(validation: float = 0.1, test: float = 0.1) -> Splitter:
    """Two moments for all users: the latest `test` share of the rows tests, the `validation` share
    before it validates.

    Rows of equal time stay together, so the shares are met up to ties. Users who came late have no
    training rows.

    Args:
        validation: share of all rows, 0 for none.
        test: share of all rows, 0 for none.

    Raises:
        ValueError: for shares below 0 or that sum to 1 or more, and when ties leave a part empty
            (as when times are positions in short histories).

    Example:
        >>> split = data.global_time(validation=0.1, test=0.2)(interactions)
    """
    _check_shares("global_time", validation, test)

    def split(interactions: Interactions) -> Split:
        n = len(interactions)
        ordered = np.sort(interactions.times)
        part = np.full(n, TRAIN, np.int8)
        for share, name in ((1 - test - validation, VALIDATION), (1 - test, TEST)):
            first = int(np.ceil(n * share - 1e-9))
            if first < n:
                part[interactions.times >= ordered[first]] = name
        sizes = np.bincount(part, minlength=3)
        if (
            sizes[TRAIN] == 0
            or (validation and not sizes[VALIDATION])
            or (test and not sizes[TEST])
        ):
            raise ValueError(
                f"global_time(validation={validation}, test={test}) leaves a part of "
                f"'{interactions.name}' empty "
                f"(train, validation, test = {sizes[0]}, {sizes[1]}, {sizes[2]}); use "
                "leave_one_out or other shares."
            )
        return Split(interactions, part)

    return split


def ratio(validation: float = 0.1, test: float = 0.1, seed: int = 0) -> Splitter:
    """A random share of each user's interactions tests, another validates, the rest trains.

    Arguments that are not named here are those of `temporal_ratio`, as are the sizes.

    Args:
        seed: of the draw.

    Raises:
        ValueError: for shares below 0 or that sum to 1 or more, and for no seed of 32 bits.

    Example:
        >>> split = data.ratio(validation=0.1, test=0.2)(interactions)
    """
    _check_shares("ratio", validation, test)
    check.seed("ratio", seed)

    def split(interactions: Interactions) -> Split:
        draw = np.random.default_rng(seed).random(len(interactions))
        order = np.lexsort((draw, interactions.users))  # shuffles the rows of each user in place
        part = np.empty(len(interactions), np.int8)
        part[order] = _by_place(interactions, places_of(interactions), validation, test)
        return Split(interactions, part)

    return split


def temporal_ratio(validation: float = 0.1, test: float = 0.1, ties: str = "last") -> Splitter:
    """The latest share of each user's interactions tests, the share before it validates.

    Of n rows floor(n * share) go to a part. A part that would get none takes one row, the test
    first, as long as training keeps one (RecBole's rule).

    Args:
        validation: share of a user's rows, 0 for none.
        test: share of a user's rows, 0 for none.
        ties: as in `leave_one_out`.

    Raises:
        ValueError: for shares below 0 or that sum to 1 or more, and for other `ties`.

    Example:
        >>> split = data.temporal_ratio(validation=0.1, test=0.2)(interactions)
    """
    _check_shares("temporal_ratio", validation, test)
    one_of("temporal_ratio", "ties", ties, TIES)

    def split(interactions: Interactions) -> Split:
        places = places_of(interactions, ties)
        part = _by_place(interactions, places, validation, test)
        return Split(interactions, part, ties=ties)

    return split


def holding_out(
    name: str,
    fraction: float,
    split: Splitter | None,
    seed: int,
    tests_held: bool,
    drawn: Callable[[np.random.Generator, Split], tuple[np.ndarray, np.ndarray | None]],
) -> Splitter:
    """`split` (leave_one_out()) with some rows held out of training: they become UNUSED there, and
    validation and test rows where `tests_held` does not hold of them.

    drawn(rng, what `split` makes) -> (bool[n], the rows held out, and `Split.absent`).
    """
    check.seed(name, seed)
    if not 0 < fraction < 1:
        raise ValueError(f"{name}(fraction={fraction}) is not a share; use 0 < fraction < 1.")
    inner = leave_one_out() if split is None else split

    def divide(interactions: Interactions) -> Split:
        before = inner(interactions)
        held, absent = drawn(np.random.default_rng(seed), before)
        part = before.part.copy()
        part[np.where(part == TRAIN, held, held != tests_held)] = UNUSED
        return Split(interactions, part, absent, before.ties)

    return divide


def places_of(interactions: Interactions, ties: str = "last") -> np.ndarray:
    """int64[n]: the place of each row in its user's history, the oldest 0."""
    rows, start = np.arange(len(interactions)), offsets(interactions)
    if ties == "first":
        users, times = interactions.users, interactions.times
        fresh = np.append(True, (users[1:] != users[:-1]) | (times[1:] != times[:-1]))
        moment = np.cumsum(fresh) - 1
        begin = np.flatnonzero(fresh)
        end = np.append(begin[1:], len(rows)) - 1
        rows = begin[moment] + end[moment] - rows  # a moment's rows turned around
    return rows - start[interactions.users]


def tied_ends(interactions: Interactions) -> int:
    """How many users have their last two interactions at the same moment.

    Args:
        interactions: what is looked at.

    Example:
        >>> count = data.tied_ends(interactions)
    """
    start = offsets(interactions)
    last = start[1:][np.diff(start) > 1] - 1
    return int((interactions.times[last] == interactions.times[last - 1]).sum())


def _by_place(
    interactions: Interactions, places: np.ndarray, validation: float, test: float
) -> np.ndarray:
    """int8[n] parts by place in a user's history: training, then validation, then test."""
    start = offsets(interactions)
    counts = np.diff(start)
    # The small term keeps 0.29 * 100 = 28.999... from losing a row.
    tests = np.floor(counts * test + 1e-9).astype(np.int64)
    validations = np.floor(counts * validation + 1e-9).astype(np.int64)
    train = counts - tests - validations
    for size, share in ((tests, test), (validations, validation)):
        short = (size == 0) & (share > 0) & (train > 1)
        size[short] += 1
        train[short] -= 1
    left = counts[interactions.users] - places  # rows from this one to the user's last
    in_test = left <= tests[interactions.users]
    in_validation = left <= (tests + validations)[interactions.users]
    return np.where(in_test, TEST, np.where(in_validation, VALIDATION, TRAIN)).astype(np.int8)


def _check_shares(name: str, validation: float, test: float) -> None:
    if validation < 0 or test < 0 or validation + test >= 1:
        raise ValueError(
            f"{name}(validation={validation}, test={test}) leaves no training rows; use shares "
            ">= 0 that sum below 1."
        )
