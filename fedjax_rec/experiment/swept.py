"""The table of a sweep: a row for each run, by its point, and what its best round measured."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from ..evaluate.direction import lower_is_better
from ..report.reading import read_run
from ..storage import whole
from .grid import SEED, short
from .search import Told


@dataclass(frozen=True)
class Ended:
    """How a run of a sweep ended. status: "finished", or "diverged" or "failed" with its error."""

    point: Mapping[str, Any]
    out: Path
    status: str
    error: str = ""


def table(ended: Sequence[Ended]) -> pl.DataFrame:
    """One row a run: the values of its axes, `seed`, `status`, `validation` (what chose its best
    round, there), the test metrics of that round, `loss`, `rounds`, bytes, `seconds` and `folder`.

    Numbers of a run that did not finish are null.
    """
    rows = []
    for one in ended:
        row = {**{k: _plain(v) for k, v in one.point.items()}, "status": one.status}
        if one.status == "finished":
            run = read_run(one.out)
            best, totals = run.summary["best"], run.summary["totals"]
            chooser = run.summary["selected_by"]
            row |= {"validation": best[chooser], "best_round": best["round"]}
            row |= {k: best[k] for k in _test_metrics(best, chooser)}
            row |= {"loss": run.summary["final"]["loss"], "rounds": totals["rounds"]}
            row |= {key: totals[key] for key in ("bytes_up", "bytes_down", "seconds")}
        rows.append({**row, "folder": str(one.out), "error": one.error})
    return pl.DataFrame(rows, infer_schema_length=None)


def outcome(setting: Mapping[str, Any], ended: Sequence[Ended]) -> Told:
    """What a setting came to, of how its runs ended."""
    if any(one.status != "finished" for one in ended):
        return Told(setting, None, any(one.status == "diverged" for one in ended))
    summaries = [json.loads((one.out / "summary.json").read_text()) for one in ended]
    values = [one["best"][one["selected_by"]] for one in summaries]
    if any(value is None for value in values):
        return Told(setting, None)
    return Told(setting, sum(values) / len(values), metric=summaries[0]["selected_by"])


def of_settings(found: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    """Of each setting, over its seeds: `runs`, how many of them were `lost`, mean and standard
    deviation of `validation` and of the test metric that goes with it. The best validation comes
    first, of an error the lowest; settings of which a seed diverged or failed come last."""
    metric = found.columns[found.columns.index("best_round") + 1]
    numbers = [n for name in ("validation", metric) for n in _mean_and_std(name)]
    lost = (pl.col("status") != "finished").sum().alias("lost")
    by = found.group_by(axes, maintain_order=True).agg(pl.len().alias("runs"), lost, *numbers)
    falling = not lower_is_better(metric)
    return by.sort(["lost", "validation"], descending=[False, falling], nulls_last=True)


def _mean_and_std(name: str) -> tuple[pl.Expr, pl.Expr]:
    return pl.col(name).mean(), pl.col(name).std().alias(f"{name} std")


def settings_table(ended: Sequence[Ended]) -> Table:
    """The best twenty settings of a sweep, for people."""
    found = table(ended)
    axes = [key for key in ended[0].point if key != SEED] or [SEED]
    if "validation" not in found.columns:
        return Table(title="no run finished")
    best = of_settings(found, axes)
    *_, validation, _, metric, _ = best.columns
    shown = Table(*short(axes).values(), "runs", "lost", "validation", f"test {metric}")
    for row in best.head(20).iter_rows(named=True):
        numbers = (_told(row[name], row[f"{name} std"]) for name in (validation, metric))
        words = (str(row[key]) for key in (*axes, "runs", "lost"))
        shown.add_row(*words, *numbers)
    return shown


def _told(mean: float | None, std: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.4f}" if std is None else f"{mean:.4f} ± {std:.4f}"


def write_table(found: pl.DataFrame, out: Path) -> None:
    """`sweep.csv` and `sweep.parquet`, each whole or not at all."""
    with whole(out / "sweep.csv") as beside:
        found.write_csv(beside)
    with whole(out / "sweep.parquet") as beside:
        found.write_parquet(beside)


def _test_metrics(best: Mapping[str, Any], chooser: str) -> list[str]:
    """Names of the test metrics of a record, that which chooses the best round first."""
    first = chooser.removeprefix("validation_")
    others = {"round", "seconds", "clients", "rejected_clients", "loss", first}
    if first != chooser:
        found = [name for name in best if f"validation_{name}" in best]
    else:
        about_rounds = ("bytes_", "rejected", "upload_norm_", "detection_")
        found = [name for name in best if not name.startswith(about_rounds)]
    return [first, *(name for name in found if name not in others)]


def _plain(value: Any) -> Any:
    """A value of an axis as a column holds it: numbers and words, others as text."""
    if isinstance(value, bool | int | float | str) or value is None:
        return None if isinstance(value, float) and math.isnan(value) else value
    return str(value)
