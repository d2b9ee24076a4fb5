"""The bootstrap over users: how far an AUC over many examples of few people may be trusted.

    AUC_b = P_b(z+ > z-) + P_b(z+ = z-) / 2,   b: as many users, drawn with replacement

Examples of one user hang together, so users are drawn and not examples: 500 prompts of 29 people
have an interval like that of 29 numbers (Efron and Tibshirani, 1993, percentile intervals).

`n` examples, `U` users, `R` draws.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..check import at_least
from ..check import seed as check_seed
from ..types import Array


def auc_interval(
    scores: Array | Sequence,
    labels: Array | Sequence,
    users: Array | Sequence,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """AUC with a percentile interval over users.

    Args:
        scores: z, float[n]; NaN counts as the smallest.
        labels: [n], 0 or 1.
        users: [n], whose an example is.
        level: of the interval, in (0, 1).
        draws: R, 1 or more.
        seed: of the draws. The same for two scores of the same examples, they are paired.

    Returns:
        `auc`, `low`, `high`, `users`; low and high over the draws in which both labels occur.

    Raises:
        ValueError: for lengths that differ, a level out of range, or no draw.

    Example:
        >>> told = evaluate.auc_interval([0.1, 0.9, 0.4, 0.2], [0, 1, 0, 1], [7, 7, 8, 8])
        >>> told["auc"]
        0.75
    """
    u = _checked("auc_interval", [scores], labels, users, level, draws, seed)
    (whole,), found, count = _drawn([scores], labels, u, draws, seed)
    low, high = np.nanquantile(found[0], [(1 - level) / 2, (1 + level) / 2])
    return {"auc": whole, "low": float(low), "high": float(high), "users": float(count)}


def auc_difference(
    first: Array | Sequence,
    second: Array | Sequence,
    labels: Array | Sequence,
    users: Array | Sequence,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """How far the AUC of one model is above another's, on the same examples: both are taken of the
    same users in each draw.

    Arguments that are not named here are those of `auc_interval`.

    Args:
        first: z of the one, float[n], or [S, n] of S seeds, of whose AUC the mean counts.
        second: of the other.

    Returns:
        `first` and `second`, their AUC, the `difference`, `low` and `high` of its interval,
        `p_bootstrap`, two-sided, and `users`.

    Raises:
        ValueError: as `auc_interval`.

    Example:
        >>> z, other, labels = [0.1, 0.9, 0.4, 0.2], [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1]
        >>> evaluate.auc_difference(z, other, labels, [7, 7, 8, 8])["difference"]
        0.0
    """
    a, b = (np.atleast_2d(np.asarray(x)) for x in (first, second))
    u = _checked("auc_difference", [*a, *b], labels, users, level, draws, seed)
    whole, found, count = _drawn([*a, *b], labels, u, draws, seed)
    mean = lambda x: (np.mean(x[: len(a)], 0), np.mean(x[len(a) :], 0))
    (one, other), (drawn, others) = mean(whole), mean(found)
    gaps = drawn - others
    gaps = gaps[~np.isnan(gaps)]
    low, high = np.quantile(gaps, [(1 - level) / 2, (1 + level) / 2])
    tail = min((gaps <= 0).sum(), (gaps >= 0).sum())
    return {
        "first": float(one),
        "second": float(other),
        "difference": float(one - other),
        "low": float(low),
        "high": float(high),
        "p_bootstrap": float(min(1.0, 2 * (tail + 1) / (len(gaps) + 1))),
        "users": float(count),
    }


def _checked(where: str, scores: Sequence, labels, users, level, draws, seed) -> np.ndarray:
    """`users` as an array. Raises ValueError as `auc_interval`."""
    y, u = np.asarray(labels), np.asarray(users)
    for z in map(np.asarray, scores):
        if not z.shape == y.shape == u.shape or z.ndim != 1:
            raise ValueError(
                f"{where}(scores: {z.shape}, labels: {y.shape}, users: {u.shape}); give one each "
                "of every example."
            )
    if not 0 < level < 1:
        raise ValueError(f"{where}(level={level}) is out of range; use 0 < level < 1.")
    at_least(where, "draws", draws, 1)
    check_seed(where, seed)
    return u


def _drawn(
    scores: Sequence, labels, users: np.ndarray, draws: int, seed: int
) -> tuple[list[float], np.ndarray, int]:
    """(the AUC of each score, float[scores, R] of the same users drawn, U)."""
    _, owner = np.unique(users, return_inverse=True)
    count, positive = int(owner.max()) + 1, np.asarray(labels) > 0
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    whole, found = [], []
    for z in scores:
        # float64 has all float32 and integers; equal scores share a place.
        plain = np.nan_to_num(np.asarray(z, np.float64), nan=-np.inf)
        _, place = np.unique(plain, return_inverse=True)
        found.append([_auc(place, positive, row[owner].astype(np.float64)) for row in times])
        whole.append(_auc(place, positive, np.ones(len(place))))
    return whole, np.array(found), count


def _auc(place: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Of weighted examples, whose scores are in the order of `place`."""
    ones = np.bincount(place, weight * positive)
    zeros = np.bincount(place, weight * ~positive, minlength=len(ones))
    pairs = ones.sum() * zeros.sum()
    below = np.cumsum(zeros) - zeros / 2
    return float(ones @ below / pairs) if pairs else np.nan
