"""FedNova: updates count by step (Wang et al., "Tackling the objective inconsistency problem in
heterogeneous federated optimization", NeurIPS 2020).

    x <- x + tau_eff sum_k p_k (x_k - x) / tau_k,   tau_eff = sum_k p_k tau_k

Clients send their steps tau_k beside their updates; the aggregator is `aggregate.normalized`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..aggregate import normalized
from ..clients import Local, local_training
from ..clients.rates import rated
from ..clients.reporting import reporting
from ..data import Batches
from ..rounds.federated import federated
from ..types import (
    Aggregator,
    Model,
    Strategy,
    Transform,
)


def fednova(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """x <- x + tau_eff sum_k p_k (x_k - x) / tau_k.

    Arguments that are not named here are those of `fedavg`.

    Args:
        aggregator: default `aggregate.normalized()`.
        assembly: as in `federated`.

    Example:
        >>> strategy = strategies.fednova(model, data.pointwise(4), epochs=2)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    client = reporting(client, ["steps"])
    return federated(client, model, aggregator=aggregator or normalized(), **assembly)
