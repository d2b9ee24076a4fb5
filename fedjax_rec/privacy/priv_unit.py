"""A direction told with pure epsilon, by how likely it lies in a cap: PrivUnit, as Gaussians.

    v = x / |x|, or -v with probability (1 - |x| / C) / 2                        |x| <= C
    a ~ N(0, 1) given a >= t, with probability p, else given a < t
    y = C / mu (a v + g - (g . v) v),   g ~ N(0, I)

    p = e^eps (1 - Phi(t)) / (e^eps (1 - Phi(t)) + Phi(t))      so that densities differ by e^eps
    mu = E a = phi(t) (e^eps - 1) / (e^eps (1 - Phi(t)) + Phi(t))        t: where mu is largest
    E y = x,    E |y|^2 = (C / mu)^2 (D + t mu)

(Bhowmick et al., "Protection against reconstruction and its applications in private federated
learning", 2018, have directions on a sphere; Asi, Feldman and Talwar, "Optimal algorithms for mean
estimation under local differential privacy", ICML 2022, have PrivUnitG, which this is, as good in
the limit of many numbers. That shorter updates turn around by chance makes the mean theirs.)

`D` numbers of an upload.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from ..check import positive
from ..types import Stage
from .local_gaussian import above
from .noisy import at_once

MOST = 64.0  # beyond it a cap is smaller than float32 has numbers for


def priv_unit(clip: float, epsilon: float) -> Stage:
    """A whole upload told by a direction near its own, whose mean is the upload.

    Guarantee: epsilon-local differential privacy **of a whole upload**, pure, of one round,
    whatever its length; T rounds of the same client are T epsilon. Exact but for the rounding of
    float32.
    Unbiased for updates within the clip, of variance (C / mu)^2 (D + t mu) - |x|^2 in all: of each
    number a deviation of C / mu, where `local_gaussian` has one that goes with delta as well. All
    rows of all tables are told, so that uploads are dense.

    Args:
        clip: C, the largest norm of an update, dense leaves and rows together. Positive; may be
            traced.
        epsilon: of a whole upload. Positive, 64 at most.

    Returns:
        A `Stage`, for `stages=[...]`.

    Raises:
        ValueError: for numbers out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> stage = privacy.priv_unit(clip=1.0, epsilon=8.0)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), stages=[stage])
    """
    positive("priv_unit", "clip", clip)
    positive("priv_unit", "epsilon", epsilon)
    if epsilon > MOST:
        raise ValueError(
            f"priv_unit(epsilon={epsilon}) protects nothing, and float32 has no such caps; use "
            f"epsilon <= {MOST:.0f}, or leave the stage out."
        )
    t, p, mu = cap(epsilon)
    beyond = above(t)

    def told(key, update):
        of_noise, of_side, of_cap, of_place = jax.random.split(key, 4)
        leaves, structure = jax.tree.flatten(update)
        leaves = [jnp.asarray(x, jnp.float32) for x in leaves]
        norm = jnp.sqrt(sum(jnp.sum(x * x) for x in leaves))
        even = 1 / math.sqrt(sum(x.size for x in leaves))  # the direction of an update of zeros
        v = [jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1.0), even) for x in leaves]
        ahead = jax.random.uniform(of_side) < 0.5 + 0.5 * jnp.minimum(norm / clip, 1.0)
        u = 1 - jax.random.uniform(of_place)  # above 0
        inside = jax.random.uniform(of_cap) < p
        a = jnp.where(inside, -ndtri(u * beyond), ndtri(u * (1 - beyond)))
        g = [jax.random.normal(jax.random.fold_in(of_noise, i), x.shape) for i, x in enumerate(v)]
        along = sum(jnp.sum(x * y) for x, y in zip(g, v, strict=True))
        turn = jnp.where(ahead, a, -a) - along
        return structure.unflatten([clip / mu * (x + turn * y) for x, y in zip(g, v, strict=True)])

    return at_once(told)


def cap(epsilon: float) -> tuple[float, float, float]:
    """(t, p, mu) of the cap in which the mean is largest, by a search that halves."""
    mean = lambda t: (
        math.exp(-t * t / 2) / math.sqrt(2 * math.pi) * -math.expm1(-epsilon)
        / (above(t) + (1 - above(t)) * math.exp(-epsilon))
    )  # fmt: skip
    low, high = 0.0, math.sqrt(2 * epsilon) + 2
    while high - low > 1e-9:
        one, other = low + (high - low) / 3, high - (high - low) / 3
        low, high = (one, high) if mean(one) < mean(other) else (low, other)
    t = (low + high) / 2
    p = above(t) / (above(t) + (1 - above(t)) * math.exp(-epsilon))
    return t, p, mean(t)
