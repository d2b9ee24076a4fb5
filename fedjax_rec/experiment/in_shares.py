"""What a run guarantees whose clients add the noise themselves, under secure aggregation.

    strategy.aggregator: secure_aggregation(noise: skellam(...) or discrete_gaussian(...))
    privacy: {delta: 1.0e-5}        # may be left out, and then delta is N^-1.1

The aggregator says how much noise there is, so that nothing is worked out here but epsilon, of
what is sent and of the rounds that a client may be in (`privacy.epsilon_of_shares`). What would
make that false is refused before anything runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from .. import privacy
from ..rounds.sealed import numbers_under_seal
from ..types import Compressor, Seal, Strategy
from .factories import ConfigError
from .private import OUTSIDE, PROTECTED, Privacy, refuse_more_told, refuse_out_of_range
from .private import check as check_central

NEIGHBOURS = "with and without those of one client, who is among the others all the same,"
WHERE = "noise in shares"


@dataclass(frozen=True)
class InShares:
    """seal: of the aggregator, with noise. uplink: what makes of an update what is sent."""

    seal: Seal
    uplink: Compressor | None

    @property
    def noise(self) -> privacy.Shares:
        assert self.seal.noise is not None
        return self.seal.noise[0]

    @property
    def step(self) -> float:
        assert self.seal.noise is not None
        return self.seal.noise[1]


@dataclass(frozen=True)
class Guarantee:
    """What rounds of a run guarantee. step: of the fixed point; numbers: of an upload; sampling:
    None where a client may be in every round."""

    noise: privacy.Shares
    step: float
    numbers: int
    delta: float
    rounds: int
    sampling: privacy.Sampling | None

    def after(self, rounds: int) -> float | None:
        """epsilon of so many rounds; None for none."""
        told = _epsilon(self.noise, self.step, self.numbers, rounds, self.delta, self.sampling)
        return told if math.isfinite(told) else None

    def summary(self, rounds: int) -> dict[str, Any]:
        """For `summary.json`."""
        return {
            "epsilon": self.after(rounds),
            "delta": self.delta,
            "rounds": rounds,
            "noise_multiplier": self.noise.noise_multiplier,
            "shares": self.noise.there,
            "clip": self.noise.clip,
            "step": self.step,
            "numbers": self.numbers,
            "rounds_apart": None if self.sampling is None else self.sampling.apart,
            "neighbours": f"data {NEIGHBOURS.rstrip(',')}",
            "protected": PROTECTED,
            "not_protected": OUTSIDE,
        }

    def line(self) -> str:
        """For people, before the run."""
        epsilon = self.after(self.rounds)
        if epsilon is None:
            return "privacy: no guarantee; updates are clipped, and there is no noise in shares"
        return (
            f"privacy: ({epsilon:.3g}, {self.delta:.2g})-differential privacy of {PROTECTED}, data "
            f"{NEIGHBOURS} being neighbours, after {self.rounds} rounds with a noise multiplier of "
            f"{self.noise.noise_multiplier:.4g} in shares, of any {self.noise.there} clients that "
            f"stay and keep theirs to themselves; not of {OUTSIDE}"
        )


def checked(
    plain: dict[str, Any], made: Privacy | None, arguments: Mapping[str, Any]
) -> InShares | None:
    """`found_in`. Raises ConfigError where what a configuration promises is not so, whoever adds
    the noise."""
    found = found_in(arguments)
    if found is None:
        check_central(plain, made)
    else:
        check(plain, made, found)
    return found


def found_in(arguments: Mapping[str, Any]) -> InShares | None:
    """The noise in shares of a strategy of these arguments; None where there is none."""
    seal = getattr(arguments.get("aggregator"), "seal", None)
    if seal is None or seal.noise is None:
        return None
    return InShares(seal, arguments.get("uplink"))


def check(plain: dict[str, Any], made: Privacy | None, found: InShares) -> None:
    """Raises ConfigError for a section `privacy` that says what the aggregator says, and for what
    nobody accounts for."""
    if made is not None:
        refuse_out_of_range(made)
        for name in ("clip", "noise_multiplier", "correlated"):
            if getattr(made, name) is not None:
                raise ConfigError(
                    f"privacy.{name} beside {WHERE}: clients clip and add noise as "
                    f"strategy.aggregator.noise says; leave privacy.{name} out."
                )
    refuse_more_told(plain, WHERE)
    if found.seal.narrow is not None:
        raise ConfigError(
            f"{WHERE} under private_set_union: how many clients touched each row is told without "
            "noise, which nobody accounts for; use strategy.aggregator: secure_aggregation alone."
        )
    cohorts = plain["cohorts"]
    while cohorts:
        path = cohorts["class_path"]
        if not path.startswith("fedjax_rec.simulate."):
            raise ConfigError(
                f"{WHERE}: cohorts={path} may draw by what clients hold, or a client twice, which "
                "nobody accounts for; use those of fedjax_rec.simulate, such as uniform."
            )
        cohorts = (cohorts.get("init_args") or {}).get("cohorts")


def guarantee(config: Any, strategy: Strategy, num_clients: int) -> Guarantee:
    """What the run of a configuration with noise in shares guarantees.

    Raises ConfigError where that is less than the section's epsilon asks for.
    """
    found, wanted = config.in_shares, config.privacy or Privacy()
    key = jax.random.key(0)
    shared = jax.eval_shape(lambda: strategy.init(key, num_clients)).shared
    numbers = numbers_under_seal(found.uplink, shared)
    delta = num_clients**-1.1 if wanted.delta is None else wanted.delta
    of = config.cohorts.sampling
    sampling = None if of is None else of(num_clients)
    told = Guarantee(found.noise, found.step, numbers, delta, config.rounds, sampling)
    if wanted.epsilon is not None and not (told.after(config.rounds) or math.inf) <= wanted.epsilon:
        epsilon = told.after(config.rounds)
        reached = "none" if epsilon is None else f"{epsilon:.3g}"
        raise ConfigError(
            f"privacy.epsilon={wanted.epsilon} and {WHERE} of which the epsilon is {reached} after "
            f"{config.rounds} rounds; use a larger strategy.aggregator.noise.noise_multiplier than "
            f"{found.noise.noise_multiplier:g}, fewer rounds, or a larger epsilon."
        )
    return told


@functools.lru_cache(maxsize=4096)
def _epsilon(noise, step, numbers, rounds, delta, sampling) -> float:
    return privacy.epsilon_of_shares(noise, step, numbers, rounds, delta, sampling)
