"""What rounds of the Gaussian mechanism guarantee, by the accountants of `dp_accounting`.

- `poisson_sampled`  each client takes part in a round with probability q: neighbours are data with
                     and without one client; by privacy loss distributions (PLD)
- `fixed_size`       C of N clients, without replacement: neighbours have one client exchanged,
                     which moves a sum by 2 S; by Renyi divergences, looser

`epsilon_of` says what T rounds of noise multiplier z guarantee, and `noise_for` which z is needed.
A Poisson cohort that is cut off at its places is accounted for as such (Ganesh et al., 2025). A
round that nobody is in moves nothing, without noise; its probability is taken from delta.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

from ..check import at_least, below, fraction, positive

COARSE, FINE = 1e-3, 1e-4  # steps of the privacy loss, while looking for z and in what is told
MOST = 1e4  # the largest noise multiplier that is looked for


@dataclass(frozen=True)
class Sampling:
    """How the clients of a round are drawn.

    adjacency: what neighbours are, in words. clients: N. rate: q, where it is Poisson sampling, or
    None. size: places of a cohort, all of which are taken where there is no rate; None for N.
    slack: the probability that a round is not as the accountant assumes.
    """

    adjacency: str
    clients: int
    rate: float | None = None
    size: int | None = None
    slack: float = 0.0


def poisson_sampled(rate: float, clients: int, largest: int | None = None) -> Sampling:
    """Each client takes part in a round with probability `rate`, by itself.

    Args:
        rate: q, in (0, 1]; 1 where everybody takes part.
        clients: N.
        largest: places of a cohort, beyond which clients are left out by lot; None for N.

    Returns:
        A `Sampling` under which data with and without one client are neighbours.

    Raises:
        ValueError: for a rate outside (0, 1].

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.poisson_sampled(rate=0.1, clients=1000).adjacency
        'with and without one client'
    """
    positive("poisson_sampled", "rate", rate)
    fraction("poisson_sampled", "rate", rate)
    at_least("poisson_sampled", "clients", clients, 1)
    size = None if largest is None or largest >= clients else int(largest)
    nobody = (1 - rate) ** clients
    return Sampling("with and without one client", clients, float(rate), size, nobody)


def fixed_size(size: int, clients: int) -> Sampling:
    """`size` of `clients` clients, uniformly and without replacement.

    Args:
        size: C, below N.
        clients: N.

    Returns:
        A `Sampling` under which data with one client exchanged for another are neighbours.

    Raises:
        ValueError: for a size outside 1 to N - 1.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.fixed_size(100, 1000).adjacency
        'one client exchanged for another'
    """
    at_least("fixed_size", "size", size, 1)
    below("fixed_size", "size", size, clients)
    return Sampling("one client exchanged for another", clients, size=size)


def epsilon_of(
    noise_multiplier: float, rounds: int, sampling: Sampling, delta: float, step: float = FINE
) -> float:
    """epsilon, so that `rounds` rounds are (epsilon, delta)-differentially private.

    Args:
        noise_multiplier: z, the noise's standard deviation over the sensitivity.
        rounds: T, all of which are told.
        sampling: how clients are drawn.
        delta: in (0, 1).
        step: of the privacy loss, which is rounded up to it.

    Returns:
        epsilon; inf for z = 0, or where rounds that are not as sampled take all of delta.

    Raises:
        ValueError: for values out of range.
        ModuleNotFoundError: where dp_accounting is not installed.

    Example:
        >>> from fedjax_rec import privacy
        >>> everybody = privacy.poisson_sampled(rate=1.0, clients=1000)
        >>> round(privacy.epsilon_of(10.0, 200, everybody, delta=1e-5), 2)
        6.57
    """
    at_least("epsilon_of", "noise_multiplier", noise_multiplier, 0)
    at_least("epsilon_of", "rounds", rounds, 0)
    _delta("epsilon_of", delta)
    if rounds == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
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
def noise_for(epsilon: float, delta: float, rounds: int, sampling: Sampling) -> float:
    """The smallest noise multiplier, to 0.2%, with which `rounds` rounds are (epsilon, delta)-DP.

    Args:
        epsilon: positive.
        delta: in (0, 1).
        rounds: T, at least 1.
        sampling: how clients are drawn.

    Returns:
        z, rounded up, of which `epsilon_of` says at most `epsilon`.

    Raises:
        ValueError: for values out of range, and where no noise is enough.
        ModuleNotFoundError: where dp_accounting is not installed.

    Example:
        >>> from fedjax_rec import privacy
        >>> everybody = privacy.poisson_sampled(rate=1.0, clients=1000)
        >>> 9.9 < privacy.noise_for(6.6, 1e-5, 200, everybody) < 10.0
        True
    """
    positive("noise_for", "epsilon", epsilon)
    _delta("noise_for", delta)
    at_least("noise_for", "rounds", rounds, 1)
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
    pld = _library("pld.privacy_loss_distribution")
    how = {"value_discretization_interval": step, "use_connect_dots": True}
    if sampling.size is None:
        of = pld.from_gaussian_mechanism
        return of(noise_multiplier, sampling_prob=sampling.rate, **how)
    return pld.from_truncated_subsampled_gaussian_mechanism(
        sampling.clients, sampling.rate, sampling.size, noise_multiplier, **how
    )


def _renyi(noise_multiplier: float, rounds: int, sampling: Sampling, delta: float) -> float:
    dp, rdp = _library(""), _library("rdp")
    # The library's Gaussian is of sensitivity 1, and exchanging a client moves a sum by 2.
    gaussian = dp.GaussianDpEvent(noise_multiplier / 2)
    event = dp.SampledWithoutReplacementDpEvent(sampling.clients, sampling.size, gaussian)
    neighbours = dp.NeighboringRelation.REPLACE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=neighbours)
    accountant.compose(event, rounds)
    return float(accountant.get_epsilon(delta))


def _delta(where: str, delta: float) -> None:
    positive(where, "delta", delta)
    below(where, "delta", delta, 1)


def _library(part: str) -> Any:
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
