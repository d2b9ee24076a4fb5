"""How many rounds each strategy needs for what federated averaging reaches.

    target = 95% of the best validation metric of the runs called `fedavg`, mean over seeds
    rounds = the first measured round whose validation metric is at least the target

as in table 2 of McMahan et al., AISTATS 2017, on the validation part, which chooses the best round.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_rec.experiment.reading import Group, Run
from fedjax_rec.experiment.report import MIB, grid, spread, title

REFERENCE, SHARE = "fedavg", 0.95
BESIDE = "sampled_"


def has_reference(groups: Sequence[Group]) -> bool:
    return any(each.field("name") == REFERENCE for each in groups)


def convergence(groups: Sequence[Group]) -> list[str]:
    """Markdown lines: a row per group, those of fewest rounds first; `groups` share data and
    evaluation, and one of them is called `fedavg`."""
    reference = next(each for each in groups if each.field("name") == REFERENCE)
    chooser = reference.runs[0].summary["selected_by"]
    target = SHARE * float(np.mean([best_of(run, chooser) for run in reference.runs]))
    metrics = shown(groups)
    rows = []
    for each in groups:
        found = [first_at(run, chooser, target) for run in each.runs]
        reached = [place for place in found if place is not None]
        all_of_them = len(reached) == len(found)
        rounds = float(np.mean(reached)) if all_of_them else np.inf
        totals = [run.summary["totals"] for run in each.runs]
        sent, seconds = (
            np.mean([total[key] / total["rounds"] for total in totals])
            for key in ("bytes_up", "seconds")
        )
        cells = [
            each.field("name"),
            *(spread(each.best(metric)) for metric in metrics),
            f"{rounds:.0f}" if all_of_them else f"{len(reached)} of {len(found)} seeds",
            f"{rounds * sent / MIB:,.1f}" if all_of_them else "",
            f"{sent / MIB:,.2f}",
            f"{seconds:.3f}",
        ]
        rows.append((rounds, cells))
    named = chooser.replace("_", " ").replace("hr", "HR").replace("ndcg", "NDCG")
    header = [
        "strategy", *map(shown_title, metrics), "rounds to target", "MiB up to there",
        "MiB up a round", "seconds a round",
    ]  # fmt: skip
    return [
        f"The target is a {named} of {target:.4f}, {SHARE:.0%} of the best of `{REFERENCE}`. "
        "Rounds are means over the seeds.",
        "",
        grid(header, [cells for _, cells in sorted(rows, key=lambda row: row[0])]),
    ]


def shown(groups: Sequence[Group]) -> tuple[str, ...]:
    """Metrics of the test part that any of the runs has, in the order of their first run."""
    best = [run.summary["best"] for each in groups for run in each.runs]
    known = ("hr@10", "ndcg@10")
    wanted = (*known, *(BESIDE + name for name in known))
    return tuple(name for name in wanted if any(name in each for each in best))


def shown_title(metric: str) -> str:
    """HR@10, and HR@10 sampled for what was measured beside it."""
    name = metric.removeprefix(BESIDE)
    return title(name) + (" sampled" if name != metric else "")


def best_of(run: Run, metric: str) -> float:
    return float(np.nanmax(run.column(metric)))


def first_at(run: Run, metric: str, target: float) -> int | None:
    """The first measured round whose `metric` is at least `target`."""
    reached = np.flatnonzero(run.column(metric) >= target)
    return int(run.records[reached[0]]["round"]) if reached.size else None
