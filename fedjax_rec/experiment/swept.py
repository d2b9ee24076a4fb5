"""The table of a sweep: a row for each run, by its point, and what its best round measured."""

from __future__ import annotations

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
from . import rung
from .grid import SEED, short
from .search import Told

KEPT = ("finished", "stopped")  # of these runs there are numbers
AFTER = "stopped_after"


@dataclass(frozen=True)
class Ended:
    """How a run of a sweep ended. status: "finished"; "stopped" at a rung, see `halving`; or
    "diverged" or "failed" with its error."""

    point: Mapping[str, Any]
    out: Path
    status: str
    error: str = ""


def table(ended: Sequence[Ended]) -> pl.DataFrame:
    """One row a run: the values of its axes, `seed`, `status`, `validation` (what chose its best
    round, there), the test metrics of that round, `loss`, `rounds`, bytes, `seconds` and `folder`.

    Numbers of a run that was stopped at a rung are of the rounds up to there, `rounds` of them; of
    one that diverged or failed they are null.
    """
    rows = []
    for one in ended:
        row = {**{k: _plain(v) for k, v in one.point.items()}, "status": one.status}
        if one.status in KEPT:
            summary = _summary(one)
            best, totals = summary["best"], summary["totals"]
            chooser = summary["selected_by"]
            row |= {"validation": best[chooser], "best_round": best["round"]}
            row |= {k: best[k] for k in _test_metrics(best, chooser)}
            row |= {"loss": summary["final"]["loss"], "rounds": totals["rounds"]}
            row |= {key: totals[key] for key in ("bytes_up", "bytes_down", "seconds")}
        rows.append({**row, "folder": str(one.out), "error": one.error})
    return pl.DataFrame(rows, infer_schema_length=None)


def outcome(setting: Mapping[str, Any], ended: Sequence[Ended]) -> Told:
    """What a setting came to, of how its runs ended."""
    if any(one.status not in KEPT for one in ended):
        return Told(setting, None, any(one.status == "diverged" for one in ended))
    summaries = [_summary(one) for one in ended]
    value, metric = rung.mean_of(summaries), summaries[0]["selected_by"]
    trained = [s["totals"]["rounds"] for s in summaries]
    stopped = any(one.status == "stopped" for one in ended)
    return Told(setting, value, metric=metric, rounds=min(trained) if stopped else None)


def at_rung(settings: Sequence[Sequence[Ended]], rounds: int) -> tuple[list[float | None], bool]:
    """What settings came to up to a rung, whatever their runs did after it: the mean over these,
    None where one of them did not come so far; and whether the lowest is the best."""
    values: list[float | None] = []
    lowest = False
    for ended in settings:
        here = (e.status == "finished" or rung.reached(e.out) >= rounds for e in ended)
        summaries = [rung.summary_at(e.out, rounds) for e in ended] if all(here) else []
        values.append(rung.mean_of(summaries) if summaries else None)
        lowest = lowest or any(lower_is_better(one["selected_by"]) for one in summaries)
    return values, lowest


def _summary(one: Ended) -> Mapping[str, Any]:
    if one.status == "stopped":
        return rung.summary_at(one.out)
    return read_run(one.out).summary


def of_settings(found: pl.DataFrame, axes: Sequence[str]) -> pl.DataFrame:
    """Of each setting, over its seeds: `runs`, how many of them were `lost`, mean and standard
    deviation of `validation` and of the test metric that goes with it; and where a rung stopped
    some, `stopped_after` how many rounds, null of the others.

    The best validation comes first, of an error the lowest. Settings that were stopped come after
    those that were not, and first those that went further; settings of which a seed diverged or
    failed come last."""
    metric = found.columns[found.columns.index("best_round") + 1]
    numbers = [n for name in ("validation", metric) for n in _mean_and_std(name)]
    lost = (~pl.col("status").is_in(KEPT)).sum().alias("lost")
    falls = {"lost": False, AFTER: True, "validation": not lower_is_better(metric)}
    stopped = [pl.col("rounds").filter(pl.col("status") == "stopped").max().alias(AFTER)]
    if not (found["status"] == "stopped").any():
        del stopped[:], falls[AFTER]
    by = found.group_by(axes, maintain_order=True)
    by = by.agg(pl.len().alias("runs"), lost, *stopped, *numbers)
    ends = [key != AFTER for key in falls]
    return by.sort(list(falls), descending=list(falls.values()), nulls_last=ends)


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
    counted = ["runs", "lost", *([AFTER] if AFTER in best.columns else [])]
    shown = Table(*short(axes).values(), *counted, "validation", f"test {metric}")
    for row in best.head(20).iter_rows(named=True):
        numbers = (_told(row[name], row[f"{name} std"]) for name in (validation, metric))
        words = ("" if row[key] is None else str(row[key]) for key in (*axes, *counted))
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
