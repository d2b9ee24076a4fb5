"""Early stopping: a run ends once its validation metric has not become better for long enough.

    stop at the first of the measured rounds t with  t - best(t) >= patience

where best(t) is the last of them up to t that beat the best before it by more than `min_delta`
(Prechelt, "Early stopping, but when?", 1998, the criterion UP in its plain form). All of it is read
off the records of the run, so that one which is killed and resumed stops in the same round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..check import at_least
from ..evaluate.direction import lower_is_better
from ..simulate import Callback, Progress, Stop

VALIDATION = "validation_"


def early_stopping(
    metric: str,
    patience: int,
    min_delta: float = 0.0,
    higher_is_better: bool | None = None,
) -> Callback:
    """Stops a run whose validation metric has not improved in `patience` measurements.

    Args:
        metric: As the records name it, such as "validation_ndcg@10". Test metrics are refused: the
            number of rounds would be fitted to what the run is judged by.
        patience: Measurements (each `evaluation.every` rounds) without an improvement.
        min_delta: What an improvement has to be more than.
        higher_is_better: None for what the metric is known for: errors are to fall.

    Returns:
        A callback.

    Raises:
        ValueError: The metric is not of the validation part, `patience` is below 1, or `min_delta`
            below 0; and after the first round, the metric is not measured.

    Example:
        >>> rule = callbacks.early_stopping("validation_hr@10", patience=5)
        >>> done = fr.run("configs/quickstart.yaml", callbacks=[rule])  # doctest: +SKIP
    """
    if not str(metric).startswith(VALIDATION):
        raise ValueError(
            f"early_stopping(metric={metric!r}) is not of the validation part, and a run must not "
            f"look at what it is judged by; use {VALIDATION + str(metric)!r}."
        )
    at_least("early_stopping", "patience", patience, 1)
    at_least("early_stopping", "min_delta", min_delta, 0)
    higher = not lower_is_better(metric) if higher_is_better is None else higher_is_better

    def stop(progress: Progress) -> Stop | None:
        if metric not in progress.metrics:
            there = [one for one in progress.metrics if one.startswith(VALIDATION)]
            raise ValueError(
                f"metric={metric!r} is not measured; "
                + (f"use one of {', '.join(there)}." if there else "there is no validation part.")
            )
        best, value, since = _waited(progress.records, metric, min_delta, higher)
        if since < patience:
            return None
        return Stop(f"{metric} was {value:.4g} in round {best}, and no better in {since} since")

    stop.__name__ = "early_stopping"
    return stop


def _waited(
    records: Sequence[Mapping[str, Any]], metric: str, min_delta: float, higher: bool
) -> tuple[int, float, int]:
    """(round of the last improvement, its value, measurements since)."""
    found, value, at = 0, math.nan, -1
    for i, record in enumerate(records):
        new = math.nan if record[metric] is None else float(record[metric])
        gain = new - value if higher else value - new
        if gain > min_delta or (math.isnan(value) and not math.isnan(new)):
            found, value, at = record["round"], new, i
    return found, value, len(records) - 1 - at
