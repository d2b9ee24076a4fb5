"""How a metric spreads over users: intervals, quantiles, groups, the worst off.

Host-side NumPy. The input is one value per user, float[N]; NaN marks a user without held-out
items and is left out everywhere. Results are plain floats, ready for JSON, and NaN where no user
has a value: a metric that none of them has (AUC where nothing is to be ranked behind) is no error.

    95% interval   mean +- 1.96 s / sqrt(n)
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def mean_and_interval(values: Any, level: float = 0.95) -> dict[str, float]:
    """Mean over users with a normal confidence interval, mean +- z s / sqrt(n).

    Args:
        values: float[N], one value per user, NaN for none.
        level: of the interval.

    Returns:
        `mean`, `low`, `high`, `users`; low and high are NaN for fewer than two users, and mean for
        none.

    Raises:
        ValueError: level is not strictly between 0 and 1.

    Example:
        >>> told = evaluate.mean_and_interval([0.1, 0.4, float("nan"), 0.7])
        >>> told["users"]
        3.0
    """
    known = _known("mean_and_interval", values)
    _check_share("mean_and_interval", "level", level)
    center = float(known.mean()) if known.size else np.nan
    if known.size < 2 or not np.isfinite(center):
        return {"mean": center, "low": np.nan, "high": np.nan, "users": float(known.size)}
    z = NormalDist().inv_cdf(0.5 + level / 2)
    half = z * float(known.std(ddof=1)) / known.size**0.5
    return {"mean": center, "low": center - half, "high": center + half, "users": float(known.size)}


def quantiles(values: Any, q: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 0.9)) -> dict[str, float]:
    """Quantiles over users, keyed by percentile: `{"p10": ..., "p50": ...}`.

    Args:
        values: float[N], one value per user, NaN for none.
        q: shares of users, each from 0 to 1.

    Raises:
        ValueError: an entry of q is outside 0..1.

    Example:
        >>> evaluate.quantiles([0.0, 0.5, 1.0], q=[0.5])
        {'p50': 0.5}
    """
    known = _known("quantiles", values)
    for level in q:
        if not 0 <= level <= 1:
            raise ValueError(f"quantiles(q={level}) is no quantile; use numbers from 0 to 1.")
    if known.size:
        # Between finite and infinite values there is no line, and none is drawn.
        with np.errstate(invalid="ignore"):
            found = np.quantile(known, list(q))
    else:
        found = np.full(len(q), np.nan)
    return {f"p{100 * level:g}": float(value) for level, value in zip(q, found, strict=True)}


def by_activity(values: Any, counts: Any, groups: int = 4) -> dict[str, dict[str, float]]:
    """Means over groups of users of equal size, from the least to the most active.

    Args:
        values: float[N], one value per user.
        counts: int[N], training interactions of each user.
        groups: number of groups; sizes differ by one at most. Users with equal counts are split
            in user order where a boundary falls among them.

    Returns:
        `{"q1": {"low", "high", "users", "mean"}, ...}`; low and high are the counts covered.

    Raises:
        ValueError: lengths differ, or there are fewer users than groups.

    Example:
        >>> found = evaluate.by_activity([0.1, 0.2, 0.4, 0.5], [3, 9, 20, 50], groups=2)
        >>> found["q2"]["low"]
        20.0
    """
    return _grouped("by_activity", values, "counts", np.asarray(counts, np.float64), groups)


def by_group(values: Any, labels: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Means over groups of users that are called alike, such as by gender.

    Args:
        values: float[N], one value per user, NaN for none.
        labels: N names of groups; None for a user of no group.

    Returns:
        `{"F": {"users", "mean"}, ...}` in the order of names, of groups that have a value.

    Raises:
        ValueError: lengths differ.

    Example:
        >>> found = evaluate.by_group([0.25, 0.5, 1.0], ["F", "M", "F"])
        >>> found["F"]["mean"]
        0.625
    """
    array = np.asarray(values, np.float64)
    if array.shape != (len(labels),):
        raise ValueError(
            f"by_group(values of shape {array.shape}, labels for {len(labels)} users) do not "
            "match; use one entry per user in both."
        )
    kept: dict[str, list[float]] = {}
    for value, label in zip(array, labels, strict=True):
        if label is not None and not np.isnan(value):
            kept.setdefault(str(label), []).append(value)
    return {
        name: {"users": float(len(mine)), "mean": float(np.mean(mine))}
        for name, mine in sorted(kept.items())
    }


def worst_share(values: Any, share: float = 0.1) -> float:
    """Mean over the worst-served share of users, at least one of them.

    Args:
        values: float[N], one value per user, NaN for none.
        share: of the users that have a value; default the worst decile.

    Raises:
        ValueError: share is not strictly between 0 and 1.

    Example:
        >>> evaluate.worst_share([0.25, 0.5, 1.0, 1.0], share=0.25)
        0.25
    """
    known = np.sort(_known("worst_share", values))
    _check_share("worst_share", "share", share)
    # Rounded first: 0.1 * 30 is a little above 3 in floating point.
    count = max(1, int(np.ceil(round(share * known.size, 9))))
    return float(known[:count].mean()) if known.size else np.nan


def _known(function: str, values: Any) -> Floats:
    """The values that are not NaN, float64[n]."""
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise ValueError(
            f"{function}(values of shape {array.shape}) is not one value per user; "
            "use one metric's vector, shape [N]."
        )
    return array[~np.isnan(array)]


def _check_share(function: str, argument: str, share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"{function}({argument}={share}) is no share; use 0 < {argument} < 1.")


def _grouped(
    function: str, values: Any, argument: str, order: Floats, groups: int
) -> dict[str, dict[str, float]]:
    array = np.asarray(values, np.float64)
    if array.shape != order.shape or array.ndim != 1:
        raise ValueError(
            f"{function}(values of shape {array.shape}, {argument} for {order.shape[0]} users) "
            "do not match; use one entry per user in both."
        )
    kept = ~np.isnan(array) & ~np.isnan(order)
    array, order = array[kept], order[kept]
    if not 1 <= groups <= array.size:
        raise ValueError(
            f"{function}(groups={groups}) cannot split {array.size} evaluated users; "
            f"use 1 <= groups <= {array.size}."
        )
    parts = np.array_split(np.argsort(order, kind="stable"), groups)
    return {
        f"q{number}": {
            "low": float(order[part].min()),
            "high": float(order[part].max()),
            "users": float(part.size),
            "mean": float(array[part].mean()),
        }
        for number, part in enumerate(parts, start=1)
    }
