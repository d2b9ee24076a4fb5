"""Losses of examples that weigh more or less than one: a mean by the weights that a batch gives.

    sum_j w_j l_j / sum_j w_j

of the loss l_j of each example and its weight w_j, as `data.whole_catalogue` has them.
"""

from __future__ import annotations

import jax.numpy as jnp

from .objectives import Objective


def weighted(objective: Objective) -> Objective:
    """`objective`, a mean over examples, by `batch["weights"]`, as `data.whole_catalogue` has them.

    Args:
        objective: such as `bce()` or `squared_error()`.

    Raises:
        ValueError: in the round, for batches without a field `weights`.

    Example:
        >>> exact = models.fedmf(num_items, objective=models.weighted(models.bce()))
        >>> strategy = strategies.fedmf(exact, data.whole_catalogue(), batch_size=4096)
    """

    def of_weights(scores, batch):
        if "weights" not in batch:
            raise ValueError(
                "weighted(objective) needs examples that weigh something; train it on "
                "data.whole_catalogue(...)."
            )
        weight = batch["mask"] * batch["weights"]
        # As many as there are examples, in all: objectives divide by 1 at least.
        scale = batch["mask"].sum() / jnp.maximum(weight.sum(), 1e-30)
        return objective(scores, {**batch, "mask": scale * weight})

    return of_weights
