"""Tables of finished runs: seeds as mean +- sample standard deviation.

Every metric is the TEST value at the round that was best on validation (`best` in `summary.json`),
never the best test round.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from rich.console import Group as Stacked
from rich.table import Table

from fedjax_rec.check import nearest
from fedjax_rec.evaluate.direction import GAP, lower_is_better
from fedjax_rec.report.latex import tabular
from fedjax_rec.report.reading import (
    KIB_DOWN,
    KIB_UP,
    RANKING,
    Group,
    Run,
    find_runs,
    group,
    said_of_unfinished,
)
from fedjax_rec.report.served import ABOUT, served
from fedjax_rec.report.settings import data_names, differing, names
from fedjax_rec.storage import whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIB = 2**20


def tables(runs: Sequence[Run], sort: str | None = None) -> Stacked:
    """Tables for the terminal, one a data set and way of measuring: no column holds two of them.
    sort: a metric, by which their rows stand, the best first."""
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        about = str(run.summary["data"]["name"]), str(run.summary["evaluation"])
        alike.setdefault(about, []).append(run)
    told = lambda about: f", {', '.join(about)}" if len(alike) > 1 else ""
    return Stacked(*(table(some, where=told(about), sort=sort) for about, some in alike.items()))


def table(
    runs: Sequence[Run],
    metrics: Sequence[str] = RANKING,
    where: str = "",
    sort: str | None = None,
) -> Table:
    """For the terminal, one row for runs that differ in their seeds alone: test metrics at the best
    validation round, and the settings that rows differ in."""
    groups = by_metric(group(runs), sort)
    shown, apart = shown_metrics(groups, metrics), differing(groups)
    told = f"test metrics at the best validation round{where}"
    left = sum(len(each.repeats) for each in groups)
    page = Table(title=told, title_style="dim", padding=(0, 1, 0, 0))
    page.caption = f"{left} runs repeat others and are left out" if left else None
    page.add_column("run", overflow="fold")
    for name in apart:
        page.add_column(name, overflow="fold")
    bytes_ = ("MiB up", "MiB down")
    seeds = "seeds" if any(len(each.runs) > 1 for each in groups) else "seed"
    for name in (seeds, "rounds", "best round", *map(title, shown), *bytes_, "seconds"):
        page.add_column(name, justify="right", overflow="fold")
    for place, each in enumerate(groups):
        totals = [run.summary["totals"] for run in each.runs]
        every = lambda values: ", ".join(dict.fromkeys(map(str, values)))
        mean = lambda key, totals=totals: float(np.mean([total[key] for total in totals]))
        page.add_row(
            _bare(each.field("name"), bool(apart)),
            *(values[place] for values in apart.values()),
            every(run.summary["seed"] for run in each.runs),
            every(total["rounds"] for total in totals),
            every(run.summary["best"]["round"] for run in each.runs),
            *(spread(each.best(metric)) for metric in shown),
            *(f"{mean(key) / MIB:,.1f}" for key in ("bytes_up", "bytes_down")),
            f"{mean('seconds'):,.1f}",
        )
    return page


def _bare(name: str, told: bool) -> str:
    """A run's name without the settings that a sweep adds to it, where columns tell them."""
    return re.sub(r"(,[\w.@]+=[^,]*)+$", "", name) if told else name


def by_metric(groups: Sequence[Group], metric: str | None) -> list[Group]:
    """Groups by their mean test value of `metric`, the best first, what did not measure it last;
    in their order for None.

    Raises:
        ValueError: none of them measured it.
    """
    if metric is None:
        return list(groups)
    means = {id(each): float(np.mean(each.best(metric))) for each in groups}
    if all(np.isnan(value) for value in means.values()):
        known = _union(run.names() for each in groups for run in each.runs)
        raise ValueError(f"--sort {metric}: no run measured it{nearest(metric, known)}.")
    sign = 1.0 if lower_is_better(metric) else -1.0
    last = lambda each: np.inf if np.isnan(means[id(each)]) else sign * means[id(each)]
    return sorted(groups, key=last)


def markdown(groups: Sequence[Group], metrics: Sequence[str] = RANKING) -> str:
    """A markdown table, one row per group, with the settings that they differ in behind their
    names; notes below it name the runs left out as repeats."""
    return grid(*columns_and_rows(groups, metrics)) + repeats(groups)


def columns_and_rows(
    groups: Sequence[Group], metrics: Sequence[str] = RANKING
) -> tuple[list[str], list[list[str]]]:
    """(titles, cells of each group): the run, the settings that groups differ in, and the rest."""
    shown, called = shown_metrics(groups, metrics), names(groups)
    apart = {k: values for k, values in differing(groups).items() if k not in header(shown)}
    rows = []
    for place, each in enumerate(groups):
        first, *rest = row(each, shown, called[id(each)])
        rows.append([first, *(values[place] for values in apart.values()), *rest])
    first, *rest = header(shown)
    return [first, *apart, *rest], rows


def write_report(
    folders: Iterable[Path | str], out: Path | str, sort: str | None = None
) -> list[Path]:
    """Write `report.md`, its tables as `tables.csv` and `tables.tex`, and its figures, for all
    finished runs under the folders. sort: a metric, by which rows stand, the best first.

    Runs on different data or under different evaluations share no axes: each such set has its own
    section, with learning curves and quality against uplink bytes: as they grow, and of one client
    in a round where settings differ in it.

    Returns:
        The files written, `report.md` first.
    """
    from fedjax_rec.report import figures  # imports this module, and matplotlib is slow

    folders = list(folders)
    out, groups = Path(out), by_metric(group(find_runs(folders)), sort)
    sets = sets_of(groups)
    drawn, cells, latex = [], [], []
    text = ["# Runs", "", *provenance(groups), *left_out(folders)]
    for place, ((data, evaluation), members) in enumerate(sets.items(), start=1):
        text += [f"## {data}, {evaluation}", "", markdown(members)]
        told = served(members)
        text += ["Who is served. " + ABOUT, "", grid(*told)] if told[1] else []
        titles, lines = columns_and_rows(members)
        cells += [dict(zip(titles, line, strict=True)) for line in lines]
        latex += [f"% {data}, {evaluation}", tabular(titles, lines)]
        for name, draw in pictures_of(members).items():
            path = out / "figures" / (f"{name}_{place}.png" if len(sets) > 1 else f"{name}.png")
            drawn.append(figures.save(draw(), path))
            text += [f"![{name.replace('_', ' ')}]({path.relative_to(out).as_posix()})", ""]
    page = write_text(out / "report.md", "\n".join(text))
    table = pl.from_dicts(cells, infer_schema_length=None).write_csv()
    beside = [
        write_text(out / "tables.csv", table),
        write_text(out / "tables.tex", "\n".join(latex)),
    ]
    return [page, *beside, *drawn]


def pictures_of(groups: Sequence[Group]) -> dict[str, Callable[[], Figure]]:
    """Name -> what draws it, of the figures that `groups`, one of `sets_of`, have something for."""
    from fedjax_rec.report import figures, tradeoff  # they import this module

    runs = [run for each in groups for run in each.runs]
    found = {"learning_curve": partial(figures.learning_curve, runs)}
    if any(run.summary["totals"]["bytes_up"] for run in runs):
        found["quality_bytes"] = partial(figures.quality_against_bytes, runs)
    if sizes(groups) > 2:
        found["tradeoff"] = partial(tradeoff.tradeoff, runs)
    return found


def sets_of(groups: Iterable[Group]) -> dict[tuple[str, str], list[Group]]:
    """(data, evaluation) -> the groups that share them, and so may share axes. Data of one name
    that are split or filtered otherwise have what differs behind their name."""
    groups = list(groups)
    called = data_names(groups)
    sets: dict[tuple[str, str], list[Group]] = {}
    for each in groups:
        sets.setdefault((called[id(each)], each.field("evaluation")), []).append(each)
    return sets


def sizes(groups: Iterable[Group]) -> int:
    """How many different uploads of a client there are among the groups."""
    return len({round(each.runs[0].bytes_per_client(), -1) for each in groups})


def title(metric: str) -> str:
    """A metric's name as papers print it: `hr@10` is HR@10, `recall@20` is Recall@20."""
    if metric in (KIB_UP, KIB_DOWN):
        return metric.replace("kib_", "KiB ")
    if metric.startswith(GAP):
        attribute, _, measured = metric.removeprefix(GAP).partition(":")
        return f"gap by {attribute}, {title(measured)}"
    base, at, k = metric.partition("@")
    long = {"recall", "precision", "loss", "accuracy"}
    return (base.capitalize() if base in long else base.upper()) + at + k


def write_text(path: Path, text: str) -> Path:
    """Write a whole file or nothing."""
    with whole(path) as beside:
        beside.write_text(text.rstrip() + "\n", encoding="utf-8")
    return path


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def shown_metrics(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[str, ...]:
    return _union(run.names(metrics) for each in groups for run in each.runs)


def header(metrics: Sequence[str]) -> list[str]:
    left = ["run", "data", "model / strategy", "negatives", "evaluation", "rounds", "seeds"]
    each = [f"KiB {way} per client and round" for way in ("up", "down")]
    return [*left, *map(title, metrics), "best round", *each, "MiB up", "MiB down", "seconds"]


def row(each: Group, metrics: Sequence[str], name: str | None = None) -> list[str]:
    """name: what it is called among others, see `settings.names`."""
    totals = [run.summary["totals"] for run in each.runs]
    rounds = sorted({total["rounds"] for total in totals})
    best = [str(run.summary["best"]["round"]) for run in each.runs]
    return [
        name or each.field("name"),
        each.field("data"),
        f"{last_part(each.field('model'))} / {last_part(each.field('strategy'))}",
        each.field("negatives"),
        each.field("evaluation"),
        ", ".join(map(str, rounds)),
        ", ".join(str(run.summary["seed"]) for run in each.runs),
        *(spread(each.best(metric)) for metric in metrics),
        ", ".join(best),
        *(f"{each.best(key).mean():,.1f}" for key in (KIB_UP, KIB_DOWN)),
        *(
            f"{np.mean([total[key] for total in totals]) / MIB:,.1f}"
            for key in ("bytes_up", "bytes_down")
        ),
        f"{np.mean([total['seconds'] for total in totals]):,.1f}",
    ]


def spread(values: Sequence[float] | np.ndarray) -> str:
    """Mean ± sample standard deviation; n/a where a value is missing."""
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return "n/a"
    deviation = f" ± {values.std(ddof=1):.4f}" if values.size > 1 else ""
    return f"{values.mean():.4f}{deviation}"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def repeats(groups: Iterable[Group]) -> str:
    runs = [run for each in groups for run in each.repeats]
    return "".join(
        f"\n`{run.folder}` repeats seed {run.summary['seed']} and is left out.\n" for run in runs
    )


def left_out(folders: Iterable[Path | str]) -> list[str]:
    """Lines that name the unfinished runs; ends with an empty one, where there are some."""
    lines = said_of_unfinished(folders, "`{}`")
    return [*lines, ""] if lines else []


def last_part(name: str) -> str:
    return name.rsplit(".", maxsplit=1)[-1]


def provenance(groups: Sequence[Group]) -> list[str]:
    """What wrote the page, and what the runs were made with; ends with an empty line."""
    runs = [run for each in groups for run in each.runs]
    made: dict[str, list[str]] = {}
    for run in runs:
        for key, value in (run.summary.get("versions") or {}).items():
            made.setdefault(key, []).append(str(value))
        made.setdefault("device", []).append(str(run.summary.get("device", "unknown")))
    with_ = "; ".join(f"{key} {', '.join(sorted(set(values)))}" for key, values in made.items())
    return [
        f"Written by `fedjax-rec report` at commit {_commit()} from {len(runs)} run folders; "
        "do not edit by hand.",
        f"The runs were made with: {with_}.",
        "Metrics are test values at the best validation round, mean ± sample standard deviation "
        "over the seeds; bytes and seconds are means over the seeds.",
        "",
    ]


def _commit() -> str:
    """Commit of the checkout this package runs from, `-dirty` if changed; unknown if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
