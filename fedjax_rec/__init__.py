"""fedjax_rec: federated recommender systems in JAX.

    import fedjax_rec as fr

    done = fr.run("configs/quickstart.yaml", rounds=20, out="runs/short")
    done.recommend(user=196, k=5)

Rooms (`fr.models`, `fr.strategies`, ...) and the types (`fr.Model`, ...) are imported where they
are first used, so that importing the package is quick and starts no device.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import (
        aggregate,
        attacks,
        bench,
        callbacks,
        clients,
        compress,
        data,
        evaluate,
        experiment,
        leaks,
        models,
        privacy,
        report,
        rounds,
        rows,
        servers,
        simulate,
        strategies,
        testing,
        types,
        unlearn,
        weights,
        wire,
    )
    from .experiment.launch import arena, run, sweep
    from .experiment.loaded import LoadedRun, load_run
    from .types import (
        Aggregator,
        Client,
        Cohort,
        Compressor,
        Model,
        Now,
        Packet,
        Ranking,
        RoundInfo,
        Server,
        Stage,
        State,
        Strategy,
        Upload,
    )

ROOMS = (
    "aggregate", "attacks", "bench", "callbacks", "clients", "compress", "data", "evaluate",
    "experiment", "leaks", "models", "privacy", "report", "rounds", "rows", "servers", "simulate",
    "strategies", "testing", "types", "unlearn", "weights", "wire",
)  # fmt: skip
HOMES = {
    "arena": "experiment.launch",
    "run": "experiment.launch",
    "sweep": "experiment.launch",
    "load_run": "experiment.loaded",
    "LoadedRun": "experiment.loaded",
    **dict.fromkeys(
        ("Aggregator", "Client", "Cohort", "Compressor", "Model", "Now", "Packet", "Ranking",
         "RoundInfo", "Server", "Stage", "State", "Strategy", "Upload"),
        "types",
    ),
}  # fmt: skip

__all__ = [
    "Aggregator", "Client", "Cohort", "Compressor", "LoadedRun", "Model", "Now", "Packet",
    "Ranking", "RoundInfo", "Server", "Stage", "State", "Strategy", "Upload", "aggregate",
    "arena", "attacks", "bench", "callbacks", "clients", "compress", "data", "evaluate",
    "experiment", "leaks", "load_run", "models", "privacy", "report", "rounds", "rows", "run",
    "servers", "simulate", "strategies", "sweep", "testing", "types", "unlearn", "weights", "wire",
]  # fmt: skip


def __getattr__(name: str):
    """The room, type or function called `name`, imported now and kept."""
    if name in ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    if name in HOMES:
        found = getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")


@functools.cache  # jsonargparse asks for thousands of names that are not here
def _hint(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, __all__, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
