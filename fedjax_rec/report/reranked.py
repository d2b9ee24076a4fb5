"""The table of lists that were put together and ranked anew, and the section of a page of it.

Intervals are 95% percentile bootstraps over users (`evaluate.paired`); differences are of the same
users.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedjax_rec.evaluate.paired import paired
from fedjax_rec.report.tables import _commit, grid, title

FUSED, JUDGE, BOTH = "fused", "judge", "fused + judge"


class Told(NamedTuple):
    """What the folder of a `fedjax-rec rerank` says. values: float[U, M] by row; about: its
    `reranked.json`."""

    values: dict[str, np.ndarray]
    about: dict[str, Any]

    @property
    def metrics(self) -> list[str]:
        return self.about["metrics"]


def read_reranked(folder: Path) -> Told:
    """Reads the folder that `fedjax-rec rerank` wrote. Raises ValueError where there is none."""
    about, numbers = folder / "reranked.json", folder / "per_user.npz"
    if not about.is_file() or not numbers.is_file():
        raise ValueError(f"{folder}: no lists are in this folder; run fedjax-rec rerank first.")
    told = json.loads(about.read_text(encoding="utf-8"))
    with np.load(numbers) as file:
        values = {name: file[name].astype(np.float64) for name in told["test"]}
    return Told(values, told)


def table(told: Told) -> list[dict[str, Any]]:
    """A row for each list: `list`, by metric its mean with an interval, and the difference from
    the fused one, `below`: which lines beside it are above it by the first metric."""
    lists = [*told.about["runs"], FUSED, JUDGE, BOTH]
    lines = [name for name in told.values if name not in lists]
    rows = []
    for name in [*lines, *lists]:
        row: dict[str, Any] = {"list": name}
        for m, metric in enumerate(told.metrics):
            own = told.values[name][:, m]
            whole = paired(own, np.zeros_like(own))
            row[metric] = _interval(whole)
            versus = paired(own, told.values[FUSED][:, m])
            row[f"{metric} against {FUSED}"] = None if name == FUSED else _interval(versus)
            if name in told.about["validation"]:
                row[f"validation {metric}"] = told.about["validation"][name][m]
        mean = lambda name: np.nanmean(told.values[name][:, 0])
        row["below"] = [line for line in lines if line != name and mean(line) > mean(name)]
        rows.append(row)
    return rows


def _interval(found: Mapping[str, float]) -> dict[str, float]:
    return {"mean": found["difference"], "low": found["low"], "high": found["high"]}


def chosen(told: Told) -> str:
    """What was chosen on validation, in a sentence."""
    found, runs = told.about["chosen"], list(told.about["runs"])
    both = zip(found["shares"], runs, strict=True)
    shares = ", ".join(f"{share:g} of {name}" for share, name in both)
    by = lambda name: f"{found[name]['subtract']:g} of the score without a history subtracted"
    weight = found[BOTH]["weight"]
    return (
        f"Chosen on validation, by {title(told.metrics[0])}: {shares}; {JUDGE}: {by(JUDGE)}; "
        f"{BOTH}: {by(BOTH)}, and the judge's score {weight:g} times beside that of the list."
    )


def section(told: Told, file: str, settings: Sequence[str] = ()) -> list[str]:
    """The lines of a section of a page."""
    about = told.about
    users, (cut, lost) = about["users"], about["cut"]
    text = [
        f"Written by `fedjax-rec rerank {file}` at commit {_commit()}; do not edit by hand.",
        f"{users} users; means of the test part with 95% intervals, bootstraps over these users. "
        f"{chosen(told)} The judge's numbers are chosen on {about['validation_users']} of them.",
        f"The lists hold what is held out for {about['held']:.1%} of the users: no order of them "
        f"brings more. Histories of {cut} users lost {lost} titles for want of room.",
        *settings,
        "",
    ]
    names = told.metrics
    head = ["list", *(title(m) for m in names), *(f"{title(m)} against {FUSED}" for m in names)]
    head += [f"validation {title(names[0])}", "below"]
    rows = []
    for row in table(told):
        cells = [row["list"], *(between(row[m]) for m in names)]
        cells += [between(row[f"{m} against {FUSED}"], "+") for m in names]
        held = row.get(f"validation {names[0]}")
        cells += ["" if held is None else f"{held:.4f}", ", ".join(row["below"])]
        rows.append(cells)
    return [*text, grid(head, rows)]


def between(found: Mapping[str, float] | None, sign: str = "") -> str:
    """'.2146 (.1950 to .2340)', empty for None."""
    if found is None:
        return ""
    return f"{found['mean']:{sign}.4f} ({found['low']:{sign}.4f} to {found['high']:{sign}.4f})"
