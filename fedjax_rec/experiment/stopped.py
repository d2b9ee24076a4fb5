"""That a callback ended a run before its last round: which, when and why.

It is in the checkpoint of that round as well as in the summary, so that a run which is killed
between the two ends there too. It holds as long as the run has that callback: a run that goes on
with others goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import simulate
from .config import Config

KEY = "stopped"  # in a checkpoint and in the summary


def mark(round: int, by: str, stop: simulate.Stop, config: Config) -> dict[str, Any]:
    """What is written. by: the name of the callback."""
    callbacks = config.plain.get("callbacks")
    return {"round": round, "by": by, "reason": stop.reason, "callbacks": callbacks}


def holds(
    stopped: Mapping[str, Any], config: Config, callbacks: Sequence[simulate.Callback]
) -> bool:
    """Whether the run still has the callback that stopped it."""
    same = stopped["callbacks"] == config.plain.get("callbacks")
    return same and stopped["by"] in map(simulate.name_of, callbacks)


def line_of(stopped: Mapping[str, Any]) -> str:
    return (
        f"has ended: {stopped['by']} stopped it after round {stopped['round']} "
        f"({stopped['reason']}); with other callbacks it goes on."
    )


def packed(stopped: Mapping[str, Any]) -> np.ndarray:
    """uint8[n], as checkpoints hold it."""
    return np.frombuffer(json.dumps(stopped).encode(), np.uint8)


def unpacked(held: np.ndarray | None) -> dict[str, Any] | None:
    return None if held is None else json.loads(bytes(np.asarray(held, np.uint8)))
