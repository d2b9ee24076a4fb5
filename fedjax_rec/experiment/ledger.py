"""The ledger of leaks: many runs attacked, side by side, as a section of a page and a figure.

section: Ledger of leaks
page: docs/privacy.md
figure: docs/privacy/leaks.png
folder: runs/leaks          # what was found, a JSON file a run; what is there is not run again
observe: 2
clients: 200
runs:
- {name: fedmf, config: configs/privacy/leaks.yaml}
- {name: fedmf eden, config: configs/privacy/leaks.yaml, set: {choose: eden}}
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ..report.figures import GRAY, PALETTE, save
from ..report.sections import with_section
from ..storage import read_yaml, whole
from .attack import attack
from .factories import ConfigError, unknown_argument
from .run import _commit

KEYS = ("section", "page", "figure", "folder", "observe", "clients", "runs")
OPEN = 0.95  # F1 from which on messages tell all but everything
COLUMNS = (
    ("rows touched", "touched", "f1", "touched"),
    ("magnitudes", "magnitudes", "f1", "positives"),
    ("recurring", "recurring", "f1", "positives"),
    ("directions", "directions", "f1", "positives"),
    ("shadow fits", "membership", "f1", "positives"),
)


def run_ledger(file: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """Attacks what is not attacked yet, and writes the section and the figure once all are there.

    Args:
        file: YAML as above.
        only: names of runs; none for all.

    Returns:
        What was written.

    Raises:
        ConfigError: for a file that lacks a key, and unknown names.
    """
    plan = _read(file)
    names = [run["name"] for run in plan["runs"]]
    for name in only:
        if name not in names:
            raise ConfigError(f"--only {name}: no such run; use {', '.join(names)}.")
    folder = Path(plan["folder"])
    place = lambda name: folder / f"{name.replace(' ', '_')}.json"
    written = []
    for run in plan["runs"]:
        if place(run["name"]).is_file() or (only and run["name"] not in only):
            continue
        print(f"{run['name']}", file=sys.stderr, flush=True)
        words = [f"--{key}={_word(value)}" for key, value in (run.get("set") or {}).items()]
        words.append(f"--name={run['name']}")
        told = attack(run["config"], words, (), plan.get("observe", 2), plan.get("clients", 256))
        written.append(saved({**told, "commit": _commit()}, place(run["name"])))
    missing = [name for name in names if not place(name).is_file()]
    if missing:
        print(f"{plan['page']} stays as it is; it lacks {missing[0]}.", file=sys.stderr)
        return written
    found = [json.loads(place(name).read_text(encoding="utf-8")) for name in names]
    page, figure = Path(plan["page"]), Path(plan["figure"])
    figure.parent.mkdir(parents=True, exist_ok=True)
    save(drawn(found), figure)
    lines = section(found, str(file), figure.relative_to(page.parent))
    text = with_section(page, plan["section"], lines)
    with whole(page) as beside:
        beside.write_text(text, encoding="utf-8")
    return [*written, figure, page]


def saved(told: Mapping[str, Any], path: Path) -> Path:
    """Writes what was found, as JSON in which what is no number is null."""

    def strict(x):
        if isinstance(x, Mapping):
            return {k: strict(v) for k, v in x.items()}
        if isinstance(x, list | tuple):
            return [strict(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as beside:
        beside.write_text(json.dumps(strict(told), indent=1, allow_nan=False) + "\n")
    return path


def section(found: Sequence[Mapping[str, Any]], file: str, figure: Path) -> list[str]:
    """The lines of the section: a table, and what its columns are."""
    commits = sorted({str(told.get("commit")) for told in found})
    heads = [head for head, *_ in COLUMNS]
    lines = [
        f"Written by `fedjax-rec attack --ledger {file}` at commit {', '.join(commits)}; do not "
        "edit by hand.",
        "",
        "| run | bytes up | HR@10 | " + " | ".join(heads) + " | popularity alone | gender | age |",
        "| --- | --- | --- |" + " --- |" * (len(heads) + 3),
    ]
    for told in found:
        cells = [_cell(told, attack, metric, of) for _, attack, metric, of in COLUMNS]
        cells.append(_cell(told, "popularity", "f1", "positives"))
        cells += [_attribute(told, "gender"), _attribute(told, "age")]
        quality = "" if _quality(told) is None else f"{_quality(told):.3f}"
        bytes_up = "" if told["bytes_up"] is None else f"{told['bytes_up']:,.0f}"
        lines.append(f"| {told['name']} | {bytes_up} | {quality} | " + " | ".join(cells) + " |")
    refused = {
        (row["attack"], row["refused"])
        for told in found
        for row in told["rows"]
        if "refused" in row and row["attack"] not in ("canaries", "kept")
    }
    lines += ["", *(f"- {name}: {why}" for name, why in sorted(refused))]
    lines += ["", f"![F1 of the best attack, HR@10 and bytes of a message]({figure.as_posix()})"]
    return lines


def drawn(found: Sequence[Mapping[str, Any]]) -> Figure:
    """F1 of the best attack on positives against HR@10, dots as large as messages are long. Those
    that tell all but everything lie on one another, and are named together."""
    figure = Figure(figsize=(10.0, 6.5), layout=ConstrainedLayoutEngine())
    axes = figure.subplots()
    shown = [t for t in found if _quality(t) is not None and best_f1(t) is not None]
    shown.sort(key=lambda told: -(told["bytes_up"] or 0))
    for told in shown:
        x, y, size = _quality(told), best_f1(told), told["bytes_up"] or 1
        assert x is not None and y is not None
        area = 30 + 90 * max(0.0, math.log10(size) - 2)
        colour = PALETTE[0] if told["name"].startswith("fedmf") else PALETTE[1]
        axes.scatter([x], [y], s=area, color=colour, alpha=0.55, edgecolors="white", zorder=3)
    numbers: dict[tuple[float, float], list[str]] = {}
    key = []
    hidden = [told for told in shown if (best_f1(told) or 0) < OPEN]
    for n, told in enumerate(sorted(hidden, key=lambda told: -(best_f1(told) or 0)), start=1):
        place = round(_quality(told) or 0, 2), round(best_f1(told) or 0, 2)
        numbers.setdefault(place, []).append(str(n))
        key.append(f"{n:>2} {told['name']}, {_bytes(told['bytes_up'])}")
    if others := [told["name"] for told in found if (best_f1(told) or 0) >= OPEN]:
        said = f"F1 of {OPEN:.2f} or more: {', '.join(others)}"
        key += ["", *textwrap.wrap(said, 36)]
    for place, some in numbers.items():
        axes.annotate(
            ", ".join(some), place, xytext=(0, -11), textcoords="offset points", fontsize=9,
            ha="center", va="top",
        )  # fmt: skip
    axes.annotate(
        "\n".join(key), (1.02, 1.0), xycoords="axes fraction", fontsize=9, va="top",
        annotation_clip=False,
    )  # fmt: skip
    plain = [_mean(t, "popularity", "f1", "positives") for t in found]
    known = [p for p in plain if p is not None]
    if known:
        axes.axhline(sum(known) / len(known), color=GRAY, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.annotate(
            "popularity alone", (0.99, sum(known) / len(known)), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=9, color=GRAY,
        )  # fmt: skip
    axes.set_xlabel("HR@10 among 99 sampled negatives, test")
    axes.set_ylabel("F1 of the best attack on a user's items")
    axes.set_ylim(0, 1.08)
    axes.margins(x=0.12)
    axes.grid(alpha=0.25)
    axes.set_title(
        "what messages tell of items; dots grow with bytes; blue: FedMF and what hides it",
        fontsize=10,
    )
    return figure


def best_f1(told: Mapping[str, Any]) -> float | None:
    """Of the attacks on positives that read messages, the highest F1."""
    values = [_mean(told, a, m, of) for _, a, m, of in COLUMNS if of == "positives"]
    return max((v for v in values if v is not None), default=None)


def _read(file: str | Path) -> dict[str, Any]:
    path = Path(file)
    if not path.is_file():
        raise ConfigError(f"--ledger {file}: there is no such file; check the path.")
    plan = read_yaml(path.read_text(encoding="utf-8"))
    if not isinstance(plan, dict):
        raise ConfigError(f"--ledger {file} is no mapping; write section, page, figure, runs.")
    unknown_argument(plan, list(KEYS), str(file))
    for key in ("section", "page", "figure", "folder", "runs"):
        if key not in plan:
            raise ConfigError(f"--ledger {file}: {key} is missing; add it.")
    for run in plan["runs"]:
        if not isinstance(run, dict) or not {"name", "config"} <= run.keys():
            raise ConfigError(f"--ledger {file}: runs={run} lacks a name or a config; add it.")
    return plan


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _row(told: Mapping[str, Any], attack: str, of: str) -> Mapping[str, Any] | None:
    return next((r for r in told["rows"] if r["attack"] == attack and r.get("of") == of), None)


def _mean(told: Mapping[str, Any], attack: str, metric: str, of: str) -> float | None:
    row = _row(told, attack, of)
    return None if row is None else row[metric]["mean"]


def _cell(told: Mapping[str, Any], attack: str, metric: str, of: str) -> str:
    row = _row(told, attack, of)
    if row is None and any(r["attack"] == attack and "refused" in r for r in told["rows"]):
        return "n/a"  # the reason stands below the table
    if row is None or row[metric]["mean"] is None:
        return ""
    half = (row[metric]["high"] - row[metric]["low"]) / 2
    return f"{row[metric]['mean']:.2f} ± {half:.2f}"


def _attribute(told: Mapping[str, Any], name: str) -> str:
    row = next(
        (
            r
            for r in told["rows"]
            if r["attack"] == "attributes" and r.get("of", "").startswith(name)
        ),
        None,
    )
    if row is None:
        return ""
    half = (row["auc"]["high"] - row["auc"]["low"]) / 2
    return f"{row['auc']['mean']:.2f} ± {half:.2f}"


def _quality(told: Mapping[str, Any]) -> float | None:
    metrics = told["metrics"]
    return next((metrics[n] for n in ("sampled_hr@10", "hr@10") if n in metrics), None)


def _bytes(count: float | None) -> str:
    return "" if count is None else f"{count / 1024:.1f} KiB"
