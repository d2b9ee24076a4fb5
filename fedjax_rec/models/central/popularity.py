"""Popularity: everybody is shown what most users met.

    score(u, i) = s_i = |U_i| / |U|

s is the vector that comes nearest to the 0/1 histories of all users, sum_ui (x_ui - s_i)^2. What
does not beat it has not learned anybody's taste.
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx

from ... import rows
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Rows, from_nnx
from .fit import Fit, by_user, users_in


class ItemScores(nnx.Module):
    def __init__(self, num_items, objective):
        self.item = Rows(jnp.zeros((num_items, 1)))
        self.objective = objective

    def loss(self, batch, key):
        return self.objective(self.item[batch["items"]][..., 0], batch)

    def score(self, items, user):
        return self.item[items][:, 0]


def item_scores(num_items: int, objective: Objective | None = None) -> Model:
    """A shared score of each item, the same for every user.

    Args:
        num_items: `I`, the items of the catalogue.
        objective: what training it by steps minimises; the default is `bce()`. `popularity()` fits
            it without any.

    Returns:
        A model whose `shared` is one row [1] an item and whose `private` is empty.

    Example:
        >>> strategy = strategies.fedavg(models.item_scores(num_items), data.pointwise(4))
    """
    objective = objective or bce()
    return from_nnx(lambda rngs: ItemScores(num_items, objective))


def popularity() -> Fit:
    """Scores items by the share of users that met them.

    Returns:
        A `Fit` of the model `item_scores`. Its loss is the squared error of the histories, a user.

    Example:
        >>> strategy = strategies.central(models.item_scores(num_items), fit=models.popularity())
    """

    def solve(history, shared, private):
        matrix = by_user(history)
        users = users_in(matrix)
        share = matrix.sum(0) / users
        loss = (share * (1 - share)).sum()
        return {"item": rows.Table(share[:, None])}, private, loss

    return Fit.of(solve)
