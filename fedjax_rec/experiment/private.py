"""The section `privacy` of a configuration: what a run guarantees, and the mechanism that does it.

    privacy: {clip: {class_path: fedjax_rec.privacy.whole, init_args: {bound: 0.5}}, epsilon: 8}

Either `epsilon`, from which the noise is found that `rounds` rounds need, or `noise_multiplier`.
`correlated` makes noise of several rounds take each other back, where clients come in turns.
What would make the accounting false is refused before anything runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .. import privacy
from ..types import Aggregator
from .factories import ConfigError

KEY = "privacy"
# Recipes in which clients send one update, once a round, to one sum, and the server nothing else.
COVERED = {
    f"fedjax_rec.strategies.{name}"
    for name in (
        "fedavg", "fedmf", "fedncf", "fedper", "fedprox", "fedsgd", "fine_tuned_fedavg", "pfedrec",
    )
}  # fmt: skip
PROTECTED = "all that one client trains on"
OUTSIDE = "losses and metrics of the records: they look at clients' data without noise"


@dataclass(frozen=True)
class Privacy:
    """What a configuration says. clip: a `privacy.Clip`. Of epsilon and noise_multiplier one is
    given. delta: None for N^-1.1. correlated: a `privacy.Correlation`; None for noise of each round
    by itself."""

    clip: privacy.Clip | None = None
    epsilon: float | None = None
    delta: float | None = None
    noise_multiplier: float | None = None
    correlated: privacy.Correlation | None = None


@dataclass(frozen=True)
class Guarantee:
    """What rounds of a run guarantee. noise_multiplier: z. correlated: over these rounds, or None
    for independent noise."""

    noise_multiplier: Any
    sampling: privacy.Sampling
    delta: float
    rounds: int
    correlated: privacy.Factorization | None = None

    def after(self, rounds: int) -> float | None:
        """epsilon of so many rounds; None for none."""
        told = privacy.epsilon_of(
            self.noise_multiplier, rounds, self.sampling, self.delta, correlated=self.correlated
        )
        return told if math.isfinite(told) else None

    def summary(self, rounds: int) -> dict[str, Any]:
        """For `summary.json`."""
        return {
            "epsilon": self.after(rounds),
            "delta": self.delta,
            "rounds": rounds,
            "noise_multiplier": float(self.noise_multiplier),
            "neighbours": self.sampling.adjacency,
            "rate": self.sampling.rate,
            **self._order(),
            "protected": PROTECTED,
            "not_protected": OUTSIDE,
        }

    def _order(self) -> dict[str, Any]:
        if self.sampling.separation is None and self.correlated is None:
            return {}
        told: dict[str, Any] = {"rounds_apart": self.sampling.apart}
        if self.correlated is not None:
            told["sensitivity"] = self.correlated.sensitivity(self.rounds)
        return told

    def line(self) -> str:
        """For people, before the run."""
        epsilon = self.after(self.rounds)
        if epsilon is None:
            return "privacy: no guarantee; updates are clipped, and the noise is none or too little"
        return (
            f"privacy: ({epsilon:.3g}, {self.delta:.2g})-differential privacy of {PROTECTED}, data "
            f"{self.sampling.adjacency} being neighbours, after {self.rounds} rounds with a noise "
            f"multiplier of {float(self.noise_multiplier):.4g}; not of {OUTSIDE}"
        )


def check(plain: dict[str, Any], made: Privacy | None) -> None:
    """Raises ConfigError for a section that is not complete, and for what it cannot cover."""
    if made is None:
        return
    refuse_out_of_range(made)
    if made.clip is None:
        raise ConfigError(
            "privacy.clip is missing: what is not clipped has no guarantee; use privacy.clip: "
            "{class_path: fedjax_rec.privacy.whole, init_args: {bound: 0.5}}."
        )
    if (made.epsilon is None) == (made.noise_multiplier is None):
        raise ConfigError(
            f"privacy.epsilon={made.epsilon} and privacy.noise_multiplier={made.noise_multiplier}: "
            "one follows from the other; give one of them."
        )
    refuse_more_told(plain, KEY)
    given = plain["strategy"].get("init_args") or {}
    if given.get("aggregator") is not None:
        raise ConfigError(
            "privacy with strategy.aggregator: the mechanism sums updates itself; leave "
            "strategy.aggregator out."
        )


def refuse_out_of_range(made: Privacy) -> None:
    """Raises ConfigError for numbers that are no promise and no noise."""
    epsilon, noise = made.epsilon, made.noise_multiplier
    if epsilon is not None and not 0 < epsilon < math.inf:
        raise ConfigError(f"privacy.epsilon={epsilon} is out of range; use epsilon > 0.")
    if noise is not None and not 0 <= noise < math.inf:
        raise ConfigError(
            f"privacy.noise_multiplier={noise} is out of range; use noise_multiplier >= 0."
        )
    if made.delta is not None and not 0 < made.delta < 1:
        raise ConfigError(f"privacy.delta={made.delta} is out of range; use 0 < delta < 1.")


def refuse_more_told(plain: dict[str, Any], where: str) -> None:
    """Raises ConfigError where a run tells more of clients than sums of one update a round. where:
    what promises something, for the message."""
    path = plain["strategy"]["class_path"]
    if path not in COVERED:
        names = ", ".join(sorted(name.rpartition(".")[2] for name in COVERED))
        raise ConfigError(
            f"{where}: strategy={path} may tell more of a client than one clipped update a round, "
            f"which nobody accounts for; use one of {names}."
        )
    given = plain["strategy"].get("init_args") or {}
    for name in ("clock", "deadline"):
        if given.get(name) is not None:
            raise ConfigError(
                f"{where} with strategy.{name}: who is late hangs on what it holds; leave "
                f"strategy.{name} out."
            )
    if plain["evaluation"]["of"] == "personal":
        raise ConfigError(
            f"{where} with evaluation.of=personal: a probe tells of each client's own model, "
            "without noise; use of: aggregated."
        )
    if plain.get("start_from") is not None:
        raise ConfigError(
            f"{where} with start_from={plain['start_from']}: that run may have seen these clients, "
            "which nobody accounts for; leave start_from out."
        )


def guarantee(config: Any, num_clients: int) -> Guarantee | None:
    """What the run of a configuration guarantees; None where it says nothing of privacy, or
    clients add the noise (`in_shares`).

    Raises ConfigError where no accountant knows its cohorts.
    """
    wanted = config.privacy
    if wanted is None or config.in_shares is not None:
        return None
    if config.cohorts.sampling is None:
        raise ConfigError(
            f"privacy: cohorts={config.plain['cohorts']['class_path']} are not drawn as an "
            "accountant assumes; use fedjax_rec.simulate.poisson, uniform, in_turns or full."
        )
    sampling = config.cohorts.sampling(num_clients)
    delta = num_clients**-1.1 if wanted.delta is None else wanted.delta
    correlated, z = None, wanted.noise_multiplier
    try:
        if wanted.correlated is not None:
            correlated = wanted.correlated.over(config.rounds, sampling)
    except ValueError as error:
        raise ConfigError(f"privacy.correlated: {error}") from error
    if z is None:
        z = privacy.noise_for(wanted.epsilon, delta, config.rounds, sampling, correlated)
    return Guarantee(z, sampling, delta, config.rounds, correlated)


def mechanism(config: Any, num_clients: int) -> Aggregator | None:
    """The aggregator of a private run, of the clients that are expected in a round; or None."""
    told = guarantee(config, num_clients)
    if told is None:
        return None
    expected, clip = told.sampling.expected, config.privacy.clip
    return privacy.gaussian_mean(clip, told.noise_multiplier, expected, told.correlated)
