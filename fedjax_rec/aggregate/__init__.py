"""How uploads become one update: pure functions whose summaries add over chunks of clients."""

from .mean import mean, per_row, uniform
from .normalized import normalized, normalized_per_row
from .parts import total

__all__ = [
    "mean", "normalized", "normalized_per_row", "per_row", "total",
    "uniform",
]  # fmt: skip
