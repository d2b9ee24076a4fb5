"""Runs: cohorts, the loop, what is measured, audits of bytes, and checkpoints."""

from .audit import audit
from .block_files import held
from .checkpoint import (
    Checkpoints,
    Parameters,
    last_saved,
    load_state,
    made_of,
    parameters,
    save_state,
)
from .cohorts import (
    Cohorts,
    available,
    dropout,
    fixed,
    full,
    in_turns,
    poisson,
    uniform,
    without,
)
from .device import clients_mesh, configure
from .forecast import Forecast, forecast
from .hosts import folder_of_own, from_first, gathered, in_step, is_first, join
from .lent import Lent, OtherBase
from .loop import Diverged, simulate
from .measure import LOGITS, Measure, aggregated, fitted, on_examples, personal
from .program import Calls, Parts, Program, block_of, blocks, program
from .progress import Callback, CallbackError, Progress, Stop, attending, name_of, told
from .seal import Damaged
from .unchanged import outline
from .whole import sweep, whole_run

__all__ = [
    "LOGITS",
    "Callback",
    "CallbackError",
    "Calls",
    "Checkpoints",
    "Cohorts",
    "Damaged",
    "Diverged",
    "Forecast",
    "Lent",
    "Measure",
    "OtherBase",
    "Parameters",
    "Parts",
    "Program",
    "Progress",
    "Stop",
    "aggregated",
    "attending",
    "audit",
    "available",
    "block_of",
    "blocks",
    "clients_mesh",
    "configure",
    "dropout",
    "fitted",
    "fixed",
    "folder_of_own",
    "forecast",
    "from_first",
    "full",
    "gathered",
    "held",
    "in_step",
    "in_turns",
    "is_first",
    "join",
    "last_saved",
    "load_state",
    "made_of",
    "name_of",
    "on_examples",
    "outline",
    "parameters",
    "personal",
    "poisson",
    "program",
    "save_state",
    "simulate",
    "sweep",
    "told",
    "uniform",
    "whole_run",
    "without",
]
