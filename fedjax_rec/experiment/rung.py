"""That a run was stopped at a rung of its sweep, see `halving`: `rung.json` of its folder.

    {"round": 36, "selected_by": "validation_hr@10"}

It is written once the checkpoint of that round is, so a run that goes on finds it there; a folder
with it and without `summary.json` holds no finished run. It stays as it is while the run goes on,
up to the next rung or the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..report.reading import RUNG, best_record, records_of, totals_of
from ..storage import whole


def write(folder: Path, round: int, chooser: str) -> None:
    """Says that the run was stopped after a round, and is not finished, whatever it was with fewer.
    chooser: what tells its best round."""
    (folder / "summary.json").unlink(missing_ok=True)
    with whole(folder / RUNG) as beside:
        beside.write_text(json.dumps({"round": round, "selected_by": chooser}) + "\n")


def reached(folder: Path) -> int:
    """The last rung at which a run was stopped; 0 of one that was not."""
    return _said(folder).get("round", 0)


def summary_at(folder: Path, rounds: int | None = None) -> dict[str, Any]:
    """What `summary.json` would say of a run up to a rung: `best`, `selected_by`, `final` and
    `totals`.

    rounds: of the rung; None for that at which it was stopped last.

    Raises ValueError where the folder is of no such run, or is damaged.
    """
    said = _said(folder) or _finished(folder)
    rounds = said["round"] if rounds is None else rounds
    records = [one for one in records_of(folder / "metrics.jsonl") if one["round"] <= rounds]
    if not records:
        raise ValueError(f"{folder}: no round up to {rounds} was measured; run it again.")
    chooser = said["selected_by"]
    return {
        "best": best_record(records, chooser),
        "selected_by": chooser,
        "final": records[-1],
        "totals": totals_of(records),
    }


def mean_of(summaries: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean over runs of what chose their best rounds, there; None where one has none."""
    values = [one["best"][one["selected_by"]] for one in summaries]
    if any(value is None or math.isnan(value) for value in values):
        return None
    return sum(values) / len(values)


def _said(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / RUNG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def _finished(folder: Path) -> dict[str, Any]:
    """The same of a run that came to its end without a rung, since it was there before."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{folder}: was stopped at no rung; run it again.") from None
    return {"round": summary["totals"]["rounds"], "selected_by": summary["selected_by"]}
