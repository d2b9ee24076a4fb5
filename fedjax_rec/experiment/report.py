"""Tables of finished runs: read run folders, group seeds, compare with targets.

Runs whose `config.yaml` differs only in `seed` (and in `out`, `name`) form one group, shown as the
mean +- the sample standard deviation over its seeds. Every metric is the TEST value at the round
that was best on validation (`best` in `summary.json`), never the best test round.
"""

import json
import math
import os
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.table import Table

LABELS = ("seed", "out", "name", "config")  # keys of a configuration that change no result
RANKING = ("hr@10", "ndcg@10")
MATCHABLE = ("data", "model", "strategy", "negatives", "evaluation", "name")
MIB = 2**20


@dataclass(frozen=True)
class PerUser:
    """Test metrics of each user at the best validation round."""

    values: np.ndarray  # float32[U, M], NaN: nothing held out
    metrics: tuple[str, ...]  # M names
    activity: np.ndarray  # int[U], training interactions
    users: np.ndarray  # int[U]


@dataclass(frozen=True)
class Run:
    """A finished run folder. Plain metric names are test metrics."""

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]  # metrics.jsonl, rounds ascending
    summary: dict[str, Any]
    per_user: PerUser | None

    def column(self, key: str) -> np.ndarray:
        """One value per evaluated round, float64[R]; NaN where a record lacks the key."""
        return np.array([_number(record.get(key)) for record in self.records])

    @property
    def selected(self) -> str:
        """The metric that chose the best round, without `validation_`."""
        return self.summary["selected_by"].removeprefix("validation_")

    def names(self, metrics: Sequence[str] = RANKING) -> tuple[str, ...]:
        """Those of metrics that this run has, or the metric that chose its best round."""
        return tuple(m for m in metrics if m in self.summary["best"]) or (self.selected,)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, ascending."""

    runs: tuple[Run, ...]
    repeats: tuple[Run, ...] = ()  # the same configuration and seed once more; in no mean

    def field(self, key: str) -> str:
        """`data`, `model`, `strategy`, `negatives`, `evaluation` or `name`, as text."""
        value = self.runs[0].summary[key]
        return str(value["name"] if key == "data" else value)

    def best(self, metric: str) -> np.ndarray:
        """float64[seeds], the test value at the best validation round; NaN if not measured."""
        return np.array([_number(run.summary["best"].get(metric)) for run in self.runs])


def read_run(folder: Path | str) -> Run:
    """Read one run folder.

    Raises:
        ValueError: the folder or a file is missing, a line is no record (with its line number),
            or the run did not finish.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"read_run(folder={str(folder)!r}) does not exist; name a run folder.")
    records = _records(folder / "metrics.jsonl")
    if not (folder / "summary.json").exists():
        raise ValueError(
            f"{folder} is unfinished: no summary.json after round {records[-1]['round']}; "
            "resume the run or leave it out."
        )
    summary = _parsed(folder / "summary.json", json.loads)
    for key in ("name", "seed", "best", "selected_by", "totals", *MATCHABLE):
        if key not in summary:
            raise ValueError(f"{folder / 'summary.json'} lacks {key!r}; run it again.")
    if summary["best"].get("round") not in [record["round"] for record in records]:
        raise ValueError(
            f"{folder / 'summary.json'} names best round {summary['best'].get('round')}, which "
            "metrics.jsonl lacks; the files are of two runs: run it again."
        )
    config = _parsed(folder / "config.yaml", yaml.safe_load)
    return Run(folder, config, records, summary, _per_user(folder / "per_user.npz"))


def find_runs(folders: Iterable[Path | str]) -> list[Run]:
    """Every finished run (a folder with `summary.json`) at or under the folders, in path order.

    Raises:
        ValueError: a folder does not exist or holds no finished run.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"report: folder {str(folder)!r} does not exist; name a run folder.")
        here = sorted(path.parent for path in folder.rglob("summary.json"))
        if not here:
            raise ValueError(f"report: no summary.json under {folder}; finish a run there first.")
        for path in here:
            if path.resolve() not in found:
                found[path.resolve()] = read_run(path)
    return list(found.values())


def group(runs: Iterable[Run]) -> list[Group]:
    """Group runs that differ only in `seed`; ordered by data, evaluation, negatives and model."""
    kept: dict[str, dict[int, Run]] = {}
    repeats: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps(_setting(run.config), sort_keys=True, default=str)
        if kept.setdefault(key, {}).setdefault(run.summary["seed"], run) is not run:
            repeats.setdefault(key, []).append(run)
    groups = [
        Group(tuple(run for _, run in sorted(seeds.items())), tuple(repeats.get(key, ())))
        for key, seeds in kept.items()
    ]
    order = ("data", "evaluation", "negatives", "model", "strategy", "name")
    return sorted(groups, key=lambda g: [g.field(key) for key in order])


def table(runs: Sequence[Run], metrics: Sequence[str] = RANKING) -> Table:
    """One row per run for the terminal: test metrics at the best validation round."""
    shown = _union(run.names(metrics) for run in runs)
    grid = Table("run", title="test metrics at the best validation round", title_style="dim")
    for name in ("seed", "rounds", "best round", *map(title, shown), "MiB up", "seconds"):
        grid.add_column(name, justify="right")
    for run in runs:
        totals, best = run.summary["totals"], run.summary["best"]
        values = [spread(np.array([_number(best.get(metric))])) for metric in shown]
        left = [run.summary["name"], run.summary["seed"], totals["rounds"], best["round"]]
        right = [f"{totals['bytes_up'] / MIB:,.1f}", f"{totals['seconds']:,.1f}"]
        grid.add_row(*map(str, left), *values, *right)
    return grid


def markdown(groups: Sequence[Group], metrics: Sequence[str] = RANKING) -> str:
    """A markdown table, one row per group; notes below it name the runs left out as repeats."""
    shown = _union(run.names(metrics) for each in groups for run in each.runs)
    text = _grid(_header(shown), [_row(each, shown) for each in groups])
    repeats = [run for each in groups for run in each.repeats]
    notes = [f"`{run.folder}` repeats seed {run.summary['seed']}; left out.\n" for run in repeats]
    return "\n".join([text, *notes])


def write_report(folders: Iterable[Path | str], out: Path | str) -> list[Path]:
    """Write `report.md` and its figures for all finished runs under the folders.

    Runs on different data or under different evaluations share no axes: each such set has its own
    section, with learning curves and quality against uplink bytes.

    Returns:
        The files written, `report.md` first.
    """
    from fedjax_rec.experiment import figures  # drawing is slow to import and needs this module

    out, groups = Path(out), group(find_runs(folders))
    sets: dict[tuple[str, str], list[Group]] = {}
    for each in groups:
        sets.setdefault((each.field("data"), each.field("evaluation")), []).append(each)
    drawn, text = [], ["# Runs", "", *provenance(groups)]
    for number, ((data, evaluation), members) in enumerate(sets.items(), start=1):
        runs = [run for each in members for run in each.runs]
        text += [f"## {data}, {evaluation}", "", markdown(members)]
        for name, figure in (
            ("learning_curve", figures.learning_curve(runs)),
            ("quality_bytes", figures.quality_against_bytes(runs)),
        ):
            path = out / "figures" / (f"{name}_{number}.png" if len(sets) > 1 else f"{name}.png")
            drawn.append(figures.save(figure, path))
            text += [f"![{name.replace('_', ' ')}]({path.relative_to(out)})", ""]
    return [write_text(out / "report.md", "\n".join(text)), *drawn]


def results(folders: Iterable[Path | str], targets: Path | str | None, out: Path | str) -> Path:
    """Write the table of results against targets, with each row's settings, to the file `out`.

    Args:
        folders: finished runs are searched at and under them.
        targets: YAML list of `{match: {data, model, ...}, hr@10: [value, tolerance], source}`; a
            goal may also be `{at_least: value}` or `{at_most: value}`. None: no target columns.
        out: the markdown file. A target without a run is listed as not run.

    Raises:
        ValueError: a target is malformed, or two match the same runs.
    """
    groups = group(find_runs(folders))
    wanted = [] if targets is None else _targets(Path(targets))
    goals = _union([m for m in t if m not in ("match", "source")] for t in wanted)
    shown = _union([*(run.names() for each in groups for run in each.runs), goals])
    header = [*_header(shown), *(["target", "source", "verdict"] if wanted else [])]
    rows, met = [], set()
    for each in groups:
        mine = [n for n, target in enumerate(wanted) if _matches(each, target["match"])]
        if len(mine) > 1:
            raise ValueError(
                f"{targets}: targets {mine[0] + 1} and {mine[1] + 1} both match "
                f"{each.runs[0].folder}; make `match` narrower."
            )
        met.update(mine)
        asked = [(metric, wanted[n][metric]) for n in mine for metric in shown if metric in wanted[n]]
        verdicts = [_verdict(metric, goal, each.best(metric)) for metric, goal in asked]
        goal_cells = [
            "<br>".join(f"{title(metric)} {_goal(goal)}" for metric, goal in asked) or "none",
            "".join(str(wanted[n].get("source", "")) for n in mine),
            "<br>".join(verdicts),
        ]
        rows.append([*_row(each, shown), *(goal_cells if wanted else [])])
    for target in (target for n, target in enumerate(wanted) if n not in met):
        where = ", ".join(map(str, target["match"].values()))
        asked = [f"{title(metric)} {_goal(target[metric])}" for metric in shown if metric in target]
        blank = [""] * (len(header) - 4)
        rows.append([where, *blank, "<br>".join(asked), target.get("source", ""), "not run"])
    text = ["# Results", "", *provenance(groups), _grid(header, rows), "## Settings", ""]
    for number, each in enumerate(groups, start=1):
        setting = yaml.safe_dump(_setting(each.runs[0].config), sort_keys=False).rstrip()
        name = f"Row {number}: {each.field('name')}, {each.field('negatives')}"
        text += [f"<details><summary>{name}</summary>", "", "```yaml", setting, "```", "</details>", ""]
    return write_text(Path(out), "\n".join(text))
