"""What puts the scores of several models together: one score for each item of one user."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ...check import is_traced
from ...made import part


@part
class Fusion:
    """fuse(scores float[S, I], shares float[S], real bool[I]) -> float32[I].

    `S` models, `I` items; real: which items may be shown. What stands of the others in the result
    is not to be read. See `weighted_scores` and `reciprocal_ranks`.
    """

    fuse: Callable[..., jax.Array]


def refuse_other(where: str, scores, shares) -> None:
    """Raises ValueError where there is not one share, 0 or more, for each model."""
    if jnp.ndim(scores) != 2 or jnp.shape(shares) != jnp.shape(scores)[:1]:
        raise ValueError(
            f"{where}(scores: {list(jnp.shape(scores))}, shares: {list(jnp.shape(shares))}); give "
            "the scores of each model, [S, I], and a share for each, [S]."
        )
    if not is_traced(shares) and bool((jnp.asarray(shares) < 0).any()):
        raise ValueError(f"{where}(shares={shares}) has one below 0; use shares of 0 or more.")
