"""How many rounds each strategy needs for what federated averaging reaches.

    target = 80% or 95% of the best validation metric of the runs called `fedavg`, mean over seeds
    rounds = the first measured round whose validation metric is at least the target

as in table 2 of McMahan et al., AISTATS 2017, on the validation part, which chooses the best round.
"""

from collections.abc import Sequence

import numpy as np

from fedjax_rec.report.reading import Group, Run
from fedjax_rec.report.references import Line, share, share_of_line
from fedjax_rec.report.tables import MIB, grid, spread, title

REFERENCE, SHARES = "fedavg", (0.8, 0.95)
BESIDE = "sampled_"


def has_reference(groups: Sequence[Group]) -> bool:
    return any(each.field("name") == REFERENCE for each in groups)


def convergence(
    groups: Sequence[Group], lines: Sequence[Line] = (), among: Sequence[Group] = ()
) -> list[str]:
    """Markdown lines: a row per group, those of fewest rounds first; `groups` share data and
    evaluation, and one of them is called `fedavg`. Above them, and with the share that each row
    keeps of them, the lines of reference, of runs `among` others."""
    reference = next(each for each in groups if each.field("name") == REFERENCE)
    chooser = reference.runs[0].summary["selected_by"]
    most = float(np.mean([best_of(run, chooser) for run in reference.runs]))
    metrics = shown(groups)
    rows = []
    for each in groups:
        rounds = [rounds_to(each.runs, chooser, part * most) for part in SHARES]
        totals = [run.summary["totals"] for run in each.runs]
        *bytes_, seconds = (
            np.mean([total[key] / total["rounds"] for total in totals])
            for key in ("bytes_up", "bytes_down", "seconds")
        )
        last = rounds[-1][0]
        cells = [
            each.field("name"),
            *(spread(each.best(metric)) for metric in metrics),
            *([share(each, among)] if lines else []),
            *(text for _, text in rounds),
            *(f"{last * sent / MIB:,.1f}" if np.isfinite(last) else "" for sent in bytes_),
            *(f"{sent / MIB:,.2f}" for sent in bytes_),
            f"{seconds:.3f}",
        ]
        rows.append(([number for number, _ in reversed(rounds)], cells))
    named = chooser.replace("_", " ").replace("hr", "HR").replace("ndcg", "NDCG")
    header = [
        "strategy", *map(shown_title, metrics), *(["share"] if lines else []),
        *(f"rounds to {part:.0%}" for part in SHARES),
        *(f"MiB {way} to {SHARES[-1]:.0%}" for way in ("up", "down")),
        *(f"MiB {way} a round" for way in ("up", "down")), "seconds a round",
    ]  # fmt: skip
    targets = ", ".join(f"{part:.0%} are {part * most:.4f}" for part in SHARES)
    above = [
        [line.group.field("name"), *(spread(line.best(metric)) for metric in metrics),
         share_of_line(line, lines), *[""] * (len(SHARES) + 5)]
        for line in lines
    ]  # fmt: skip
    return [
        f"Shares are of the best {named} of `{REFERENCE}`: {targets}. Rounds are means over the "
        "seeds.",
        "",
        grid(header, [*above, *(cells for _, cells in sorted(rows, key=lambda row: row[0]))]),
    ]


def rounds_to(runs: Sequence[Run], metric: str, target: float) -> tuple[float, str]:
    """(mean rounds to the target, as text); infinite where not all runs reach it."""
    found = [first_at(run, metric, target) for run in runs]
    reached = [place for place in found if place is not None]
    if len(reached) < len(found):
        return np.inf, f"{len(reached)} of {len(found)} seeds"
    mean = float(np.mean(reached))
    return mean, f"{mean:.0f}"


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
