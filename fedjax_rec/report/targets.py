"""Figures that runs are held against, read from YAML, and the verdict on a group of seeds.

- match: {data: ml-100k, model: pfedrec, negatives: paper}
  hr@10: [0.72, 0.02]            # value, tolerance: inside if |mean - value| <= tolerance
  ndcg@10: {at_least: 0.42}      # or at_most
  source: PFedRec (Zhang et al., IJCAI 2023)
  note: printed below the table # optional; a target may be a note alone
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedjax_rec.report.reading import FIELDS, Group

SLACK = 1e-9  # 0.70 lies inside 0.72 +- 0.02 although the floats do not


@dataclass(frozen=True)
class Goal:
    """An interval for the mean of a metric over seeds; `text` is how the table prints it."""

    value: float
    low: float
    high: float
    text: str

    def verdict(self, values: np.ndarray) -> str:
        """Inside or outside for the mean of float64[seeds], with its difference from value."""
        mean = float(np.mean(values))
        if np.isnan(mean):
            return "not measured"
        inside = self.low - SLACK <= mean <= self.high + SLACK
        return f"{'inside' if inside else 'outside'} ({mean - self.value:+.4f})"


@dataclass(frozen=True)
class Target:
    """Goals per metric for the runs that `match`."""

    match: dict[str, str]
    goals: dict[str, Goal]
    source: str
    note: str = ""

    def fits(self, group: Group) -> bool:
        """Whether every field of `match` is the group's; models and strategies, which are dotted
        paths, compare by last part."""
        same = lambda key, want: _plain(key, group.field(key)) == _plain(key, want)
        return all(same(key, want) for key, want in self.match.items())


def read_targets(path: Path | str) -> list[Target]:
    """Read a YAML list of targets.

    Raises:
        ValueError: the file is missing or no list, a match names an unknown field, or a goal has
            another form.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"targets {str(path)!r} does not exist; name a YAML list.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise ValueError(f"targets {str(path)!r}{line} is no YAML; correct it.") from None
    if not isinstance(found, list):
        raise ValueError(f"targets {str(path)!r} is no list; write `- match: {{...}}` items.")
    return [_target(entry, f"target {place} of {path}") for place, entry in enumerate(found, 1)]


def _target(entry: Any, where: str) -> Target:
    match = entry.get("match") if isinstance(entry, Mapping) else None
    if not isinstance(match, Mapping) or not match:
        raise ValueError(f"{where} has no `match`; write match: {{data: ..., model: ...}}.")
    unknown = [key for key in match if key not in FIELDS]
    if unknown:
        raise ValueError(f"{where}: match names {unknown[0]!r}; use {', '.join(FIELDS)}.")
    rest = {key: value for key, value in entry.items() if key not in ("match", "source", "note")}
    if not rest and "note" not in entry:
        raise ValueError(f"{where} has no goal; write hr@10: [value, tolerance].")
    goals = {str(key): _goal(value, f"{where}: {key}") for key, value in rest.items()}
    said = (str(entry.get(key, "")) for key in ("source", "note"))
    return Target({k: str(v) for k, v in match.items()}, goals, *said)


def _goal(written: Any, where: str) -> Goal:
    if isinstance(written, list) and len(written) == 2 and all(map(_is_number, written)):
        value, tolerance = map(float, written)
        if tolerance >= 0:
            text = f"{value:g} ± {tolerance:g}"
            return Goal(value, value - tolerance, value + tolerance, text)
    if isinstance(written, Mapping) and len(written) == 1:
        [(kind, value)] = written.items()
        if kind == "at_least" and _is_number(value):
            return Goal(value, value, float("inf"), f"≥ {value:g}")
        if kind == "at_most" and _is_number(value):
            return Goal(value, float("-inf"), value, f"≤ {value:g}")
    raise ValueError(
        f"{where} = {written!r} is no goal; use [value, tolerance], {{at_least: value}} or "
        "{at_most: value}."
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(key: str, name: str) -> str:
    return (name.rsplit(".", maxsplit=1)[-1] if key in ("model", "strategy") else name).lower()
