"""The first items of a list in another order, and all others below them in the old one.

    score'(i) = K - place of i by the new scores    of the K items of the list, places from 0
              = - #{j : s(j) > s(i)}                of the others

So what was tied below stays tied, and whatever ranks scores may go on from here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Integer

from ...types import Array


def reordered(
    scores: Float[Array, " I"], items: Integer[Array, " K"], better: Float[Array, " K"]
) -> Float32[Array, " I"]:
    """float32[I]: scores by which `items` come first, in the order of `better`.

    Args:
        scores: s, of all items, by which those beside the list keep their order. `I` < 2^24.
        items: of the list, the best first; -1 for a place without an item.
        better: the new score of each item of the list. Where two are equal the list decides; NaN
            comes last.

    Raises:
        ValueError: for a list that is longer than the catalogue, or scores of another length.

    Example:
        >>> scores = jnp.float32([4, 3, 2, 1])
        >>> models.reordered(scores, jnp.int32([0, 1]), jnp.float32([0.1, 0.9])).tolist()
        [1.0, 2.0, -2.0, -3.0]
    """
    size, k = scores.shape[0], items.shape[0]
    if k > size or better.shape != items.shape:
        raise ValueError(
            f"reordered(scores of {size} items, items: {k}, better: {list(better.shape)}); give a "
            "new score for each item of a list that is no longer than the catalogue."
        )
    real = items >= 0
    better = jnp.where(jnp.isnan(better), -jnp.inf, jnp.asarray(better, jnp.float32))
    # Places without an item come after all that have one.
    order = jnp.lexsort((jnp.arange(k), -better, ~real))
    place = jnp.zeros(k, jnp.int32).at[order].set(jnp.arange(k, dtype=jnp.int32))
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, jnp.asarray(scores, jnp.float32))
    above = jnp.searchsorted(jnp.sort(-scores), -scores, side="left")
    rest = -above.astype(jnp.float32)
    where = jnp.where(real, items, size)
    return rest.at[where].set((k - place).astype(jnp.float32), mode="drop")


def first_items(scores: jax.Array, real: jax.Array, k: int) -> jax.Array:
    """int32[k]: the items of the highest scores among what is `real`, -1 where there are fewer."""
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, jnp.asarray(scores, jnp.float32))
    order = jnp.lexsort((jnp.arange(scores.shape[0]), -scores, ~real))[:k]
    return jnp.where(real[order], order, -1).astype(jnp.int32)
