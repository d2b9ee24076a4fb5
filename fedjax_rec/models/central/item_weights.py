"""A weight from each item of the user's history to each item of the catalogue.

    score(u, i) = sum_j W_ij x_uj

W is shared, its row i the weights towards item i, and the 0/1 history x_u stays with the user.
`ease` and `item_knn` fit W.

Dimensions: `M` users of a client, `I` items.
"""

from __future__ import annotations

import jax.numpy as jnp

from ...check import at_least
from ...types import Model, Ranking


def item_weights(num_items: int, members: int = 1) -> Model:
    """The model that `ease` and `item_knn` fill.

    Args:
        num_items: `I`, the items of the catalogue.
        members: `M`, the users that one client holds.

    Returns:
        A model whose `shared` is {"weights": float32[I, I]} and whose `private` is {"history":
        bfloat16[M, I]}, which holds 0 and 1 exactly.

    Raises:
        ValueError: from its loss: a batch of examples holds no history, so it is fitted with
            `strategies.central` and never by steps. And for sizes below 1.

    Example:
        >>> strategy = strategies.central(models.item_weights(num_items), fit=models.ease(l2=300.0))
    """
    at_least("item_weights", "num_items", num_items, 1)
    at_least("item_weights", "members", members, 1)

    def init(key, common=None):
        return (
            {"weights": jnp.zeros((num_items, num_items), jnp.float32)},
            {"history": jnp.zeros((members, num_items), jnp.bfloat16)},
        )

    def loss(shared, private, batch, key):
        raise ValueError(
            "item_weights() has no loss of a batch; use the strategy central with a fit such as "
            "ease or item_knn."
        )

    def score(shared, private, items, user=0):
        history = private["history"][user].astype(jnp.float32)
        return shared["weights"][items] @ history

    return Model(init, loss, Ranking.of(score))
