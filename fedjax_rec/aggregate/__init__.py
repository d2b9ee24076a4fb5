"""How uploads become one update."""

from .mean import mean, per_row, uniform

__all__ = ["mean", "per_row", "uniform"]
