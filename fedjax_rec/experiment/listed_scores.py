"""What finished runs and lists make of the same users: scores of the whole catalogue, and metrics.

`U` users, `I` items, `R` held-out items, `M` metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .. import evaluate
from ..data.splits import TEST, VALIDATION
from ..evaluate.protocol import case_of, catalogue_of_all, unseen
from ..report.reading import read_run
from .loaded import LoadedRun
from .rerank_file import Reranking

AT_ONCE = 32  # users
PARTS = {"validation": VALIDATION, "test": TEST}


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


def users_of(plan: Reranking, done: LoadedRun) -> np.ndarray:
    """int[U], ascending: those with something held out in both parts, or as many as are drawn."""
    cases = done.experiment.read.cases
    if missing := [part for part in PARTS if part not in cases]:
        raise ValueError(f"rerank: the runs have no {missing[0]} part; use a split that has.")
    held = [np.asarray(cases[part].users) for part in PARTS]
    users = np.intersect1d(held[0], held[1])
    if plan.users is None or plan.users >= len(users):
        return users
    drawn = np.random.default_rng(plan.seed).choice(users, plan.users, replace=False)
    return np.sort(drawn)


def refuse_others(runs: Mapping[str, LoadedRun]) -> None:
    """Raises ValueError for runs that rank nothing, and of other data or splits than the first."""
    theirs = {}
    for name, done in runs.items():
        if done.experiment.read.split is None or done.model.ranking is None:
            raise ValueError(
                f"rerank(runs): {name} ({done.path}) ranks no items; use one that does."
            )
        theirs[name] = done.experiment.read.digests
    (first, wanted), *others = theirs.items()
    for name, digests in others:
        if digests != wanted:
            raise ValueError(
                f"rerank(runs): {name} is of other data, or another split, than {first}; use runs "
                "on the same ones."
            )


def beside_of(name: str, folder: str, plan: Reranking, users: np.ndarray) -> np.ndarray:
    """float32[U, M]: what a finished run measured of these users. Raises ValueError where it did
    not."""
    own = read_run(folder).per_user
    missing = [] if own is None else [m for m in plan.metrics if m not in own.metrics]
    if own is None or missing or not np.isin(users, own.users).all():
        lacks = ", ".join(missing) or "these users"
        raise ValueError(
            f"rerank(beside): {name} ({folder}) has not measured {lacks}; use a run with these "
            "metrics, on the same data."
        )
    order = np.argsort(own.users)
    rows = order[np.searchsorted(own.users[order], users)]
    return own.values[rows][:, [own.metrics.index(m) for m in plan.metrics]]
