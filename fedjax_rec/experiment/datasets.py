"""What `fedjax-rec data` shows: the known data sets, and what was read of one."""

from __future__ import annotations

from rich.table import Table

from .. import data
from ..data.sources import get, known


def catalogue() -> Table:
    """The known data sets, and where they are on this machine."""
    table = Table("name", "users", "items", "interactions", "MB", "licence", "here")
    for row in known():
        numbers = [row[k] for k in ("users", "items", "interactions", "megabytes")]
        here = row["where"] if row["present"] else ("fetch it" if row["fetchable"] else "no")
        table.add_row(
            row["name"],
            *[f"{n:,}" if n is not None else "" for n in numbers],
            row["licence"] or "",
            str(here),
        )
    return table


def described(name: str) -> Table:
    """Fetches `name` where it is missing, reads it, and describes what was read."""
    from pathlib import Path

    if not Path(name).is_dir():
        get(name)
    table = Table("", name)
    for key, value in data.describe(data.load(name)).items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    return table
