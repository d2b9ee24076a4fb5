"""Runs: cohorts, the loop, what is measured, audits of bytes, and checkpoints."""

from .audit import audit
from .checkpoint import (
    Checkpoints,
    Parameters,
    last_saved,
    load_state,
    made_of,
    parameters,
    save_state,
)
from .cohorts import Cohorts, available, dropout, fixed, full, poisson, uniform
from .device import clients_mesh, configure
from .forecast import Forecast, forecast
from .loop import Diverged, Progress, simulate
from .measure import Measure, aggregated, fitted, on_examples, personal
from .program import Calls, Parts, Program, block_of, blocks, program
from .seal import Damaged
from .whole import sweep, whole_run

__all__ = [
    "Calls",
    "Checkpoints",
    "Cohorts",
    "Damaged",
    "Diverged",
    "Forecast",
    "Measure",
    "Parameters",
    "Parts",
    "Program",
    "Progress",
    "aggregated",
    "audit",
    "available",
    "block_of",
    "blocks",
    "clients_mesh",
    "configure",
    "dropout",
    "fitted",
    "fixed",
    "forecast",
    "full",
    "last_saved",
    "load_state",
    "made_of",
    "on_examples",
    "parameters",
    "personal",
    "poisson",
    "program",
    "save_state",
    "simulate",
    "sweep",
    "uniform",
    "whole_run",
]
