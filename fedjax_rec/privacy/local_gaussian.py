"""The Gaussian mechanism at each client, with the least noise that there is for it.

    y = clip(x) + N(0, sigma^2 I),  |clip(x)| <= C,  two uploads at most 2 C apart
    delta >= Phi(Delta / 2 sigma - epsilon sigma / Delta)
             - e^epsilon Phi(-Delta / 2 sigma - epsilon sigma / Delta),     Delta = 2 C

(Balle & Wang, "Improving the Gaussian mechanism for differential privacy: analytical calibration
and optimal denoising", ICML 2018, theorem 8.) Necessary and sufficient, also for epsilon > 1, where
the classical sigma = Delta sqrt(2 ln(1.25 / delta)) / epsilon does not hold.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .. import rows
from ..check import below, positive
from ..types import Stage
from .noisy import every_number


def local_gaussian(clip: float, epsilon: float, delta: float) -> Stage:
    """A whole upload clipped and noised at its client, whom nobody has to trust.

    Guarantee: (epsilon, delta)-local differential privacy **of a whole upload**, of one round: two
    clients that send clipped updates, whatever they hold, are hardly told apart. T rounds of the
    same client are one of sqrt(T) times the sensitivity: `gaussian_sigma(epsilon, delta,
    2 clip sqrt(T))` is then the noise. What that costs: sigma is the same for each of D
    coordinates, so the noise is sqrt(D) sigma long where the update is at most `clip`.

    Args:
        clip: C, the largest norm of an update, dense leaves and rows together. Positive; may be
            traced.
        epsilon: of a whole upload. Positive.
        delta: in (0, 1).

    Returns:
        A `Stage`, for `stages=[...]`, whose uploads are dense.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> stage = privacy.local_gaussian(clip=1.0, epsilon=8.0, delta=1e-5)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), stages=[stage])
    """
    positive("local_gaussian", "clip", clip)
    sigma = gaussian_sigma(epsilon, delta) * 2 * clip

    def cut(update):
        factor = jnp.minimum(1.0, clip / jnp.maximum(jnp.sqrt(rows.squared_norm(update)), 1e-30))
        return jax.tree.map(lambda x: x * (factor * (1 - 1e-6)), update)

    return every_number(cut, lambda key, x: x + sigma * jax.random.normal(key, x.shape))


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """The least standard deviation with which the Gaussian mechanism is (epsilon, delta)-DP.

    By bisection of delta, to 12 digits.

    Args:
        epsilon: positive.
        delta: in (0, 1).
        sensitivity: the largest L2 distance of what is to be hidden. Positive.

    Returns:
        sigma.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> round(privacy.gaussian_sigma(1.0, 1e-5), 4)
        3.7306
    """
    positive("gaussian_sigma", "epsilon", epsilon)
    positive("gaussian_sigma", "delta", delta)
    below("gaussian_sigma", "delta", delta, 1)
    positive("gaussian_sigma", "sensitivity", sensitivity)
    low, high = 1e-6, 1.0
    while gaussian_delta(epsilon, high) > delta:
        low, high = high, 2 * high
    while high > low * (1 + 1e-12):
        middle = math.sqrt(low * high)
        if middle in (low, high):
            break
        low, high = (middle, high) if gaussian_delta(epsilon, middle) > delta else (low, middle)
    return high * sensitivity


def gaussian_delta(epsilon: float, sigma: float) -> float:
    """The delta of the Gaussian mechanism of sensitivity 1, exactly (theorem 8 of the paper).

    Args:
        epsilon: at least 0.
        sigma: standard deviation over sensitivity. Positive.

    Returns:
        delta.

    Raises:
        ValueError: for a sigma that is not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> round(privacy.gaussian_delta(0.0, 1.0), 4)  # total variation: 2 Phi(1/2) - 1
        0.3829
    """
    positive("gaussian_delta", "sigma", sigma)
    a, b = 0.5 / sigma, epsilon * sigma
    return max(0.0, above(b - a) - math.exp(epsilon + _log_tail(-a - b)))


def above(x: float) -> float:
    """1 - Phi(x), the chance that a normal number is above x."""
    return 0.5 * math.erfc(x / math.sqrt(2))


def _log_tail(x: float) -> float:
    """log Phi(x), also where Phi(x) is no float any more."""
    value = above(-x)
    if value > 1e-300:
        return math.log(value)
    # Mills' ratio, to a relative error of x^-4.
    return -0.5 * x * x - math.log(-x * math.sqrt(2 * math.pi)) + math.log1p(-1 / (x * x))
