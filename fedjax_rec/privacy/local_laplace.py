"""The Laplace mechanism at each client, as papers on federated recommenders have it.

    y_i = clip(x_i, -delta, delta) + Lap(0, 2 delta / epsilon)
    p(y_i | x_i) / p(y_i | x'_i) <= exp(epsilon)          of one coordinate
    p(y | x) / p(y | x') <= exp(D epsilon)                of an upload of D coordinates

(Dwork et al., "Calibrating noise to sensitivity in private data analysis", TCC 2006.) Papers name
the first number, and a message of a table of 1,682 x 32 has 53,824 of them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..check import positive
from ..types import Stage
from .noisy import every_number


def local_laplace(clip: float, epsilon: float) -> Stage:
    """Each coordinate of an upload clipped and noised at its client, whom nobody has to trust.

    Guarantee: epsilon-local differential privacy **of one coordinate**. A whole upload of D
    coordinates is (D epsilon)-locally private, in each round: `whole_upload(epsilon, D)`, which for
    a table is a number that protects nothing. Noise is on all rows of all tables, or the rows that
    travel would tell what was touched; so uploads are dense. Mean of the noise 0, variance
    8 (clip / epsilon)^2.

    Args:
        clip: delta, to which each coordinate is clipped. Positive; may be traced.
        epsilon: of a coordinate. Positive; may be traced.

    Returns:
        A `Stage`, for `stages=[...]`.

    Raises:
        ValueError: for numbers that are not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> stage = privacy.local_laplace(clip=0.1, epsilon=1.0)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), stages=[stage])
    """
    positive("local_laplace", "clip", clip)
    positive("local_laplace", "epsilon", epsilon)
    scale = 2 * clip / epsilon
    cut = lambda update: jax.tree.map(lambda x: jnp.clip(x, -clip, clip), update)
    return every_number(cut, lambda key, x: x + scale * jax.random.laplace(key, x.shape))


def whole_upload(epsilon: float, numbers: int, rounds: int = 1) -> float:
    """The epsilon of all that a client sends, where each number has its own, by basic composition.

    Exact for the Laplace mechanism: there are two uploads that are told apart that well.

    Args:
        epsilon: of a coordinate.
        numbers: D, coordinates of an upload.
        rounds: in which it takes part.

    Returns:
        D T epsilon.

    Raises:
        ValueError: for an epsilon that is not positive, and counts below 1.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.whole_upload(1.0, numbers=1682 * 32)
        53824.0
    """
    positive("whole_upload", "epsilon", epsilon)
    positive("whole_upload", "numbers", numbers)
    positive("whole_upload", "rounds", rounds)
    return float(epsilon) * numbers * rounds
