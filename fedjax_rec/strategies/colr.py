"""CoLR: item updates of low rank in a random space from a seed (Nguyen et al., WWW 2024).

    Q = Q0 + B A,   A [r, D] drawn anew each round and known to all;   B <- B - eta dl/dB,  up: B

The local optimizer is `clients.subspace`, and what is sent `compress.seeded_low_rank`.
"""

from __future__ import annotations

from .. import check
from ..aggregate import per_row
from ..clients import groups, sgd, subspace
from ..compress import chain, seeded_low_rank
from ..data import Batches
from ..types import (
    Aggregator,
    Compressor,
    Model,
    Strategy,
)
from .fedavg import fedavg


def colr(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    rank: int = 8,
    seed: int = 0,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """`fedmf` that trains and sends B alone, Q = Q0 + B A, with A [r, D] drawn anew each round.

    A comes from `seed` and the round, so it costs nothing; B is r numbers a row.
    Arguments that are not named here are those of `fedmf`.

    Args:
        rank: r, the rows of A.
        seed: of all A.
        uplink: what happens to B, default nothing.
        kwargs: as in `fedavg`, without `optimizer`.

    Raises:
        ValueError: for rank < 1, and for no seed of 32 bits.

    Example:
        >>> strategy = strategies.colr(models.fedmf(num_items), data.pointwise(4), rank=4)
    """
    check.seed("colr", seed)
    items = subspace(sgd(item_learning_rate), rank, seed)
    optimizer = groups({"private": sgd(user_learning_rate), "shared": items})
    low_rank = seeded_low_rank(rank, seed)
    return fedavg(
        model, examples, probe, optimizer=optimizer, aggregator=aggregator or per_row(),
        uplink=low_rank if uplink is None else chain(low_rank, uplink), **kwargs,
    )  # fmt: skip
