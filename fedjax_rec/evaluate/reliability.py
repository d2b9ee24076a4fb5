"""Calibrated probabilities: whether of examples predicted with probability p a share p is positive.

Probabilities s(z) fall into M bins of equal width. With n_b of n examples in bin b, conf_b the mean
of their probabilities and rate_b the share of positives among them:

    ECE = sum_b (n_b / n) |rate_b - conf_b|

(Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
AAAI 2015, for binary labels; the reliability table is DeGroot and Fienberg's, The Statistician
1983.) An example that is always right by ranking may be far off by this, and negatives that were
sampled more than they occur raise it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Shaped

from ..check import at_least, static
from ..types import Array, record
from .totals import total, total_by

BINS = 15


@record
class Reliability:
    """By bin of probabilities: count int32[M], confidence and rate float32[M], NaN of no example.
    error: float32[], ECE."""

    count: Array
    confidence: Array
    rate: Array
    error: Array


def reliability(
    logits: Float[Array, " n"], labels: Shaped[Array, " n"], bins: int = BINS
) -> Reliability:
    """How often examples are positive, by what was predicted of them, and the calibration error.

    Args:
        logits: z, float[n]; probabilities are s(z).
        labels: [n], 0 or 1.
        bins: M, of equal width from 0 to 1; a probability on an edge is in the upper one.

    Returns:
        `Reliability`: of each bin how many examples, their mean probability and the share of
        positives, and over all the expected calibration error, NaN where a logit is.

    Raises:
        ValueError: for bins < 1.

    Example:
        >>> told = jax.jit(evaluate.reliability)(jnp.array([0.0, 0.0, 9.0]), jnp.array([0, 1, 1]))
        >>> told.count[jnp.array([7, 14])].tolist(), round(float(told.error), 4)
        ([2, 1], 0.0)
    """
    static("reliability", "bins", bins)
    at_least("reliability", "bins", bins, 1)
    p = jax.nn.sigmoid(jnp.asarray(logits, jnp.float32))
    place = jnp.clip((p * bins).astype(jnp.int32), 0, bins - 1)
    place, p, positive = jax.lax.sort((place, p, (labels > 0).astype(jnp.float32)), num_keys=1)
    count = jnp.bincount(place, length=bins)
    sums = [total_by(x, place, bins) for x in (p, positive)]
    # A bin's difference is summed as such: of two large sums it would have few digits.
    apart = jnp.abs(total_by(positive - p, place, bins))
    error = total(apart) / place.shape[0]
    return Reliability(count, sums[0] / count, sums[1] / count, error)


def calibration_error(
    logits: Float[Array, " n"], labels: Shaped[Array, " n"], bins: int = BINS
) -> Float32[Array, ""]:
    """ECE, the expected calibration error, float32[]; see `reliability`.

    Args:
        logits: z, float[n].
        labels: [n], 0 or 1.
        bins: M, of equal width.

    Raises:
        ValueError: for bins < 1.

    Example:
        >>> logits, labels = jnp.array([0.0, 0.0]), jnp.array([1, 1])
        >>> float(evaluate.calibration_error(logits, labels))
        0.5
    """
    return reliability(logits, labels, bins).error
