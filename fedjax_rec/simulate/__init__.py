"""Runs: cohorts, the loop, what is measured, and checkpoints."""

from .checkpoint import Checkpoints
from .cohorts import Cohorts, available, dropout, fixed, full, poisson, uniform
from .device import configure
from .loop import Diverged, Progress, simulate
from .measure import Measure, aggregated, personal

__all__ = [
    "Checkpoints",
    "Cohorts",
    "Diverged",
    "Measure",
    "Progress",
    "aggregated",
    "available",
    "configure",
    "dropout",
    "fixed",
    "full",
    "personal",
    "poisson",
    "simulate",
    "uniform",
]
