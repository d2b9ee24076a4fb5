"""Losses of examples that weigh more or less than one: a mean by the weights that a batch gives.

sum_j w_j l_j / sum_j w_j
"""

from __future__ import annotations

from .objectives import Objective


def weighted(objective: Objective) -> Objective:
    """`objective`, a mean over examples, by `batch["weights"]`, as `data.whole_catalogue` has them.

    The weights of a batch add up to 1 at least, or the loss is as much smaller.

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
        return objective(scores, {**batch, "mask": batch["mask"] * batch["weights"]})

    return of_weights
