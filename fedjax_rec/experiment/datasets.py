"""What `fedjax-rec data` shows: the known data sets, and what was read of one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table

from .. import data
from ..data.sources import get, known


def catalogue() -> Group:
    """The known data sets, where they are on this machine, and their licences below."""
    table = Table("name", "users", "items", "interactions", "MB", "here")
    licences: dict[str, list[str]] = {}
    for row in known():
        numbers = [row[k] for k in ("users", "items", "interactions", "megabytes")]
        here = row["where"] if row["present"] else ("fetch it" if row["fetchable"] else "no")
        shown = [f"{n:,}" if n is not None else "" for n in numbers]
        table.add_row(row["name"], *shown, str(here))
        licences.setdefault(row["licence"] or "licence unknown", []).append(row["name"])
    return Group(table, *[f"{', '.join(names)}: {text}" for text, names in licences.items()])


def described(name: str) -> Table:
    """Fetches `name` where it is missing and can be, reads it, and describes what was read."""
    present = {row["name"]: row["present"] for row in known()}
    if not Path(name).is_dir() and not present.get(name, False):
        get(name)
    table = Table("", name)
    for key, value in data.describe(data.load(name)).items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    return table
