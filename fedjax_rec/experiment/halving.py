"""Successive halving: many settings are trained for few rounds, and the best of them for more.

    n settings, `shortest` rounds -> the best n / eta, eta x shortest -> the best n / eta^2, ...

(Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
AISTATS 2016.) A rung is a number of rounds at which runs stop and are compared; who goes on does so
from its checkpoint. The last rung is all rounds of the configuration, and what a run says up to a
rung is what it says of these rounds when it is trained in one go.

Hyperband plays such brackets one after another, from many settings that begin with few rounds to
few that are trained in full (Li et al., "Hyperband: a novel bandit-based approach to hyperparameter
optimization", JMLR 18, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .factories import ConfigError


@dataclass(frozen=True)
class Bracket:
    """Settings that are compared with each other.

    settings: how many begin. rungs: rounds after which they stop, ascending; the last are all.
    eta: one of so many goes on from a rung.
    """

    settings: int
    rungs: tuple[int, ...]
    eta: int = 1

    @property
    def plays(self) -> int:
        """Settings that are trained at each rung, summed: at the most."""
        found, n = self.settings, self.settings
        for _ in self.rungs[1:]:
            n = how_many(n, self.eta)
            found += n
        return found


def rungs(shortest: int, eta: int, rounds: int, every: int = 1) -> tuple[int, ...]:
    """The rungs of a run.

    Args:
        shortest: Rounds up to the first.
        eta: Each has so many times the rounds of the one before.
        rounds: Of the whole run, the last rung.
        every: Rounds between measurements; a rung is at one of them, the next where it falls
            between two.

    Returns:
        Rounds of each, ascending.

    Raises:
        ConfigError: There is none below `rounds`.

    Example:
        >>> rungs(4, 3, 100), rungs(4, 3, 100, every=5)
        ((4, 12, 36, 100), (5, 15, 40, 100))
    """
    found, at = [], shortest
    while (measured := -(-at // every) * every) < rounds:
        found.append(measured)
        at *= eta
    if not found:
        raise ConfigError(
            f"search: shortest={shortest} with evaluation.every={every} leaves no rung below "
            f"rounds={rounds}; use a smaller one, or more rounds."
        )
    return (*dict.fromkeys(found), rounds)


def how_many(settings: int, eta: int) -> int:
    """Of so many settings at a rung, how many go on: one at least."""
    return max(1, settings // eta)


def who_goes_on(values: Sequence[float | None], eta: int, lowest: bool = False) -> list[int]:
    """The places of those that go on from a rung, ascending.

    Args:
        values: What each came to; None of one that diverged or failed, which never goes on.
        eta: One of so many goes on.
        lowest: Whether the lowest is the best, as of an error. Of equals the first is.

    Returns:
        Places in `values`; none where all are None.

    Example:
        >>> who_goes_on([0.1, 0.3, None, 0.2, 0.3, 0.0], 3)
        [1, 4]
    """
    known = [i for i, value in enumerate(values) if value is not None]
    sign = 1.0 if lowest else -1.0
    best = sorted(known, key=lambda i: sign * (values[i] or 0.0))
    return sorted(best[: how_many(len(values), eta)])


def of_hyperband(shortest: int, eta: int, rounds: int, every: int = 1) -> list[Bracket]:
    """The brackets of Hyperband, that of the most settings first; arguments are those of `rungs`.

    Bracket s has rungs from the (S - s)-th and ceil((S + 1) / (s + 1) eta^s) settings, of S + 1
    rungs in all.

    Example:
        >>> [(b.settings, b.rungs) for b in of_hyperband(1, 3, 9)]
        [(9, (1, 3, 9)), (5, (3, 9)), (3, (9,))]
    """
    every_rung = rungs(shortest, eta, rounds, every)
    most = len(every_rung) - 1
    sizes = (math.ceil((most + 1) / (s + 1) * eta**s) for s in range(most, -1, -1))
    return [Bracket(n, every_rung[i:], eta) for i, n in enumerate(sizes)]
