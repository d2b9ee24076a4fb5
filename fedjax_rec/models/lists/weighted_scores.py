"""Scores of several models, each on one scale, added.

    score(i) = sum_s w_s (s_s(i) - mean_j s_s(j)) / std_j s_s(j)        j over what may be shown

The hybrid retrieval of GPT-FedRec adds the scores of a retriever by ids and of one by texts with a
weight (Zeng et al., "Federated recommendation via hybrid retrieval augmented generation", 2024).
They are standardised first, for each user, so that a weight means the same for any two models.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...types import Array
from .fusion import Fusion, refuse_other


def weighted_scores() -> Fusion:
    """Standardised scores, added. One that is not finite counts as the lowest of its model.

    Returns:
        `fuse(scores float[S, I], shares float[S], real bool[I])` -> float32[I].

    Raises:
        ValueError: when it fuses, where there is not one share, 0 or more, for each model.

    Example:
        >>> fuse = models.weighted_scores().fuse
        >>> both = jnp.float32([[3, 2, 1], [0, 4, 2]])
        >>> int(jnp.argmax(fuse(both, jnp.float32([0.5, 0.5]), jnp.ones(3, bool))))
        1
    """

    def fuse(scores, shares, real):
        refuse_other("weighted_scores", scores, shares)
        return (shares[:, None] * standardised(scores, real)).sum(0)

    return Fusion(fuse)


def standardised(scores: Array, real: Array) -> jax.Array:
    """float32[..., n]: scores less their mean, over their deviation, both over what is `real` and
    finite; 0 where all are alike."""
    scores = jnp.asarray(scores, jnp.float32)
    known = real & jnp.isfinite(scores)
    count = jnp.maximum(known.sum(-1, keepdims=True), 1)
    mean = jnp.where(known, scores, 0.0).sum(-1, keepdims=True) / count
    apart = jnp.where(known, scores - mean, 0.0)
    deviation = jnp.sqrt((apart**2).sum(-1, keepdims=True) / count)
    z = apart / jnp.where(deviation > 0, deviation, 1.0)
    return jnp.where(known, z, z.min(-1, keepdims=True))
