"""The sum of a client's losses, in place of their mean: clients with more examples step further.

    n 1/|B| sum_{j in B} l_j,   n the examples of the client

In one batch of all of them it is their sum. Many papers' code sums so, with a rate as much smaller.
"""

from __future__ import annotations

from .objectives import Objective


def summed(objective: Objective) -> Objective:
    """`objective` times the examples of the client, as `data.counted` says them.

    Args:
        objective: such as `bce()` or `bpr()`.

    Raises:
        ValueError: in the round, for batches without a field `count`.

    Example:
        >>> ranked = models.fedmf(num_items, objective=models.summed(models.bpr()))
        >>> strategy = strategies.fedavg(ranked, data.counted(data.pairwise()), batch_size=4096)
    """

    def of_client(scores, batch):
        if "count" not in batch:
            raise ValueError(
                "summed(objective) needs examples that say how many there are; train it on "
                "data.counted(...)."
            )
        return batch["count"][0] * objective(scores, batch)

    return of_client
