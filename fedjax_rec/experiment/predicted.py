"""What a run keeps of its best round: the numbers of each user of the test, and the logits of
labelled examples whose users are known, which `predictions.npz` holds beside labels and users.

An interval of an AUC is drawn over users (`evaluate.auc_interval`), which takes every example and
not a number a user.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import simulate
from .folder import RunFolder

VALUES, LOGITS = "values", "logits"


def best_of(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is kept of a round, of what was measured in it."""
    logits = values.get(simulate.LOGITS.format("test"))
    return {VALUES: values["test"], **({} if logits is None else {LOGITS: logits})}


def best_of_saved(saved: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The same, of a checkpoint; those of older ones have no logits."""
    return {name: saved[name] for name in (VALUES, LOGITS) if name in saved}


def write(folder: RunFolder, best: Mapping[str, np.ndarray], test) -> None:
    """Writes `predictions.npz` where there are logits. test: the examples."""
    if LOGITS in best:
        fields = {name: np.asarray(test.fields[name]) for name in ("labels", "user")}
        folder.write_predictions(logits=best[LOGITS], **fields)
