"""Every item of the catalogue, once a client: the loss that sampled negatives estimate, exactly.

    f_u = ( sum_{i in R_u} l(z_i, 1) + m |R_u| / |A_u| sum_{j in A_u} l(z_j, 0) ) / ((1 + m) |R_u|)

R_u are the interactions of user u, A_u the items that may be drawn as its negatives, and m the
negatives of an interaction. Drawn ones have this loss as their expectation. Its gradient is shorter
than theirs, which all are chance's in part, so that under a clip (`privacy.whole`) more of what a
client sends is signal; and every client touches every row, so that rows tell nothing of it.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..check import positive
from .batches import Batches


def whole_catalogue(negatives: float = 4.0) -> Batches:
    """Each interaction with label 1, and every item that may be drawn beside it with label 0, of
    weights as `pointwise(negatives)` draws them on average.

    For clients that are one user each; train them in one batch, `batch_size` of the catalogue's
    items or more, since the loss is a mean over each batch.

    Args:
        negatives: m, the weight of all negatives together over that of all interactions. Positive;
            may be traced.

    Returns:
        `Batches` of `items` int32[B], `labels` float32[B] and `weights` float32[B], for
        `models.weighted(objective)`.

    Raises:
        ValueError: unless negatives is positive; and, when a round is traced, for clients that hold
            several users.

    Example:
        >>> exact = models.fedmf(num_items, objective=models.weighted(models.bce()))
        >>> strategy = strategies.fedmf(exact, data.whole_catalogue(), batch_size=4096)
    """
    positive("whole_catalogue", "negatives", negatives)

    def most(store):
        if store.owners is not None or store.everything is None:
            raise ValueError(
                "whole_catalogue() is for clients that are one user each, and these hold several; "
                "use data.pointwise, or data.by_user() for clients."
            )
        return store.everything

    def count(data):
        return data.length + jnp.where(data.length > 0, data.store.exclusion.count[data.id], 0)

    def longest(data):
        return jnp.where(data.longest > 0, most(data.store), 0)

    def draw(seed, data, q):
        q, length, others = q.astype(jnp.int32), data.length, data.store.exclusion
        known = q < length
        here = data.store.items.at[data.start + q].get(mode="clip")
        items = jnp.where(known, here, others.at(data.id, q - length))
        weight = negatives * length / jnp.maximum(others.count[data.id], 1)
        return {
            "items": items,
            "labels": known.astype(jnp.float32),
            "weights": jnp.where(known, 1.0, weight),
        }

    return Batches(count, most, draw, {"items": 1}, longest=longest)
