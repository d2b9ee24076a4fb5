"""Lines of reference: what central training reaches on the split that a row is of, and the share
of it that the row keeps.

    share = HR@10 of the row / HR@10 of the line, both on the test, means over seeds

A line is a central fit, that is, a run of the strategy `central`, closed forms and `lightgcn`, or
the row's own model trained by one client that holds all users. It stands beside the rows whose data
and split are its own and whose protocol it was measured under. Who holds the users and how the
run's negatives are drawn matter to no central fit; a model that is trained by a client has its
row's negatives. Shares are told of the fit that is the best on validation, and of the row's own
model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedjax_rec.report.reading import Group
from fedjax_rec.report.settings import NO_SPLIT
from fedjax_rec.report.tables import last_part

METRIC, VALIDATION, BESIDE, OWN = "hr@10", "validation_", "sampled_", ", own model"


@dataclass(frozen=True)
class Line:
    """A reference under one protocol, such as 'full catalogue', as rows are measured."""

    group: Group
    protocol: str

    def best(self, metric: str) -> np.ndarray:
        """float64[seeds], as `Group.best`."""
        return self.group.best(_named(self.group, self.protocol, metric))

    @property
    def method(self) -> str:
        """What was fitted: `popularity`, `ease`."""
        fit = _part(self.group.runs[0].config.get("strategy"), "init_args", "fit")
        return last_part(str(_part(fit, "class_path") or fit))


def is_reference(each: Group, groups: Sequence[Group]) -> bool:
    """Whether `each` is a line of some of `groups`, or a central fit, and no row of its own."""
    return is_fitted(each) or any(_is_twin(each, row) for row in groups)


def lines_of(groups: Sequence[Group], rows: Sequence[Group]) -> list[Line]:
    """The references among `groups` under each protocol that some of `rows` was measured under, the
    lowest first."""
    found: dict[tuple, Line] = {}
    for row in rows:
        for line in _beside(row, groups):
            found.setdefault((_split(row), line.protocol, id(line.group)), line)
    last = lambda key: (*key[:2], found[key].best(METRIC).mean())
    return [found[key] for key in sorted(found, key=last)]


def share(row: Group, groups: Sequence[Group]) -> str:
    """'84% of ials; below popularity' of a row, empty without HR@10 or a reference."""
    return _share(row, row.best(METRIC).mean(), _beside(row, groups))


def share_of_line(line: Line, lines: Sequence[Line]) -> str:
    """The same of a reference among those of its data and protocol."""
    alike = [
        other
        for other in lines
        if other.protocol == line.protocol and _split(other.group) == _split(line.group)
    ]
    return _share(line.group, line.best(METRIC).mean(), alike)


def _share(row: Group, reached: float, lines: Sequence[Line]) -> str:
    if np.isnan(reached):
        return ""
    told = []
    closed = [line for line in lines if is_fitted(line.group)]
    if closed:
        top = max(closed, key=lambda line: np.nan_to_num(line.best(VALIDATION + METRIC).mean()))
        told.append("best central fit" if top.group is row else _part_of(reached, top))
    twins = [line for line in lines if _is_twin(line.group, row)]
    if twins:
        told.append(_part_of(reached, max(twins, key=lambda line: line.best(METRIC).mean())))
    floors = [line.best(METRIC).mean() for line in closed if line.method == "popularity"]
    if floors and reached < max(floors):
        told.append("below popularity")
    return "; ".join(told)


def _part_of(reached: float, line: Line) -> str:
    """'84% of ials', or that the line has nothing to hold it against, as on items that are new."""
    whole = line.best(METRIC).mean()
    name = line.method if is_fitted(line.group) else "itself trained centrally"
    return f"{reached / whole:.0%} of {name}" if whole > 0 else f"{name} reaches 0"


def _beside(row: Group, groups: Sequence[Group]) -> list[Line]:
    """The references of the row's data under the row's protocol."""
    protocol = _protocols(row)[0]
    fits = lambda each: _is_twin(each, row) or (is_fitted(each) and _split(each) == _split(row))
    lines = [Line(each, protocol) for each in groups if fits(each)]
    lines = [line for line in lines if protocol in _protocols(line.group)]
    return [line for line in lines if np.isfinite(line.best(METRIC)).all()]


def is_fitted(each: Group) -> bool:
    """Whether the group was fitted in one place."""
    return last_part(each.field("strategy")) == "central"


def _is_twin(each: Group, row: Group) -> bool:
    """Whether `each` is the row's model, trained by one client that holds all users."""
    same = lambda told: told(each) == told(row)
    trained = not is_fitted(each) and not is_fitted(row)
    alike = same(_split) and same(lambda g: g.field("negatives"))
    alike = alike and same(lambda g: g.runs[0].config.get("model"))
    return trained and alike and _holds_all(each) and not _holds_all(row)


def _holds_all(each: Group) -> bool:
    return _part(each.runs[0].summary["data"], "clients") == 1


def _split(each: Group) -> str:
    """The data and its split, without seeds."""
    setting: Any = each.runs[0].setting().get("data") or {}
    kept = {key: value for key, value in setting.items() if key not in NO_SPLIT}
    return json.dumps([each.field("data"), kept], sort_keys=True, default=str)


def _protocols(each: Group) -> list[str]:
    """What a run was ranked against, the one that leads first."""
    return each.field("evaluation").removesuffix(OWN).split(" and ")


def _named(each: Group, protocol: str, metric: str) -> str:
    """What a metric under `protocol` is called in the records of `each`."""
    if protocol == _protocols(each)[0]:
        return metric
    held = VALIDATION if metric.startswith(VALIDATION) else ""
    return f"{held}{BESIDE}{metric.removeprefix(held)}"


def _part(value: Any, *keys: str) -> Any:
    """value[key][key]..., None where there is no such part."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value
