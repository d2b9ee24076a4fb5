"""Which way a metric is good, by the name that records and tables have for it."""

from __future__ import annotations

ERRORS = ("rmse", "mae", "loss", "log_loss", "ece")
GAP = "gap:"  # before an attribute of users and a metric: how far its groups are apart
BEFORE = ("validation_", "sampled_")


def lower_is_better(metric: str) -> bool:
    """Whether the lowest is the best: of errors, and of gaps between groups of users.

    Args:
        metric: as in `metrics.jsonl`, such as `validation_rmse`, or in a table, `gap:gender:hr@10`.

    Example:
        >>> evaluate.lower_is_better("validation_rmse"), evaluate.lower_is_better("hr@10")
        (True, False)
    """
    for prefix in BEFORE:
        metric = metric.removeprefix(prefix)
    return metric in ERRORS or metric.startswith(GAP)
