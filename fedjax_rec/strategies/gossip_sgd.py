"""Client models that are passed on, or mixed with their neighbours', without a server.

- `model_swapping`  M_k <- M_pi(k), and the mean now and then (FedSwap, Chiu et al., IEEE IoT
                    Journal 2020)
- `gossip_sgd`      M_k <- sum_j W[k, j] M_j over a graph (Lian et al., NeurIPS 2017)

The rounds are those of `rounds.decentralized`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..clients import Local, local_training
from ..clients.rates import rated
from ..data import Batches
from ..rounds.decentralized import decentralized
from ..rounds.exchange import Exchange, average, derangement, gossip, periodic
from ..rounds.graphs import ring
from ..types import Model, Stage, Strategy, Transform


def model_swapping(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    swap: Exchange | None = None,
    swap_every: int = 1,
    average_every: int = 10,
    **kwargs,
) -> Strategy:
    """M_k <- M_pi(k) every `swap_every` rounds, M_k <- sum_j n_j M_j / n every `average_every`.

    Arguments that are not named here are those of `gossip_sgd`.

    Args:
        swap: default `derangement()`; `cycle()` is cyclic weight transfer.
        swap_every: rounds from swap to swap.
        average_every: rounds from mean to mean, which takes the place of a swap.
        kwargs: as in `gossip_sgd`.

    Raises:
        ValueError: for periods below 1.

    Example:
        >>> strategy = strategies.model_swapping(model, data.pointwise(4), average_every=10)
    """
    exchange = periodic([average(), swap or derangement()], [average_every, swap_every])
    return gossip_sgd(model, examples, probe, exchange=exchange, **kwargs)


def gossip_sgd(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    exchange: Exchange | None = None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    clients_per_chunk: int | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """M_k <- sum_j W[k, j] (M_j after local training), from one model for all.

    Arguments that are not named here are those of `fedavg`.

    Args:
        exchange: default `gossip(ring())`.
        stages: of the change before it enters M_j, as in `decentralized`.

    Raises:
        ValueError: as `decentralized`.

    Example:
        >>> exchange = strategies.gossip(strategies.torus())
        >>> strategy = strategies.gossip_sgd(model, data.pointwise(4), exchange=exchange)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    return decentralized(client, model, exchange or gossip(ring()), clients_per_chunk, stages)
