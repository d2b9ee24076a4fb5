"""One measured figure: what was measured, the number, its unit, and the goal beside it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from rich.table import Table


class Row(NamedTuple):
    """value: None where it could not be measured, which `goal` says then."""

    bench: str
    what: str
    value: float | None
    unit: str
    goal: str

    def shown(self) -> str:
        """The value to three significant digits, with its unit."""
        if self.value is None:
            return "not measured"
        number = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()


def table(rows: Iterable[Row]) -> Table:
    """Of all rows, for the screen."""
    shown = Table("bench", "what", "measured", "goal")
    for row in rows:
        shown.add_row(row.bench, row.what, row.shown(), row.goal)
    return shown
