"""Whether two models differ beyond what other users would have said: paired tests over users.

    d_u = a_u - b_u                                  of the users that both have
    bootstrap   mean of d over users drawn with replacement; p = 2 min(P(mean* <= 0), P(mean* >= 0))
    Wilcoxon    signed ranks of d, zeros left out
    d_z = mean(d) / std(d);   rank-biserial r = (R+ - R-) / (R+ + R-)

Both speak of users and of the models as they are. What another seed of training would have given is
another question, which only runs with other seeds answer. The bootstrap tests the mean that tables
print. Signed ranks test whether differences lie around zero: of a metric that is 0 or 1, such as
HR@10 leave-one-out, they see the wins and losses alone. (Efron and Tibshirani, 1993, ch. 16;
Smucker, Allan and Carterette, "A comparison of statistical significance tests for information
retrieval evaluation", CIKM 2007; Kerby, 2014, for r; Holm, 1979, for several comparisons.)

`U` users, `R` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..check import at_least
from ..check import seed as check_seed


def paired(
    first: Any, second: Any, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[str, float]:
    """How far the mean over users of one model is above another's.

    Args:
        first: a, float[U], one value per user, NaN for none.
        second: b, float[U], of the same users in the same order.
        level: of the interval, in (0, 1).
        draws: R, of the bootstrap. A p of it is 1 / (R + 1) at least.
        seed: of the draws.

    Returns:
        `first` and `second`, the means over the users that have both; their `difference`, with
        `low` and `high` of its percentile interval; `p_bootstrap` and `p_wilcoxon`, two-sided;
        `effect`, d_z, and `rank_biserial`, r; `users`, how many; `ties`, how many of them have the
        same value twice. Tests of no difference at all have p = 1 and effects of 0.

    Raises:
        ValueError: for lengths that differ, fewer than two users with both, a level out of range,
            or no draw.

    Example:
        >>> told = evaluate.paired([0.5, 0.7, 0.9, 0.4], [0.1, 0.2, 0.3, 0.1])
        >>> round(told["difference"], 3), told["ties"]
        (0.45, 0.0)
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(
            f"paired(first: {a.shape}, second: {b.shape}); give one value each of every user."
        )
    if not 0 < level < 1:
        raise ValueError(f"paired(level={level}) is out of range; use 0 < level < 1.")
    at_least("paired", "draws", draws, 1)
    check_seed("paired", seed)
    from scipy import stats  # takes half a second to import

    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if a.size < 2:
        raise ValueError(
            f"paired(first, second): {a.size} users have both values; compare two or more."
        )
    d = a - b
    means = _means(d, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    tail = min((means <= 0).sum(), (means >= 0).sum())
    moved, spread = d[d != 0], d.std(ddof=1)
    ranks = stats.rankdata(np.abs(moved))
    found: Any = stats.wilcoxon(moved) if moved.size else None
    p_ranks = 1.0 if found is None else float(found.pvalue)
    return {
        "first": float(a.mean()),
        "second": float(b.mean()),
        "difference": float(d.mean()),
        "low": float(low),
        "high": float(high),
        "p_bootstrap": float(min(1.0, 2 * (tail + 1) / (draws + 1))),
        "p_wilcoxon": p_ranks,
        "effect": float(d.mean() / spread) if spread else 0.0,
        "rank_biserial": float((np.sign(moved) * ranks).sum() / ranks.sum()) if moved.size else 0.0,
        "users": float(d.size),
        "ties": float(d.size - moved.size),
    }


def holm(p: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """p values of several comparisons, raised so that all of them together err as often as one.

    Args:
        p: float[m], of m comparisons.

    Returns:
        float[m], in their order: the i-th smallest times m - i + 1, no smaller than one before it,
        and 1 at most (Holm, 1979). NaN, of a comparison that was not made, stays and counts not.

    Raises:
        ValueError: for a p outside 0 to 1.

    Example:
        >>> evaluate.holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    values = np.asarray(p, np.float64)
    made = ~np.isnan(values)
    if ((values[made] < 0) | (values[made] > 1)).any():
        raise ValueError(f"holm(p={values.tolist()}) holds no probabilities; use 0 to 1.")
    found, known = values.copy(), values[made]
    order = np.argsort(known)
    raised = np.maximum.accumulate(known[order] * np.arange(known.size, 0, -1))
    back = np.empty_like(known)
    back[order] = np.minimum(raised, 1.0)
    found[made] = back
    return found


def _means(d: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """float64[R]: means of as many users drawn with replacement, by how often each value comes,
    since a metric of ranks has few."""
    values, often = np.unique(d, return_counts=True)
    at_once = max(1, 2**22 // values.size)
    parts = (min(at_once, draws - done) for done in range(0, draws, at_once))
    share = often / d.size
    return np.concatenate([rng.multinomial(d.size, share, n) @ values / d.size for n in parts])
