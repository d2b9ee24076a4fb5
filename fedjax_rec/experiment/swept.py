"""The table of a sweep: a row for each run, by its point, and what its best round measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ..report.reading import read_run
from ..storage import whole
from .grid import SEED


@dataclass(frozen=True)
class Ended:
    """How a run of a sweep ended. status: "finished" or "diverged", with its error."""

    point: Mapping[str, Any]
    out: Path
    status: str
    error: str = ""


def table(ended: Sequence[Ended]) -> pl.DataFrame:
    """One row a run: the values of its axes, `seed`, `status`, `validation` (what chose its best
    round, there), the test metrics of that round, `loss`, `rounds`, bytes, `seconds` and `folder`.

    Numbers of a run that diverged are null.
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


def of_settings(found: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    """Mean and spread of `validation` and of the first test metric over the seeds of each setting,
    the best validation first; settings of which a seed diverged come last."""
    axes = [key for key in axes if key != SEED]
    if "validation" not in found.columns:
        return found
    metric = found.columns[found.columns.index("best_round") + 1]
    means = [pl.col(name).mean() for name in ("validation", metric)]
    spread = [pl.col(name).std().alias(f"{name}_std") for name in ("validation", metric)]
    lost = (pl.col("status") != "finished").sum().alias("diverged")
    grouped = found.group_by(axes, maintain_order=True) if axes else found.group_by(pl.lit("all"))
    by = grouped.agg(pl.len().alias("runs"), lost, means[0], spread[0], means[1], spread[1])
    return by.sort(["diverged", "validation"], descending=[False, True], nulls_last=True)


def write_table(found: pl.DataFrame, out: Path) -> None:
    """`sweep.csv` and `sweep.parquet`, each whole or not at all."""
    with whole(out / "sweep.csv") as beside:
        found.write_csv(beside)
    with whole(out / "sweep.parquet") as beside:
        found.write_parquet(beside)


def _test_metrics(best: Mapping[str, Any], chooser: str) -> list[str]:
    """Names of the test metrics of a record, that which chooses the best round first."""
    first = chooser.removeprefix("validation_")
    others = {"round", "seconds", "clients", "rejected", "rejected_clients", "loss", first}
    if first != chooser:
        found = [name for name in best if f"validation_{name}" in best]
    else:
        found = [name for name in best if not name.startswith("bytes_")]
    return [first, *(name for name in found if name not in others)]


def _plain(value: Any) -> Any:
    """A value of an axis as a column holds it: numbers and words, others as text."""
    if isinstance(value, bool | int | float | str) or value is None:
        return None if isinstance(value, float) and math.isnan(value) else value
    return str(value)
