"""What rounds of the Gaussian mechanism guarantee, by the accountants of `dp_accounting`.

Clients of rounds are drawn as a `sampling` says: those that come by chance are accounted for by
privacy loss distributions (`poisson_sampled`) or Renyi divergences (`fixed_size`, looser).

`epsilon_of` says what T rounds of noise multiplier z guarantee, and `noise_for` which z is needed.
Where they come in order, all rounds together are one Gaussian mechanism of noise multiplier
z / sens(C), where C is the identity for independent noise and else what correlates it
(`factorization`; Denisov et al., "Improved differential privacy for SGD via optimal private linear
operators on adaptive streams", NeurIPS 2022).
A Poisson cohort that is cut off at its places is accounted for as such (Ganesh et al., 2025). A
round that nobody is in moves nothing, without noise; its probability is taken from delta.
"""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

from ..check import at_least, below, positive
from .factorization import Factorization
from .sampling import Sampling, poisson_sampled

COARSE, FINE = 1e-3, 1e-4  # steps of the privacy loss, while looking for z and in what is told
MOST = 1e4  # the largest noise multiplier that is looked for


def epsilon_of(
    noise_multiplier: float,
    rounds: int,
    sampling: Sampling,
    delta: float,
    step: float = FINE,
    correlated: Factorization | None = None,
) -> float:
    """epsilon, so that `rounds` rounds are (epsilon, delta)-differentially private.

    Args:
        noise_multiplier: z, the noise's standard deviation over the sensitivity.
        rounds: T, all of which are told.
        sampling: how clients are drawn.
        delta: in (0, 1).
        step: of the privacy loss, which is rounded up to it.
        correlated: how the noise of rounds is correlated; None for independent noise.

    Returns:
        epsilon; inf for z = 0, or where rounds that are not as sampled take all of delta.

    Raises:
        ValueError: for values out of range, and for noise that was correlated for other cohorts or
            fewer rounds.
        ModuleNotFoundError: where dp_accounting is not installed.

    Example:
        >>> from fedjax_rec import privacy
        >>> everybody = privacy.poisson_sampled(rate=1.0, clients=1000)
        >>> round(privacy.epsilon_of(10.0, 200, everybody, delta=1e-5), 2)
        6.57
    """
    at_least("epsilon_of", "noise_multiplier", noise_multiplier, 0)
    at_least("epsilon_of", "rounds", rounds, 0)
    check_delta("epsilon_of", delta)
    if rounds == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    if correlated is not None or sampling.separation is not None:
        alone = noise_multiplier / _sensitivity(rounds, sampling, correlated)
        return epsilon_of(alone, 1, poisson_sampled(1.0, sampling.clients), delta, step)
    if sampling.rate is None:
        return _renyi(noise_multiplier, rounds, sampling, delta)
    lost = _one_round(float(noise_multiplier), sampling, step).self_compose(rounds)
    epsilon = float(lost.get_epsilon_for_delta(delta))
    # What is another mechanism with probability p is (epsilon, delta + (1 + e^epsilon) p)-DP.
    for _ in range(20):
        left = delta - rounds * sampling.slack * (1 + math.exp(min(epsilon, 700.0)))
        if left <= 0:
            return math.inf
        before, epsilon = epsilon, float(lost.get_epsilon_for_delta(left))
        if epsilon - before < 1e-6:
            break
    return epsilon


@functools.lru_cache(maxsize=256)
def noise_for(
    epsilon: float,
    delta: float,
    rounds: int,
    sampling: Sampling,
    correlated: Factorization | None = None,
) -> float:
    """The smallest noise multiplier, to 0.2%, with which `rounds` rounds are (epsilon, delta)-DP.

    Args:
        epsilon: positive.
        delta: in (0, 1).
        rounds: T, at least 1.
        sampling: how clients are drawn.
        correlated: as in `epsilon_of`.

    Returns:
        z, rounded up, of which `epsilon_of` says at most `epsilon`.

    Raises:
        ValueError: for values out of range, where no noise is enough, and as `epsilon_of`.
        ModuleNotFoundError: where dp_accounting is not installed.

    Example:
        >>> from fedjax_rec import privacy
        >>> everybody = privacy.poisson_sampled(rate=1.0, clients=1000)
        >>> 9.9 < privacy.noise_for(6.6, 1e-5, 200, everybody) < 10.0
        True
    """
    positive("noise_for", "epsilon", epsilon)
    check_delta("noise_for", delta)
    at_least("noise_for", "rounds", rounds, 1)
    if correlated is not None or sampling.separation is not None:
        alone = noise_for(epsilon, delta, 1, poisson_sampled(1.0, sampling.clients))
        return alone * _sensitivity(rounds, sampling, correlated)
    # Steps of the loss add up over rounds, so a small epsilon needs small ones. Cutting cohorts off
    # changes little and takes long to account for: it is looked at in the end.
    step = min(COARSE, epsilon / 100)
    plain = sampling if sampling.rate is None else replace(sampling, size=None)
    said = lambda z: epsilon_of(z, rounds, plain, delta, step)
    no_noise = (
        f"noise_for(epsilon={epsilon}, delta={delta}): no noise is enough over {rounds} rounds; "
        "use a larger epsilon or delta, or more places in a cohort."
    )
    low, high = 1e-2, 1.0
    while said(high) > epsilon:
        low, high = high, 2 * high
        if high > MOST:
            raise ValueError(no_noise)
    while high > 1.001 * low:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if said(middle) > epsilon else (low, middle)
    while epsilon_of(high, rounds, sampling, delta) > epsilon:
        high *= 1.001
        if high > MOST:
            raise ValueError(no_noise)
    return high


@functools.lru_cache(maxsize=64)
def _one_round(noise_multiplier: float, sampling: Sampling, step: float) -> Any:
    """The privacy loss distribution of a round."""
    pld = library("pld.privacy_loss_distribution")
    how = {"value_discretization_interval": step, "use_connect_dots": True}
    if sampling.size is None:
        of = pld.from_gaussian_mechanism
        return of(noise_multiplier, sampling_prob=sampling.rate, **how)
    return pld.from_truncated_subsampled_gaussian_mechanism(
        sampling.clients, sampling.rate, sampling.size, noise_multiplier, **how
    )


def _sensitivity(rounds: int, sampling: Sampling, correlated: Factorization | None) -> float:
    """sens(C) of so many rounds. Raises ValueError where `correlated` was made for others."""
    if correlated is None:
        return math.sqrt(-(-rounds // (sampling.apart or 1)))
    if correlated.sampling != sampling:
        raise ValueError(
            f"epsilon_of(correlated=...) is for clients {correlated.sampling}, and these are "
            f"{sampling}; make it over(rounds, sampling) of these."
        )
    if rounds > correlated.rounds:
        raise ValueError(
            f"epsilon_of(rounds={rounds}): the noise is correlated over {correlated.rounds} "
            f"rounds; use rounds <= {correlated.rounds}."
        )
    return correlated.sensitivity(rounds)


def _renyi(noise_multiplier: float, rounds: int, sampling: Sampling, delta: float) -> float:
    dp, rdp = library(""), library("rdp")
    # The library's Gaussian is of sensitivity 1, and exchanging a client moves a sum by 2.
    gaussian = dp.GaussianDpEvent(noise_multiplier / 2)
    event = dp.SampledWithoutReplacementDpEvent(sampling.clients, sampling.size, gaussian)
    neighbours = dp.NeighboringRelation.REPLACE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=neighbours)
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))


def check_delta(where: str, delta: float) -> None:
    positive(where, "delta", delta)
    below(where, "delta", delta, 1)


def library(part: str) -> Any:
    import importlib
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"dp_accounting.{part}".rstrip("."))
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "accounting for privacy needs dp_accounting: pip install dp-accounting"
        ) from error
