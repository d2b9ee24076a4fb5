"""Who is served: a metric by quarters of users, from the least to the most active, and by the
popularity of what is held out, where runs have measured that (`evaluation.groups`).

Test values at the best validation round, means over seeds. Quarters are those of
`evaluate.by_activity`, groups of items those of `evaluate.item_groups`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedjax_rec.evaluate import by_activity
from fedjax_rec.evaluate.item_groups import ALL
from fedjax_rec.report.reading import Group, Run
from fedjax_rec.report.settings import names

QUARTERS = ("least active", "second quarter", "third quarter", "most active")
ABOUT = (
    "The first metric of a run in quarters of its users by their training interactions, and where "
    "it was measured, of held-out items of the head, the middle and the tail (a fifth, three "
    "fifths and a fifth of the training interactions) and of cold ones, which have none."
)


def served(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """(titles, cells of each group) of the groups whose runs all tell their users; no cells where
    none does."""
    from fedjax_rec.report.tables import title  # which shows this

    called, found = names(groups), []
    for each in groups:
        metric = each.runs[0].names()[0]
        told = [_quarters(run, metric) for run in each.runs]
        quarters = [one for one in told if one is not None]
        if len(quarters) == len(told):
            items = {name: each.best(f"{name}_{metric}").mean() for name in ALL}
            found.append((called[id(each)], title(metric), np.mean(quarters, 0), items))
    shown = [name for name in ALL if any(np.isfinite(items[name]) for *_, items in found)]
    cell = lambda x: f"{x:.4f}" if np.isfinite(x) else "n/a"
    rows = [
        [name, metric, *map(cell, quarters), *(cell(items[group]) for group in shown)]
        for name, metric, quarters, items in found
    ]
    return ["run", "metric", *QUARTERS, *shown], rows


def _quarters(run: Run, metric: str) -> list[float] | None:
    """Means of the four; None of a run that does not tell them, or has fewer users."""
    if run.per_user is None or metric not in run.per_user.metrics:
        return None
    values = run.per_user.values[:, run.per_user.metrics.index(metric)]
    if np.isfinite(values).sum() < len(QUARTERS) or not np.isfinite(values[values == values]).all():
        return None
    told = by_activity(values, run.per_user.activity, len(QUARTERS))
    return [group["mean"] for group in told.values()]
