"""What the lists of all users are like together, whoever likes them: beyond accuracy.

Of lists R_u of k items, n_i the lists that item i is in, q_i = n_i / sum_j n_j, and phi_i the users
who have i in training:

    coverage        share of the I items that are in some list
    gini            sum_i (2 i - I - 1) q_(i) / I, q ascending: 0 all alike, 1 one item alone
    entropy         -sum_i q_i log q_i, in nats
    popularity      mean over users and places of phi_i
    novelty         mean over users and places of -log2(phi_i / U), phi_i of nobody's items 1
    tail            share of places whose item is none of the head, the items of the largest phi

(Castells, Hurley and Vargas, "Novelty and diversity in recommender systems", Recommender Systems
Handbook, 2022. Names and formulas of coverage, gini, entropy and popularity are RecBole's.)

`U` users, `I` items, `k` places of a list.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..check import static


def beyond_accuracy(lists: Any, popularity: Any, users: int, head: float = 0.2) -> dict[str, float]:
    """Coverage, inequality and novelty of what all users are recommended.

    Args:
        lists: int[U, k], items of each user's list, from 0; -1 for places that a list lacks.
        popularity: phi, int[I], the users who have each item in training.
        users: how many users phi is of.
        head: the share of the catalogue that counts as the head, the most popular items; equally
            popular ones in the order of their ids. In (0, 1).

    Returns:
        `coverage`, `gini`, `entropy`, `popularity`, `novelty` and `tail`; NaN where no list has
        an item.

    Raises:
        ValueError: for lists that are not [U, k] or name items that phi lacks, a head out of range,
            and fewer users than the most popular item has.

    Example:
        >>> told = evaluate.beyond_accuracy([[0, 1], [0, 2]], [9, 4, 1, 0, 0], users=10)
        >>> told["coverage"], told["tail"]
        (0.6, 0.5)
    """
    static("beyond_accuracy", "head", head)
    if not 0 < head < 1:
        raise ValueError(f"beyond_accuracy(head={head}) is out of range; use 0 < head < 1.")
    shown, phi = np.asarray(lists), np.asarray(popularity, np.float64)
    size = phi.size
    if shown.ndim != 2 or (shown.size and (shown.max() >= size or shown.min() < -1)):
        raise ValueError(
            f"beyond_accuracy(lists: {shown.shape}): give int[U, k] of items below {size}, or -1."
        )
    if size and phi.max() > users:
        raise ValueError(
            f"beyond_accuracy(users={users}): an item has {phi.max():.0f}; give how many users "
            "there are."
        )
    placed = shown[shown >= 0]
    if not placed.size:
        names = ("coverage", "gini", "entropy", "popularity", "novelty", "tail")
        return dict.fromkeys(names, float("nan"))
    q = np.sort(np.bincount(placed, minlength=size) / placed.size)
    some = q[q > 0]
    first = np.argsort(-phi, kind="stable")[: max(1, round(head * size))]
    # Means over users of means over places, as of metrics.
    each = lambda of_item: float(np.nanmean(_over_places(shown, of_item)))
    return {
        "coverage": some.size / size,
        "gini": float(((2 * np.arange(1, size + 1) - size - 1) * q).sum() / size),
        "entropy": float(-(some * np.log(some)).sum()),
        "popularity": each(phi),
        "novelty": each(-np.log2(np.maximum(phi, 1) / users)),
        "tail": each(~np.isin(np.arange(size), first)),
    }


def _over_places(shown: np.ndarray, of_item: np.ndarray) -> np.ndarray:
    """float64[U]: the mean over the places of a list that hold an item; NaN for empty ones."""
    real = shown >= 0
    values = np.where(real, np.asarray(of_item, np.float64)[shown], 0.0).sum(1)
    count = real.sum(1)
    return np.where(count > 0, values / np.maximum(count, 1), np.nan)
