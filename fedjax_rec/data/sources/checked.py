"""What a file holds, said before anything is trained on it: `fedjax-rec data check PATH`.

density = distinct pairs / (users * items); repeats = rows - distinct pairs; ties = rows that share
their user and their moment with another row.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..interactions import Interactions, k_core
from ..splits import TEST, TRAIN, UNUSED, VALIDATION, tied_ends
from .files import file_table
from .folders import table_in
from .judged import judged, rolled_out
from .moments import unit_of
from .read import read
from .sources import load

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
MANY = 20  # rating values that are shown one by one
PARTS = {"train": TRAIN, "valid": VALIDATION, "test": TEST, "unused": UNUSED}


def described(
    source: str | Path,
    asked: Mapping[str, Any],
    separator: str | None = None,
    header: bool | None = None,
    time_format: str | None = None,
) -> dict[str, Any]:
    """What `read` would make of a file, a folder or a known name, and what it would not take.

    Args:
        source: see above.
        asked: role -> column, see `columns.taken`.
        separator: of text, None to judge.
        header: of text, None to judge.
        time_format: of dates, None to judge.

    Returns:
        Plain numbers, texts and mappings by name, ready for JSON.

    Raises FileNotFoundError and ValueError as `read`, but not for single rows that are wrong.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        try:
            if path.is_dir():
                found = read(
                    path, **asked, separator=separator, header=header, time_format=time_format
                )
            else:
                found = load(str(source), fetch=False)
            return {"name": found.name, "rows": len(found), "dropped": {}, **_numbers(found)}
        except ValueError:
            if not path.is_dir() or (path := table_in(path)) is None:
                raise
    table = file_table(path, separator, header)
    rows = table.frame.height
    seen = judged(rolled_out(table, asked), asked, time_format)
    dropped: dict[str, int] = {}
    for role, wrong, _ in seen.complaints:
        dropped[role] = dropped.get(role, 0) + int(wrong.sum())
    found = seen.interactions()
    taken = dict(seen.columns)
    return {
        "name": found.name,
        "rows": rows,
        "columns": taken,
        "guessed": ", ".join(seen.guessed),
        "not_read": ", ".join(c for c in table.frame.columns if c not in taken.values()),
        "header": table.headed,
        "times_read_as": seen.form,
        "dropped": dropped,
        "first_bad": seen.first(),
        **_numbers(found),
    }


def _numbers(found: Interactions) -> dict[str, Any]:
    pairs = found.users.astype(np.int64) * found.num_items + found.items
    distinct = len(np.unique(pairs))
    same = (np.diff(found.users) == 0) & (np.diff(found.times) == 0)
    tied = np.append(same, False) | np.append(False, same)
    told: dict[str, Any] = {
        "interactions": len(found),
        "users": found.num_users,
        "items": found.num_items,
        "density": distinct / (found.num_users * found.num_items),
        "repeats": len(found) - distinct,
        "ties": int(tied.sum()),
        "users_with_tied_ends": tied_ends(found),
        "first": _moment(found, found.times.min()),
        "last": _moment(found, found.times.max()),
        "ratings": _ratings(found),
        "per_user": _quantiles(found.users, found.num_users),
        "per_item": _quantiles(found.items, found.num_items),
        "left_by_core_5": _core(found),
    }
    if found.parts is not None:
        told["split"] = {name: int((found.parts == part).sum()) for name, part in PARTS.items()}
    return told


def _moment(found: Interactions, time: float) -> str:
    """A time as the source has it, with its date where it is one."""
    _, scale = unit_of(found.times)
    if not scale:
        return f"{time:.10g}"
    return f"{time:.10g} ({datetime.fromtimestamp(time / scale, UTC):%Y-%m-%d %H:%M})"


def _ratings(found: Interactions) -> dict[str, float]:
    if found.ratings is None:
        return {}
    values, counts = np.unique(found.ratings, return_counts=True)
    if len(values) <= MANY:
        return {f"{v:g}": int(c) for v, c in zip(values, counts, strict=True)}
    middle = float(np.median(found.ratings))
    return {"values": len(values), "min": float(values[0]), "median": middle,
            "max": float(values[-1])}  # fmt: skip


def _quantiles(ids: np.ndarray, size: int) -> dict[str, float]:
    counts = np.bincount(ids, minlength=size)
    found = np.quantile(counts, QUANTILES, method="lower")
    return {f"{q:.0%}": int(x) for q, x in zip(QUANTILES, found, strict=True)}


def _core(found: Interactions) -> dict[str, int]:
    try:
        left = k_core(found, 5, 5)
    except ValueError:  # nothing is left
        return {"users": 0, "items": 0, "interactions": 0}
    return {"users": left.num_users, "items": left.num_items, "interactions": len(left)}
