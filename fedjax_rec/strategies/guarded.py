"""FedMF whose clients guard themselves: by what they add to their loss, whatever the server does.

- `guarded`      two terms against items that are made to look popular, `models.with_popular`
                 (Zhang, Li, et al., "Preventing the popular item embedding based attack in
                 federated recommendations", ICDE 2024)
- `kept_apart`   a contrastive term that spreads items, `models.contrastive`, as UNION's clients
                 have it (Yu et al., AAAI 2023); the filter that goes with it is `aggregate.union`
"""

from __future__ import annotations

from ..data import Batches
from ..models.contrastive import contrastive
from ..models.with_popular import with_popular
from ..types import Model, Server, Strategy, Transform
from .fedavg import fedmf
from .mining import mining


def guarded(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    popular: int = 10,
    alignment: float = 1.0,
    separation: float = 1.0,
    rounds: int = 4,
    server: Server | Transform | None = None,
    **kwargs,
) -> Strategy:
    """`fedmf` with PIECK's defence: its clients turn items the way of popular ones, and their users
    away from them.

    Arguments that are not named here are those of `fedmf`.

    Args:
        popular: items that are taken for popular, see `models.with_popular`.
        alignment: weight of the term of items.
        separation: weight of the term of users.
        rounds: in which the server finds the popular items, see `mining`.
        server: what steps on the model; default `step(1.0)`.
        kwargs: as in `fedmf`.

    Raises:
        ValueError: as `models.with_popular` and `mining`.

    Example:
        >>> strategy = strategies.guarded(models.fedmf(num_items), data.pointwise(4), popular=5)
    """
    model = with_popular(model, popular, alignment, separation)
    return fedmf(model, examples, probe, server=mining(server, rounds), **kwargs)


def kept_apart(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    weight: float = 1.0,
    negatives: int = 15,
    **kwargs,
) -> Strategy:
    """`fedmf` whose clients keep items apart, as UNION's do.

    Arguments that are not named here are those of `fedmf`.

    Args:
        weight: of the contrastive term, see `models.contrastive`.
        negatives: of each item in it.
        kwargs: as in `fedmf`.

    Raises:
        ValueError: as `models.contrastive`.

    Example:
        >>> rule = aggregate.union(f=2)
        >>> strategy = strategies.kept_apart(model, data.pointwise(4), aggregator=rule)
    """
    return fedmf(contrastive(model, weight, negatives), examples, probe, **kwargs)
