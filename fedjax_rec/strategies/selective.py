"""Federated averaging of the clients of a cohort that are most useful, or first to finish; see
`rounds.selection`."""

from __future__ import annotations

from ..check import at_least
from ..data import Batches
from ..rounds.clock import Clock, lognormal_clock
from ..rounds.selection import over_selection, selecting
from ..rounds.utility import Utility, by_size, power_of_choice
from ..types import Model, Strategy
from .fedavg import fedavg


def selective(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clients: int,
    utility: Utility | None = None,
    candidates: int | None = None,
    **kwargs,
) -> Strategy:
    """Federated averaging of the `clients` of highest utility among the candidates.

    Arguments that are not named here are those of `fedavg`.

    Args:
        clients: m, how many take part.
        utility: default `power_of_choice()`.
        candidates: how many, drawn by size from the cohort; default the cohort itself.
        kwargs: as in `fedavg`.

    Raises:
        ValueError: as `selecting`, and for fewer candidates than clients.

    Example:
        >>> strategy = strategies.selective(model, data.pointwise(4), clients=2, candidates=6)
    """
    at_least("selective", "candidates", clients if candidates is None else candidates, clients)
    chosen = selecting(
        fedavg(model, examples, probe, **kwargs), utility or power_of_choice(), clients
    )
    return chosen if candidates is None else selecting(chosen, by_size(), candidates)


def over_selected(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clients: int,
    clock: Clock | None = None,
    **kwargs,
) -> Strategy:
    """Federated averaging of the first `clients` of the cohort to finish.

    Arguments that are not named here are those of `fedavg`.

    Args:
        clients: m, how many are waited for.
        clock: default `lognormal_clock(epochs=epochs)`.
        kwargs: as in `fedavg`.

    Raises:
        ValueError: as `over_selection`.

    Example:
        >>> strategy = strategies.over_selected(model, data.pointwise(4), clients=2)
    """
    ticking = clock or lognormal_clock(epochs=kwargs.get("epochs", 1))
    timed = fedavg(model, examples, probe, clock=ticking, **kwargs)
    return over_selection(timed, clients)
