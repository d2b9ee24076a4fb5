"""Tables of finished runs: seeds as mean +- sample standard deviation, and results with targets.

Every metric is the TEST value at the round that was best on validation (`best` in `summary.json`),
never the best test round.
"""

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml
from rich.table import Table

from fedjax_rec.experiment.reading import (
    FIELDS,
    RANKING,
    Group,
    Run,
    find_runs,
    group,
    number,
    read_run,
)
from fedjax_rec.experiment.targets import Target, read_targets

__all__ = [
    "Group", "Run", "find_runs", "group", "markdown", "read_run", "results", "table", "title",
    "write_report", "write_text",
]  # fmt: skip

MIB = 2**20


def table(runs: Sequence[Run], metrics: Sequence[str] = RANKING) -> Table:
    """One row per run for the terminal: test metrics at the best validation round."""
    shown = _union(run.names(metrics) for run in runs)
    grid = Table(title="test metrics at the best validation round", title_style="dim")
    grid.add_column("run")
    for name in ("seed", "rounds", "best round", *map(title, shown), "MiB up", "seconds"):
        grid.add_column(name, justify="right")
    for run in runs:
        totals, best = run.summary["totals"], run.summary["best"]
        grid.add_row(
            str(run.summary["name"]),
            *(str(value) for value in (run.summary["seed"], totals["rounds"], best["round"])),
            *(_spread([number(best.get(metric))]) for metric in shown),
            *(f"{value:,.1f}" for value in (totals["bytes_up"] / MIB, totals["seconds"])),
        )
    return grid


def markdown(groups: Sequence[Group], metrics: Sequence[str] = RANKING) -> str:
    """A markdown table, one row per group; notes below it name the runs left out as repeats."""
    shown = _shown(groups, metrics)
    return _grid(_header(shown), [_row(each, shown) for each in groups]) + _repeats(groups)


def write_report(folders: Iterable[Path | str], out: Path | str) -> list[Path]:
    """Write `report.md` and its figures for all finished runs under the folders.

    Runs on different data or under different evaluations share no axes: each such set has its own
    section, with learning curves and quality against uplink bytes: as they grow, and of one client
    in a round where settings differ in it.

    Returns:
        The files written, `report.md` first.
    """
    # They import this module, and matplotlib is slow.
    from fedjax_rec.experiment import figures, tradeoff

    out, groups = Path(out), group(find_runs(folders))
    sets: dict[tuple[str, str], list[Group]] = {}
    for each in groups:
        sets.setdefault((each.field("data"), each.field("evaluation")), []).append(each)
    drawn, text = [], ["# Runs", "", *_provenance(groups)]
    for place, ((data, evaluation), members) in enumerate(sets.items(), start=1):
        runs = [run for each in members for run in each.runs]
        text += [f"## {data}, {evaluation}", "", markdown(members)]
        pictures = [("learning_curve", figures.learning_curve)]
        if any(run.summary["totals"]["bytes_up"] for run in runs):
            pictures.append(("quality_bytes", figures.quality_against_bytes))
        if len({round(each.runs[0].bytes_per_client(), -1) for each in members}) > 2:
            pictures.append(("tradeoff", tradeoff.tradeoff))
        for name, draw in pictures:
            path = out / "figures" / (f"{name}_{place}.png" if len(sets) > 1 else f"{name}.png")
            drawn.append(figures.save(draw(runs), path))
            text += [f"![{name.replace('_', ' ')}]({path.relative_to(out).as_posix()})", ""]
    return [write_text(out / "report.md", "\n".join(text)), *drawn]


def results(
    folders: Iterable[Path | str], targets: Path | str | None, out: Path | str
) -> list[Path]:
    """Write the table of results against targets, with each row's settings, to the file `out`.

    Args:
        folders: finished runs are searched at and under them.
        targets: YAML file, see `targets.py`; None leaves out the columns of targets.
        out: the markdown file. A target without a run is listed as not run.

    Raises:
        ValueError: a target is malformed, or two match the same runs.
    """
    groups = group(find_runs(folders))
    wanted = [] if targets is None else read_targets(targets)
    shown = _union([_shown(groups, RANKING), *(target.goals for target in wanted)])
    header = [*_header(shown), *(["target", "source", "verdict"] if wanted else [])]
    rows = [
        [*_row(each, shown), *(_verdicts(each, wanted, targets) if wanted else [])]
        for each in groups
    ]
    for target in wanted:
        if not any(target.fits(each) for each in groups):
            match = {**dict.fromkeys(FIELDS, ""), **target.match}
            model = " / ".join(filter(None, (match[k] for k in ("model", "strategy", "name"))))
            known = [match["data"], model, match["negatives"], match["evaluation"]]
            blank = [""] * (len(_header(shown)) - len(known))
            rows.append([*known, *blank, _goals(target), target.source, "not run"])
    text = ["# Results", "", *_provenance(groups), _grid(header, rows) + _repeats(groups)]
    text += ["## Settings", ""]
    for place, each in enumerate(groups, start=1):
        setting = yaml.safe_dump(each.runs[0].setting(), sort_keys=False).rstrip()
        name = ", ".join(each.field(key) for key in ("name", "data", "negatives"))
        text += [f"<details><summary>Row {place}: {name}</summary>", ""]
        text += ["```yaml", setting, "```", "", "</details>", ""]
    return [write_text(Path(out), "\n".join(text))]


def title(metric: str) -> str:
    """A metric's name as papers print it: `hr@10` is HR@10, `recall@20` is Recall@20."""
    base, at, k = metric.partition("@")
    long = {"recall", "precision", "loss", "accuracy"}
    return (base.capitalize() if base in long else base.upper()) + at + k


def write_text(path: Path, text: str) -> Path:
    """Write a whole file or nothing: to a temporary name beside it, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def _shown(groups: Sequence[Group], metrics: Sequence[str]) -> tuple[str, ...]:
    return _union(run.names(metrics) for each in groups for run in each.runs)


def _header(metrics: Sequence[str]) -> list[str]:
    left = ["data", "model / strategy", "negatives", "evaluation", "rounds", "seeds"]
    right = ["best round", "KiB up per client and round", "MiB up", "seconds"]
    return [*left, *map(title, metrics), *right]


def _row(each: Group, metrics: Sequence[str]) -> list[str]:
    totals = [run.summary["totals"] for run in each.runs]
    rounds = sorted({total["rounds"] for total in totals})
    best = [str(run.summary["best"]["round"]) for run in each.runs]
    return [
        each.field("data"),
        f"{_short(each.field('model'))} / {_short(each.field('strategy'))}",
        each.field("negatives"),
        each.field("evaluation"),
        ", ".join(map(str, rounds)),
        ", ".join(str(run.summary["seed"]) for run in each.runs),
        *(_spread(each.best(metric)) for metric in metrics),
        ", ".join(best),
        f"{np.mean([run.bytes_per_client() for run in each.runs]) / 1024:,.1f}",
        f"{np.mean([total['bytes_up'] for total in totals]) / MIB:,.1f}",
        f"{np.mean([total['seconds'] for total in totals]):,.1f}",
    ]


def _spread(values: Sequence[float] | np.ndarray) -> str:
    values = np.asarray(values, np.float64)
    if np.isnan(values).any():
        return "n/a"
    deviation = f" ± {values.std(ddof=1):.4f}" if values.size > 1 else ""
    return f"{values.mean():.4f}{deviation}"


def _grid(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )


def _repeats(groups: Iterable[Group]) -> str:
    runs = [run for each in groups for run in each.repeats]
    return "".join(
        f"\n`{run.folder}` repeats seed {run.summary['seed']} and is left out.\n" for run in runs
    )


def _goals(target: Target) -> str:
    return "<br>".join(f"{title(metric)} {goal.text}" for metric, goal in target.goals.items())


def _verdicts(each: Group, wanted: Sequence[Target], path: Path | str | None) -> list[str]:
    """The cells target, source and verdict of one group."""
    mine = [place for place, target in enumerate(wanted, start=1) if target.fits(each)]
    if len(mine) > 1:
        raise ValueError(
            f"{path}: targets {mine[0]} and {mine[1]} both match {each.runs[0].folder}; "
            "narrow `match`."
        )
    if not mine:
        return ["none", "", ""]
    target = wanted[mine[0] - 1]
    verdicts = [f"{title(m)} {g.verdict(each.best(m))}" for m, g in target.goals.items()]
    return [_goals(target), target.source, "<br>".join(verdicts)]


def _short(name: str) -> str:
    return name.rsplit(".", maxsplit=1)[-1]


def _provenance(groups: Sequence[Group]) -> list[str]:
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
