"""Ranks of several models put together, whatever their scores are.

    score(i) = sum_s w_s / (c + rank_s(i))

(Cormack, Clarke and Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
learning methods", SIGIR 2009; there w = 1 and c = 60.) Items with equal scores share the last of
their ranks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...check import at_least
from .fusion import Fusion, refuse_other


def reciprocal_ranks(constant: float = 60.0) -> Fusion:
    """Reciprocal rank fusion.

    Args:
        constant: c; the larger, the less the first places are worth over those behind.

    Returns:
        `fuse(scores float[S, I], shares float[S], real bool[I])` -> float32[I]. A score that is no
        number ranks last.

    Raises:
        ValueError: for constant < 0, and when it fuses, where there is not one share, 0 or more,
            for each model.

    Example:
        >>> fuse = models.reciprocal_ranks().fuse
        >>> both = jnp.float32([[3, 2, 1], [0, 4, 2]])
        >>> int(jnp.argmax(fuse(both, jnp.float32([0.5, 0.5]), jnp.ones(3, bool))))
        1
    """
    at_least("reciprocal_ranks", "constant", constant, 0)

    def fuse(scores, shares, real):
        refuse_other("reciprocal_ranks", scores, shares)
        ranks = jnp.stack([ranked(own, real) for own in scores])
        return (shares[:, None] / (constant + ranks)).sum(0)

    return Fusion(fuse)


def ranked(scores: jax.Array, real: jax.Array) -> jax.Array:
    """float32[I]: how many of the `real` items have as high a score as each, 1 for the best."""
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, jnp.asarray(scores, jnp.float32))
    ascending = jnp.sort(jnp.where(real, -scores, jnp.inf))
    held = jnp.searchsorted(ascending, -scores, side="right")
    # Those of what is not real stand at the end, among scores of -inf.
    return jnp.clip(held, 1, jnp.maximum(real.sum(), 1)).astype(jnp.float32)
