"""What a trained model recommends to a user, by the ids and titles of the data.

the k largest of score(items, user) over the items that the user has not seen
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import polars as pl

from .. import data
from ..check import nearest
from ..data.partition import members_of
from ..data.splits import TEST, TRAIN, VALIDATION
from ..types import State
from .config import Config
from .prepare import Experiment


def place_of(asked: str, kind: str, id: Any, names: np.ndarray, data_set: str) -> int:
    """Where `id` stands among the names of a data set's users or items, whichever `kind` says.
    Raises ValueError, which begins with what was asked, where it does not."""
    index = np.flatnonzero(names == str(id))
    if not len(index):
        near = nearest(str(id), names.tolist())
        raise ValueError(f"{asked}: {data_set} has no such {kind}{near}; use an id of the data.")
    return int(index[0])


def recommend(
    experiment: Experiment, config: Config, state: Callable[[], State], user: Any, k: int
) -> pl.DataFrame:
    """The table that `LoadedRun.recommend` describes. state: read once the arguments are right."""
    split, partition = experiment.read.split, experiment.read.partition
    model = experiment.strategy.model
    if split is None or partition is None or model.ranking is None:
        raise ValueError(
            "recommend: the model predicts labelled examples and ranks no items; use evaluate()."
        )
    if k < 1:
        raise ValueError(f"recommend(k={k}) recommends nothing; use k >= 1.")
    known = split.interactions
    row = place_of(f"recommend(user={user!r})", "user", user, known.user_names, known.name)
    client = int(partition.client_of_user[row])
    member = int(members_of(partition)[0][row])
    mine = known.users == row
    seen = known.items[mine & np.isin(split.part, (TRAIN, VALIDATION))]
    held_out = known.items[mine & (split.part == TEST)]
    scores = _scores(model, state(), client, member, last_seen(seen, config.examples.history))
    scores[seen] = -np.inf
    items = np.argsort(-scores, kind="stable")[: min(k, int(np.isfinite(scores).sum()))]
    titles = data.titles(known, genres=False)
    return pl.DataFrame(
        {
            "rank": np.arange(1, len(items) + 1),
            "item": known.item_names[items].tolist(),
            "title": [None if titles is None else titles[i] for i in items],
            "score": scores[items].astype(np.float64),
            "held_out": np.isin(items, held_out),
        },
        schema_overrides={"item": pl.String, "title": pl.String},
    )


def last_seen(seen: np.ndarray, size: int) -> np.ndarray | None:
    """int32[size]: the last items seen, -1 before the first; None for models that read none."""
    if not size:
        return None
    history = np.full(size, -1, np.int32)
    last = seen[-size:]
    history[size - len(last) :] = last
    return history


def _scores(model, state: State, client: int, member: int, history) -> np.ndarray:
    """float[I]: of the whole catalogue."""

    def score(shared, private):
        mine = jax.tree.map(lambda x: x[client], private)
        return model.score(shared, mine, slice(None), member, history)

    return np.array(jax.jit(score)(state.shared, state.private), np.float64)
