"""Runs: cohorts, the loop, what is measured, audits of bytes, and checkpoints."""

from .audit import audit
from .checkpoint import Checkpoints
from .cohorts import Cohorts, available, dropout, fixed, full, poisson, uniform
from .device import configure
from .loop import Diverged, Progress, simulate
from .measure import Measure, aggregated, on_examples, personal

__all__ = [
    "Checkpoints",
    "Cohorts",
    "Diverged",
    "Measure",
    "Progress",
    "aggregated",
    "audit",
    "available",
    "configure",
    "dropout",
    "fixed",
    "full",
    "on_examples",
    "personal",
    "poisson",
    "simulate",
    "uniform",
]
