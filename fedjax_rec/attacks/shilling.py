"""Shilling: accounts with made up interactions, which train as honest ones do.

Each added user has the targets and `filler` other items; which ones is what profiles differ in:

    random      any items alike
    average     items as often as users have them; of ratings, each at the mean of its item
    bandwagon   the most popular items, at the highest rating, and others at random

Targets have the highest rating. Other ratings are drawn around the mean of all, or of the item,
with the deviation of all, and cut to the range. (Lam & Riedl, "Shilling recommender systems for
fun and profit", WWW 2004; Burke et al., "Limited knowledge shilling attacks in collaborative
filtering systems", 2005.) Without ratings, `average` knows how popular items are and `random`
nothing.

Added users come after all others, have training rows alone, and so are measured by no metric:
under `data.by_user` they are the clients from `num_users` on, see `from_id`. What a run counts
of its clients and its interactions counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from .. import check
from ..data import Split, leave_one_out
from ..data.interactions import Interactions
from ..data.splits import TRAIN, Splitter


def random_profiles(
    targets: Sequence[int],
    share: float = 0.05,
    filler: int = 30,
    split: Splitter | None = None,
    seed: int = 0,
) -> Splitter:
    """Adds users who have the targets and items drawn alike. The attacker knows the catalogue.

    Args:
        targets: ids of the items that are pushed.
        share: how many are added, of the users that there are, rounded down to whole ones.
        filler: other items of each.
        split: which rows train, validate and test; default `leave_one_out()`. It sees real users.
        seed: of the draws.

    Raises:
        ValueError: for a share that adds nobody or is not below 1, for no seed of 32 bits, and with
            the data, for a target or more filler than there are items.

    Example:
        >>> from fedjax_rec import attacks
        >>> split = attacks.random_profiles(targets=[7], share=0.1, filler=5)(interactions)
    """

    def chosen(rng, known: _Known, free):
        return rng.choice(free, filler, replace=False), known.mean_of_all

    return _adding("random_profiles", targets, share, filler, split, seed, chosen)


def average_profiles(
    targets: Sequence[int],
    share: float = 0.05,
    filler: int = 30,
    split: Splitter | None = None,
    seed: int = 0,
) -> Splitter:
    """Adds users who have the targets and items that users have, by how many do. The attacker knows
    how many, and what items are rated on average.

    Arguments that are not named here are those of `random_profiles`.

    Raises:
        ValueError: as `random_profiles`.

    Example:
        >>> from fedjax_rec import attacks
        >>> split = attacks.average_profiles(targets=[7], share=0.1, filler=5)(interactions)
    """

    def chosen(rng, known: _Known, free):
        # Of items that nobody has one may still be drawn, where there are not enough others.
        weight = known.count[free] + 1e-9
        items = rng.choice(free, filler, replace=False, p=weight / weight.sum())
        return items, known.mean[items]

    return _adding("average_profiles", targets, share, filler, split, seed, chosen)


def bandwagon_profiles(
    targets: Sequence[int],
    share: float = 0.05,
    filler: int = 30,
    popular: int = 10,
    split: Splitter | None = None,
    seed: int = 0,
) -> Splitter:
    """Adds users who have the targets, the most popular items, and others drawn alike. The attacker
    knows which items are popular.

    Arguments that are not named here are those of `random_profiles`.

    Args:
        popular: how many of `filler` are the most popular items.

    Raises:
        ValueError: as `random_profiles`, and for more popular items than filler.

    Example:
        >>> from fedjax_rec import attacks
        >>> added = attacks.bandwagon_profiles([7], share=0.1, filler=5, popular=2)
        >>> split = added(interactions)
    """
    check.at_least("bandwagon_profiles", "popular", popular, 1)
    if popular > filler:
        raise ValueError(
            f"bandwagon_profiles(popular={popular}) is more than filler={filler}; use popular <= "
            f"{filler}."
        )

    def chosen(rng, known: _Known, free):
        order = free[np.argsort(-known.count[free], kind="stable")]
        first, rest = order[:popular], order[popular:]
        items = np.concatenate([first, rng.choice(rest, filler - popular, replace=False)])
        around = np.where(np.arange(filler) < popular, np.inf, known.mean_of_all)
        return items, around

    return _adding("bandwagon_profiles", targets, share, filler, split, seed, chosen)


class _Known:
    """What can be known of items. count: int[I], training rows of each; mean: float[I], of ratings;
    mean_of_all, deviation, lowest, highest: float."""

    def __init__(self, split: Split):
        data, trains = split.interactions, split.part == TRAIN
        items, size = data.items[trains], data.num_items
        self.count = np.bincount(items, minlength=size)
        ratings = np.ones(len(items)) if data.ratings is None else data.ratings[trains]
        self.mean_of_all, self.deviation = float(ratings.mean()), float(ratings.std())
        self.lowest, self.highest = float(ratings.min()), float(ratings.max())
        total = np.bincount(items, ratings, minlength=size)
        self.mean = np.where(self.count, total / np.maximum(self.count, 1), self.mean_of_all)


def _adding(
    where: str,
    targets: Sequence[int],
    share: float,
    filler: int,
    split: Splitter | None,
    seed: int,
    chosen: Callable[..., tuple[np.ndarray, np.ndarray | float]],
) -> Splitter:
    """The split of real users, and users added to it; chosen(rng, known, free) -> (items
    [filler] of `free`, the means around which they are rated, infinity for the highest)."""
    pushed, inner = np.asarray(list(targets), np.int64), split or leave_one_out()
    check.seed(where, seed)
    check.at_least(where, "filler", filler, 0)
    if not pushed.size or len(np.unique(pushed)) != len(pushed) or pushed.min() < 0:
        raise ValueError(f"{where}(targets={list(targets)}) names no items; use distinct ids >= 0.")
    if not 0 < share < 1:
        raise ValueError(f"{where}(share={share}) is no share of users; use 0 < share < 1.")

    def divide(interactions: Interactions) -> Split:
        before = inner(interactions)
        data = before.interactions
        count = int(share * data.num_users)
        if not count:
            raise ValueError(
                f"{where}(share={share}) of {data.num_users} users adds nobody; use share >= "
                f"{1 / data.num_users:.2g}."
            )
        if pushed.max() >= data.num_items:
            raise ValueError(
                f"{where}(targets={list(targets)}): there is no item {pushed.max()}; use ids below "
                f"{data.num_items}."
            )
        free = np.setdiff1d(np.arange(data.num_items), pushed)
        if filler > len(free):
            raise ValueError(
                f"{where}(filler={filler}) is more than the {len(free)} other items; use fewer."
            )
        rng, known = np.random.default_rng(seed), _Known(before)
        items, ratings = [], []
        for _ in range(count):
            others, around = chosen(rng, known, free)
            drawn = np.clip(around + known.deviation * rng.normal(size=filler), *_range(known))
            items.append(np.concatenate([pushed, others]))
            ratings.append(np.concatenate([np.full(len(pushed), known.highest), drawn]))
        return _with(before, np.array(items), np.array(ratings))

    return divide


def _range(known: _Known) -> tuple[float, float]:
    return known.lowest, known.highest


def _with(split: Split, items: np.ndarray, ratings: np.ndarray) -> Split:
    """`split` and a user for each row of `items` [users, n], who trains on them."""
    data, (count, each) = split.interactions, items.shape
    join = lambda old, new: np.concatenate([old, new.astype(old.dtype)])
    users = np.repeat(np.arange(count), each) + data.num_users
    names = np.array([f"added {i}" for i in range(count)])
    features = data.user_features
    if features is not None:
        nothing = {name: [None] * count for name in features.columns}
        features = pl.concat([features, pl.DataFrame(nothing, schema=features.schema)])
    last = data.times.max()
    grown = replace(
        data,
        users=join(data.users, users),
        items=join(data.items, items.reshape(-1)),
        times=join(data.times, np.full(items.size, last)),
        ratings=None if data.ratings is None else join(data.ratings, ratings.reshape(-1)),
        user_names=np.concatenate([data.user_names, names]),
        user_features=features,
    )
    part = np.concatenate([split.part, np.full(items.size, TRAIN, split.part.dtype)])
    return replace(split, interactions=grown, part=part)
