"""ItemKNN, neighbours of items by cosine with shrinkage (Sarwar et al., WWW 2001; Bell & Koren,
ICDM 2007; as in the reproduction of Ferrari Dacrema et al., RecSys 2019).

    s_ij = |U_i and U_j| / (sqrt(|U_i| |U_j|) + shrinkage),   s_ii = 0
    W_ij = s_ij where j is one of the `neighbours` items that are most similar to i, else 0
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ...check import at_least
from .fit import Fit, by_user, squared_error, together, users_in


def item_knn(neighbours: int = 100, shrinkage: float = 10.0) -> Fit:
    """Fits `item_weights` by the cosine similarity of items.

    Args:
        neighbours: how many items vote for an item; those beyond the catalogue are left out. Of
            equally similar ones the first are taken.
        shrinkage: added to the norms, in users: similarities of rare items are held back.

    Returns:
        A `Fit` of the model `item_weights`. It minimises nothing; its loss is the squared error of
        the histories, a user.

    Raises:
        ValueError: there is no neighbour, or `shrinkage` is negative.

    Example:
        >>> fit = models.item_knn(100, 10.0)
        >>> strategy = strategies.central(models.item_weights(num_items), fit=fit)
    """
    at_least("item_knn", "neighbours", neighbours, 1)
    at_least("item_knn", "shrinkage", shrinkage, 0)

    def solve(history, shared, private):
        matrix = by_user(history)
        both = together(matrix)
        size = both.shape[0]
        norm = jnp.sqrt(jnp.diag(both))
        # Of items that nobody met the norms are 0, and so is what they have in common.
        below = norm[:, None] * norm + shrinkage
        similar = both / jnp.where(below > 0, below, 1.0) * (1 - jnp.eye(size))
        most, voters = jax.lax.top_k(similar, min(neighbours, size))
        weights = jnp.zeros_like(both).at[jnp.arange(size)[:, None], voters].set(most)
        loss = squared_error(both, weights) / users_in(matrix)
        return {"weights": weights}, {"history": history.astype(jnp.bfloat16)}, loss

    return Fit.of(solve)
