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
    z, y, u = (np.asarray(x) for x in (scores, labels, users))
    if not z.shape == y.shape == u.shape or z.ndim != 1:
        raise ValueError(
            f"auc_interval(scores: {z.shape}, labels: {y.shape}, users: {u.shape}); give one each "
            "of every example."
        )
    if not 0 < level < 1:
        raise ValueError(f"auc_interval(level={level}) is out of range; use 0 < level < 1.")
    at_least("auc_interval", "draws", draws, 1)
    check_seed("auc_interval", seed)
    _, owner = np.unique(u, return_inverse=True)
    count = int(owner.max()) + 1
    # float64 has all float32 and integers; equal scores share a place.
    _, place = np.unique(np.nan_to_num(z.astype(np.float64), nan=-np.inf), return_inverse=True)
    positive = y > 0
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=draws)
    found = [_auc(place, positive, row[owner].astype(np.float64)) for row in times]
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    whole = _auc(place, positive, np.ones(len(z)))
    return {"auc": whole, "low": float(low), "high": float(high), "users": float(count)}


def _auc(place: np.ndarray, positive: np.ndarray, weight: np.ndarray) -> float:
    """Of weighted examples, whose scores are in the order of `place`."""
    ones = np.bincount(place, weight * positive)
    zeros = np.bincount(place, weight * ~positive, minlength=len(ones))
    pairs = ones.sum() * zeros.sum()
    below = np.cumsum(zeros) - zeros / 2
    return float(ones @ below / pairs) if pairs else np.nan
