"""How well an attack did, against a guess at random and one that needs no message.

    precision = |said, true| / |said|,   recall = |said, true| / |true|,   F1 their harmonic mean

and AUC = P(a true one scores above another), ties one half. Each is of one user, then a mean over
users with an interval by the bootstrap over users. A guess at random says as many of the candidates
as the attack does; `everything` says all candidates. Host-side NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

DRAWS, SEED = 1000, 0


@dataclass(frozen=True)
class Guess:
    """What an attack says of one client. candidates: int[n], ascending, the items it speaks of;
    score: float[n], higher is likelier; said: bool[n], those that it names."""

    client: int
    candidates: np.ndarray
    score: np.ndarray
    said: np.ndarray


@dataclass(frozen=True)
class Interval:
    """A mean over users, and its 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """Of one attack. by: `Interval` by metric; random, everything: the F1 of those guesses; users:
    how many it is over."""

    attack: str
    truth: str
    by: dict[str, Interval]
    random: float
    everything: float
    users: int


def auc(score, true) -> float:
    """P(score of a true one > score of another), ties one half; NaN where there is none of a kind.

    Args:
        score: float[n].
        true: bool[n].

    Example:
        >>> from fedjax_rec import leaks
        >>> leaks.auc([3.0, 2.0, 1.0], [True, False, False])
        1.0
    """
    score, true = np.asarray(score, np.float64), np.asarray(true, bool)
    a, b = int(true.sum()), int((~true).sum())
    if not a or not b:
        return float("nan")
    return float((rankdata(score)[true].sum() - a * (a + 1) / 2) / (a * b))


def interval(values, draws: int = DRAWS, seed: int = SEED) -> Interval:
    """The mean of the values that are numbers, and its 95% interval by the bootstrap over them.

    Args:
        values: float[U], NaN where a user has none.
        draws: resamples.
        seed: of the resamples.

    Returns:
        An `Interval`, NaN where no value is a number.

    Example:
        >>> from fedjax_rec import leaks
        >>> leaks.interval([0.5, 0.5]).low
        0.5
    """
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"))
    which = np.random.default_rng(seed).integers(0, len(known), (draws, len(known)))
    low, high = np.quantile(known[which].mean(1), (0.025, 0.975))
    return Interval(float(known.mean()), float(low), float(high))


def scored(attack: str, guesses: list[Guess], truth: dict[int, np.ndarray], of: str) -> Outcome:
    """Precision, recall, F1 and AUC of an attack.

    Args:
        attack: its name.
        guesses: one a client.
        truth: int[m] items by client; those outside of a guess's candidates count as missed. Of a
            client of whom nothing is true there is no recall.
        of: what is true, for the record: `positives` or `touched`.

    Returns:
        An `Outcome`.

    Example:
        >>> from fedjax_rec import leaks
        >>> said = leaks.Guess(0, np.arange(3), np.arange(3.0), np.array([False, True, True]))
        >>> leaks.scored("mine", [said], {0: np.array([2])}, "positives").by["precision"].mean
        0.5
    """
    found: dict[str, list[float]] = {m: [] for m in ("precision", "recall", "f1", "auc")}
    random, everything = [], []
    for guess in guesses:
        true = truth[guess.client]
        hit = np.isin(guess.candidates, true)
        n, m, said = len(guess.candidates), len(true), int(guess.said.sum())
        right = int((hit & guess.said).sum())
        found["precision"].append(right / said if said else float("nan"))
        found["recall"].append(right / m if m else float("nan"))
        found["f1"].append(2 * right / (said + m) if said + m else float("nan"))
        found["auc"].append(auc(guess.score, hit))
        random.append(2 * (said * hit.sum() / max(n, 1)) / max(said + m, 1))
        everything.append(2 * hit.sum() / max(n + m, 1))
    by = {metric: interval(values) for metric, values in found.items()}
    mean = lambda x: float(np.mean(x)) if x else float("nan")
    return Outcome(attack, of, by, mean(random), mean(everything), len(guesses))
