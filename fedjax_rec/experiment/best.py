"""The best round of a run so far, and the state after it.

The state is copied from the device after a round that is the best yet, without what is the model's
own (a frozen base that rounds leave as it is), and of several processes by each what it holds. It
is written to the folder `best/` of the run whenever a checkpoint is: a run that goes on from that
checkpoint finds it there. Nothing is written in between.
"""

from __future__ import annotations

import math
from pathlib import Path

import jax
import numpy as np

from .. import simulate
from ..evaluate import Protocol
from ..types import State


def chooser_of(dataset, protocol: Protocol) -> str:
    """The metric that tells which round is the best: the first one, on validation where there is
    such a part."""
    prefix = "" if dataset.validation is None else "validation_"
    return prefix + protocol.summary_names[0]


def best_of(records: list[dict], chooser: str, protocol: Protocol) -> dict:
    """The first of the best records."""
    return max(records, key=lambda record: _merit(record, chooser, protocol))


def _merit(record: dict, chooser: str, protocol: Protocol) -> float:
    """Larger is better; a round in which nobody could be measured is the worst."""
    value = record[chooser] if protocol.larger_is_better else -record[chooser]
    return -math.inf if math.isnan(value) else value


class BestState:
    """The state after the best round, in the folder `best/<round>` once `write` was called.

    keep: False keeps none. like: as of `simulate.save_state`.
    """

    def __init__(self, folder: Path, keep: bool = True, like: State | None = None):
        self.folder = folder
        self.like = like
        self.keep = keep
        self.waiting: tuple[int, State] | None = None

    def take(self, round: int, state: State) -> None:
        """Copies `state`, since the next round takes over what it changes, frozen or not. Of
        several processes all call it."""
        if self.keep:
            own = {id(x) for x in jax.tree.leaves(self.like)}
            state = simulate.held(state)

            def copied(x):
                if id(x) in own:
                    return x
                return np.array(x) if isinstance(x, jax.Array) else x.copy()

            self.waiting = round, jax.tree.map(copied, state)

    def write(self) -> None:
        """Writes what was taken since the last call."""
        if self.waiting is not None:
            simulate.save_state(self.folder, *self.waiting, self.like)
            self.waiting = None
