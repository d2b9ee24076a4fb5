"""One bit of each number, of which the mean over clients is the mean of the numbers.

    y = +-c,   c = B (e^eps + 1) / (e^eps - 1),   P(y = c) = 1/2 + x / 2c,   |x| <= B
    E y = x,   P(y | x) / P(y | x') <= e^eps, reached at x = B, x' = -B

(Duchi, Jordan & Wainwright, "Local privacy and statistical minimax rates", FOCS 2013, in one
dimension, for each number by itself.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..check import positive
from ..types import Stage
from .noisy import every_number


def one_bit_mean(clip: float, epsilon: float) -> Stage:
    """Each coordinate becomes one of two values, drawn so that its mean is the coordinate.

    Guarantee: epsilon-local differential privacy **of one coordinate**; of a whole upload of D
    coordinates D epsilon, see `whole_upload`. Unbiased for what is within the clip, of variance
    c^2 - x^2. All rows of all tables are told. Before `uplink=compress.scaled_sign()` a number
    costs one bit, exactly, since all of a node have one magnitude.

    Args:
        clip: B, to which each coordinate is clipped. Positive; may be traced.
        epsilon: of a coordinate. Positive; may be traced.

    Returns:
        A `Stage`, for `stages=[...]`.

    Raises:
        ValueError: for numbers that are not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> stage = privacy.one_bit_mean(clip=0.1, epsilon=1.0)
        >>> strategy = strategies.fedavg(
        ...     model, data.pointwise(4), stages=[stage], uplink=compress.scaled_sign()
        ... )
    """
    positive("one_bit_mean", "clip", clip)
    positive("one_bit_mean", "epsilon", epsilon)
    size = clip / jnp.tanh(jnp.float32(epsilon) / 2)
    cut = lambda update: jax.tree.map(lambda x: jnp.clip(x, -clip, clip), update)

    def told(key, x):
        up = jax.random.uniform(key, x.shape) < 0.5 + 0.5 * x / size
        return jnp.where(up, size, -size)

    return every_number(cut, told)
