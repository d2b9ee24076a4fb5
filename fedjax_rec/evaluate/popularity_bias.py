"""Calibrated popularity: whether lists are as popular as what their users have chosen.

Items are the head, the fewest popular ones that have a fifth of all training interactions, the
tail, the many unpopular ones that have the last fifth, and the middle between. With P_u the shares
of the three in a user's history, Q_u those in its list, M = (P + Q) / 2, and phi_i the users who
have item i in training, over all users:

    deviation   JSD(P_u, Q_u) = KL(P || M) / 2 + KL(Q || M) / 2, in nats: from 0 to log 2
    UPD         its mean over users                 (user popularity deviation)
    GAP_p       mean over users of the mean of phi over the history; GAP_q, over the list
    PL          (GAP_q - GAP_p) / GAP_p             (popularity lift; 0 where lists are as popular)

UPD is of Abdollahpouri et al., "User-centered evaluation of popularity bias in recommender
systems", UMAP 2021, who average groups of equal size; PL of Abdollahpouri et al., "The connection
between popularity bias, calibration, and fairness in recommendation", RecSys 2020, who tell it by
groups of users, of which the fifth with the least popular histories is `niche` and that with the
most popular ones `blockbuster` (Abdollahpouri et al., "The unfairness of popularity bias", 2019).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .calibration import divergence, history_of, shares, shown_of

GROUPS = ("head", "mid", "tail")
COLD = "cold"
_ROUND = 1e-9  # of sums of whole numbers by a share such as .2


def popularity_groups(popularity: Any, share: float = 0.2) -> np.ndarray:
    """Which items are the head, the middle and the tail of the training interactions.

    Args:
        popularity: int[I], training interactions of each item.
        share: of all interactions, that the head has, and the tail. In (0, .5].

    Returns:
        int8[I]: 0 for the head, 1 for the middle, 2 for the tail. Equally popular items stand in
        the order of their ids; items without an interaction are of the tail.

    Raises:
        ValueError: for a share out of range, and where there is no interaction.

    Example:
        >>> evaluate.popularity_groups([20, 1, 40, 9, 10, 20]).tolist()
        [1, 2, 0, 2, 2, 1]
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"popularity_groups(share={share}) is out of range; use 0 < share <= 0.5.")
    phi = np.asarray(popularity, np.float64)
    if phi.ndim != 1 or not phi.sum() > 0:
        raise ValueError(
            f"popularity_groups(popularity of shape {phi.shape}) has no interaction; give the "
            "counts of each item, [I]."
        )
    order = np.argsort(-phi, kind="stable")
    through = np.cumsum(phi[order])
    before, bound = through - phi[order], share * through[-1]
    head = before < bound - _ROUND
    tail = ~head & (through[-1] - before <= bound + _ROUND)
    found = np.empty(phi.size, np.int8)
    found[order] = np.where(head, 0, np.where(tail, 2, 1))
    return found


def popularity_deviation(
    lists: Any, users: Any, items: Any, popularity: Any, share: float = 0.2
) -> np.ndarray:
    """How far each list's shares of head, middle and tail are from those of the user's history.

    Args:
        lists: int[U, k], items of each user's list, from 0; -1 for places that a list lacks.
        users: int[n], whose the rows of the histories are.
        items: int[n], which items.
        popularity: int[I], training interactions of each item.
        share: as in `popularity_groups`.

    Returns:
        float64[U], the Jensen-Shannon divergence in nats, 0 for equal shares; NaN for a user
        without a list or a history. The mean over users is UPD.

    Raises:
        ValueError: for lists that are not [U, k] or name items that `popularity` lacks, for
            histories of other users or items, and as `popularity_groups`.

    Example:
        >>> told = evaluate.popularity_deviation([[0, 2]], [0, 0], [0, 1], [5, 5, 0])
        >>> round(float(told[0]), 4)
        0.3466
    """
    group = popularity_groups(popularity, share)
    shown = shown_of("popularity_deviation", lists, group.size)
    seen = history_of("popularity_deviation", users, items, len(shown), group.size)
    of_item = np.eye(3)[group]
    p = shares(np.asarray(seen @ of_item))
    listed = [((group[shown] == g) & (shown >= 0)).sum(1) for g in range(3)]
    q = shares(np.stack(listed, 1).astype(np.float64))
    middle = (p + q) / 2
    return (divergence(p, middle) + divergence(q, middle)) / 2


def popularity_lift(lists: Any, users: Any, items: Any, popularity: Any) -> dict[str, float]:
    """How much more popular lists are than what their users have chosen.

    Args:
        lists: int[U, k], items of each user's list, from 0; -1 for places that a list lacks.
        users: int[n], whose the rows of the histories are.
        items: int[n], which items.
        popularity: [I], the users who have each item in training; a factor changes nothing.

    Returns:
        `all`, `niche` and `blockbuster`: PL of all users that have a list and a history, of the
        fifth of them whose histories are the least popular on average, and of that whose histories
        are the most. NaN where there is nobody.

    Raises:
        ValueError: as `popularity_deviation`.

    Example:
        >>> told = evaluate.popularity_lift([[0], [1]], [0, 0, 1], [0, 1, 1], [30, 10])
        >>> round(told["all"], 6)
        0.333333
    """
    phi = np.asarray(popularity, np.float64)
    shown = shown_of("popularity_lift", lists, phi.size)
    seen = history_of("popularity_lift", users, items, len(shown), phi.size)
    real = shown >= 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mine = (seen @ phi) / seen.sum(1)
        given = np.where(real, phi[shown], 0.0).sum(1) / real.sum(1)
    known = np.flatnonzero(~np.isnan(mine + given))
    order = known[np.argsort(mine[known], kind="stable")]
    fifth = round(known.size / 5)

    def lift(some: np.ndarray) -> float:
        before = mine[some].mean() if some.size else np.nan
        return float(given[some].mean() / before - 1) if before > 0 else float("nan")

    ends = order[:fifth], order[len(order) - fifth :]
    return {"all": lift(order), "niche": lift(ends[0]), "blockbuster": lift(ends[1])}
