"""How uploads become one update: pure functions whose summaries add over chunks of clients."""

from .mean import mean, per_row, uniform
from .normalized import normalized, normalized_per_row
from .parts import total
from .products import by_norm, products

__all__ = [
    "by_norm", "mean", "normalized", "normalized_per_row", "per_row", "products", "total",
    "uniform",
]  # fmt: skip
