"""What finished runs and lists make of the same users: scores of the whole catalogue, and metrics.

`U` users, `I` items, `R` held-out items, `M` metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .. import evaluate
from ..evaluate.protocol import case_of, catalogue_of_all, unseen
from .loaded import LoadedRun

AT_ONCE = 32  # users


def scores_of(
    done: LoadedRun, part: str, users: np.ndarray, which: str
) -> tuple[np.ndarray, np.ndarray]:
    """(float32[U, I], bool[U, I]: the scores of a run, and what a user has seen by then), as the
    run is measured on `part`. users: int[U], that have something held out there, ascending."""
    experiment, state = done.experiment, done.state_of(which)
    cases, model = experiment.read.cases[part], experiment.strategy.model
    rows = np.searchsorted(np.asarray(cases.users), users)
    items, longest = experiment.dataset.num_items, int(cases.seen_count[rows].max())

    @jax.jit
    def of_all(shared, private, rows):
        catalogue = catalogue_of_all(model, shared, private)

        def one(row):
            case = case_of(cases, row, longest)
            mine = jax.tree.map(lambda x: x[cases.clients[row]], private)
            return unseen(model.scorer(shared, mine, catalogue)(case.history), case, items)

        return jax.lax.map(one, rows, batch_size=AT_ONCE)

    scores, seen = of_all(state.shared, state.private, jnp.asarray(rows))
    return np.asarray(scores, np.float32), np.asarray(seen)


def targets_of(done: LoadedRun, part: str, users: np.ndarray) -> np.ndarray:
    """int32[U, R], padded with -1: what is held out of each user in `part`."""
    cases = done.experiment.read.cases[part]
    rows = np.searchsorted(np.asarray(cases.users), users)
    return np.asarray(cases.targets)[rows]


@partial(jax.jit, static_argnums=0)
def _measured(metrics, scores, targets, seen):
    def one(row):
        return evaluate.evaluate_user(metrics, *evaluate.ranks(*row))

    return jax.lax.map(one, (scores, targets, seen), batch_size=AT_ONCE)


def measured(
    names: Sequence[str], scores: np.ndarray, targets: np.ndarray, seen: np.ndarray
) -> np.ndarray:
    """float32[U, M]: metrics of the full catalogue by scores [U, I]."""
    return np.asarray(_measured(tuple(evaluate.metrics(names)), scores, targets, seen))
