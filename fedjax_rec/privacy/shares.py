"""Noise of which each client adds its share, so that nobody has to be trusted with a sum.

    y_k = R(u_k) + N_k  (mod 2^b),   sum_k y_k = sum_k R(u_k) + noise of deviation at least z c

R clips to norm c, rounds u / s up or down at random, unbiased, and again until

    |R(u)|^2 <= D_2^2 = min( (c' + sqrt d)^2,  c'^2 + d/4 + c' + sqrt(d) / 2 ),      c' = c / s

(conditional rounding with beta = e^(-1/2): Kairouz, Liu & Steinke, "The distributed discrete
Gaussian mechanism for federated learning with secure aggregation", ICML 2021). So the sensitivity
is known, and more than c by what rounding d numbers may add. N_k are integers of variance
(z c')^2 / m: of any m clients that are there the noise is enough, and who comes beside them adds
to it. What the sum of m shares guarantees says `renyi`, as the papers of `skellam` and
`discrete_gaussian` have it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..check import at_least, positive, static
from ..made import part
from .accountant import check_delta, library
from .fixed_point import Grid, grid_of
from .integer_law import IntegerLaw, law_of
from .sampling import Sampling

LARGEST = 2**12  # the deviation of a share, in steps, for which a table is made
ORDERS = tuple(range(2, 257)) + tuple(2**k for k in range(9, 15))
STRAY = 1e-12  # how likely a coordinate of the noise is beyond what the modulus has room for
TRIES = 60  # each of which is taken with probability 1 - e^(-1/2) at least
# Norms are taken in float32, in blocks.
CAREFUL = 1 - 1e-4


@part
class Shares:
    """What clients add. clip: c. noise_multiplier: z, the noise's deviation over c where `there`
    clients, m, are there. masses(deviation, reach) -> float64[2 reach + 1], of the integers from
    -reach, up to a factor. renyi(order, Sensitivity, deviation, m) -> the divergence of that order
    of a sum of m shares."""

    clip: float
    noise_multiplier: float
    there: int
    masses: Callable[[float, int], np.ndarray]
    renyi: Callable[..., float]

    def deviation(self, step: float) -> float:
        """Of a share, in steps."""
        return self.noise_multiplier * self.clip / (step * math.sqrt(self.there))

    def law(self, step: float) -> IntegerLaw:
        return _law(self.masses, self.deviation(step))


@dataclass(frozen=True)
class Sensitivity:
    """How far one client moves a sum, in steps. numbers: d. l1, l2: norms."""

    numbers: int
    l1: float
    l2: float


def shares_of(where: str, clip, noise_multiplier, there, masses, renyi) -> Shares:
    """`Shares`, checked. Raises ValueError for numbers out of range, and for traced ones."""
    for name, value in (
        ("clip", clip), ("noise_multiplier", noise_multiplier), ("there", there)
    ):  # fmt: skip
        static(where, name, value)
    positive(where, "clip", clip)
    at_least(where, "noise_multiplier", noise_multiplier, 0)
    at_least(where, "there", there, 1)
    return Shares(float(clip), float(noise_multiplier), int(there), masses, renyi)


def grid_with(
    where: str, bound, clients: int, bits: int, step: float | None, noise: Shares
) -> tuple[Grid, int]:
    """(grid, room): the finest on which sums of `clients` and of their noise fit, and what is left
    for that noise, in steps. Raises ValueError as `grid_of`, for a share of noise beyond tables,
    and for more shares than clients."""
    static(where, "bound", bound)
    positive(where, "bound", bound)
    if noise.there > clients:
        raise ValueError(
            f"{where}(clients={clients}) of noise in {noise.there} shares, which never come "
            f"together; use there <= {clients}."
        )

    def room(levels: int) -> int:
        variance = clients * noise.deviation(bound / levels) ** 2
        a = math.log(2 / STRAY)
        return math.ceil(a / 3 + math.sqrt(a * a / 9 + 2 * a * variance)) if variance else 0

    finest = int(LARGEST / max(noise.deviation(bound), 1e-30))
    grid = grid_of(where, bound, clients, bits, step, room, max(1, finest))
    if noise.deviation(grid.step) > 2 * LARGEST:
        raise ValueError(
            f"{where}(step={grid.step:.3g}): a share of noise is {noise.deviation(grid.step):.3g} "
            f"steps, and tables are for {LARGEST}; use step >= "
            f"{noise.deviation(1.0) / LARGEST:.3g}."
        )
    return grid, room(grid.levels)


def sensitivity_of_rounded(clip: float, step: float, numbers: int) -> Sensitivity:
    """D_2, and what it says of the L1 norm of integers: min(sqrt(d) D_2, D_2^2)."""
    c, d = clip / step, float(numbers)
    l2 = min(c + math.sqrt(d), math.sqrt(c * c + d / 4 + c + math.sqrt(d) / 2))
    return Sensitivity(numbers, l2 * min(math.sqrt(d), l2), l2)


def with_noise(noise: Shares, grid: Grid, key, x: jax.Array) -> tuple[jax.Array, jax.Array, dict]:
    """(uint32[d] modulo 2^b, bool[d] where |x| is beyond the bound, metrics) of float32[d]."""
    round_key, noise_key = jax.random.split(key)
    length = jnp.sqrt(_square(x))
    x = x * jnp.minimum(1, CAREFUL * noise.clip / jnp.maximum(length, 1e-30))
    most = CAREFUL * sensitivity_of_rounded(noise.clip, grid.step, x.size).l2 ** 2
    low = jnp.trunc(jnp.clip(x / grid.bound, -1, 1) * grid.levels).astype(jnp.int32)

    def again(held):
        tries, _ = held
        drawn = grid.rounded(jax.random.fold_in(round_key, tries), x)[0]
        return tries + 1, grid.signed(drawn)

    def longer(held):
        tries, q = held
        return (_square(q.astype(jnp.float32)) > most) & (tries < TRIES)

    _, q = jax.lax.while_loop(longer, again, again((0, low)))
    q = jnp.where(_square(q.astype(jnp.float32)) > most, low, q)
    q = q + noise.law(grid.step).draw(noise_key, x.shape)
    beyond = jnp.abs(x) > grid.bound
    told = {"shortened": (length > noise.clip).astype(jnp.float32)}
    return jax.lax.bitcast_convert_type(q, jnp.uint32) & grid.last, beyond, told


def epsilon_of_shares(
    noise: Shares,
    step: float,
    numbers: int,
    rounds: int,
    delta: float,
    sampling: Sampling | None = None,
) -> float:
    """epsilon, so that sums of `rounds` rounds are (epsilon, delta)-differentially private.

    By Renyi divergences. Neighbours are data with and without those of one client, who is among
    the others all the same; its rounds are counted as if it was in every one, or as often as
    cohorts that come in order let it. Nothing is won by chance.

    Guarantee: against a server that keeps to the protocol and opens no sum of fewer than
    `noise.there` clients. Clients that tell it their shares do not count among these.

    Args:
        noise: of `skellam` or `discrete_gaussian`.
        step: s of the fixed point, see `fixed_point_step`.
        numbers: d, of an upload as it is sent.
        rounds: T.
        delta: in (0, 1).
        sampling: such as `in_order(40, 6040)`; None for clients that may be in every round.

    Returns:
        epsilon; inf without noise.

    Raises:
        ValueError: for values out of range.
        ModuleNotFoundError: where dp_accounting is not installed.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.skellam(clip=1.0, noise_multiplier=4.0, there=48)
        >>> round(privacy.epsilon_of_shares(noise, 2**-10, 26912, rounds=10, delta=1e-5), 2)
        3.64
    """
    positive("epsilon_of_shares", "step", step)
    at_least("epsilon_of_shares", "numbers", numbers, 1)
    at_least("epsilon_of_shares", "rounds", rounds, 0)
    check_delta("epsilon_of_shares", delta)
    if rounds == 0:
        return 0.0
    if noise.noise_multiplier == 0:
        return math.inf
    apart = None if sampling is None else sampling.apart
    times = rounds if apart is None else -(-rounds // apart)
    sensitivity = sensitivity_of_rounded(noise.clip, step, numbers)
    deviation = noise.deviation(step)
    told = [times * noise.renyi(a, sensitivity, deviation, noise.there) for a in ORDERS]
    return float(library("rdp").compute_epsilon(ORDERS, told, delta)[0])


def fixed_point_step(
    bound: float, clients: int, bits: int, noise: Shares, step: float | None = None
) -> float:
    """The step that `secure_aggregation` of these arguments rounds to.

    Args:
        bound: as there.
        clients: as there.
        bits: as there.
        noise: as there.
        step: as there; a bound has a whole number of steps.

    Raises:
        ValueError: as there.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.skellam(clip=1.0, noise_multiplier=1.0, there=48)
        >>> round(1 / privacy.fixed_point_step(1.0, clients=64, bits=20, noise=noise))
        3606
    """
    return float(grid_with("fixed_point_step", bound, clients, bits, step, noise)[0].step)


def _square(x: jax.Array) -> jax.Array:
    """float32[]: the square of the norm, in blocks, so that rounding stays below 1e-4."""
    flat = jnp.pad(x.reshape(-1), (0, -x.size % 256)).reshape(-1, 256)
    return (flat**2).sum(1).sum()


@functools.lru_cache(maxsize=32)
def _law(masses: Callable[[float, int], np.ndarray], deviation: float) -> IntegerLaw:
    reach = 0 if deviation == 0 else math.ceil(10 * deviation + 24)
    return law_of(np.ones(1) if not reach else masses(deviation, reach))
