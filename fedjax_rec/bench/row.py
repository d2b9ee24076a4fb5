"""One measured figure: what was measured, the number, its unit, and the goal beside it."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    bench: str
    what: str
    value: float
    unit: str
    goal: str

    def shown(self) -> str:
        """The value to three significant digits, with its unit."""
        number = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()
