"""A window of time: since <= t < until."""

from __future__ import annotations

import numpy as np

from .interactions import Interactions, select
from .sources.moments import seconds_of, unit_of


def between(
    interactions: Interactions,
    since: float | str | None = None,
    until: float | str | None = None,
) -> Interactions:
    """The interactions with since <= time < until.

    Args:
        interactions: what is filtered.
        since: a date in UTC ("2004-01-31", "2004-01-31 12:00"), or a number in the unit of the
            data; None for no bound.
        until: likewise, and not itself part of the window.

    Raises:
        ValueError: for what is no date, dates where times are no moments, and where nothing is
            left.

    Example:
        >>> late = data.between(interactions, since=float(np.median(interactions.times)))
    """
    times = interactions.times
    keep = np.ones(len(interactions), bool)
    if since is not None:
        keep &= times >= _bound(interactions, "since", since)
    if until is not None:
        keep &= times < _bound(interactions, "until", until)
    if not keep.any():
        raise ValueError(
            f"between(since={since}, until={until}) leaves nothing of '{interactions.name}', whose "
            f"times go from {times.min():.10g} to {times.max():.10g}; use a wider window."
        )
    return interactions if keep.all() else select(interactions, keep)


def _bound(interactions: Interactions, name: str, value: float | str) -> float:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        moment = seconds_of(value, f"between({name})")
    unit, scale = unit_of(interactions.times)
    if not scale:
        raise ValueError(
            f"between({name}='{value}') is a date, and the times of '{interactions.name}' are "
            f"{unit} to {interactions.times.max():.10g}; give a number."
        )
    return moment * scale
