"""Lists of finished runs, put together and ranked anew by a decoder: `fedjax-rec rerank`.

    fused(u, i)  = fusion of the runs' scores
    better(u, i) = z(fused) + w z(judge(u, i) - b alone(i))       of the first K by the fused ones

(GPT-FedRec, Zeng et al., "Federated recommendation via hybrid retrieval augmented generation",
2024: a retriever by ids and one by texts, both federated, and a language model that ranks what they
found. There that is an outside service, and its order is the last word; here it is a decoder on
this machine, and what it knows is also weighed against the list.) z: standardised over the list.
Shares, w and b are chosen on validation. Nothing is trained. What a user has seen is left out
before the list is cut, so the K are of what may be shown; all others keep their order below. The
judge is asked about lists that hold what is held out: of others no order changes what is measured.

`U` users, `I` items, `K` of a list, `M` metrics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import evaluate, models
from ..data.cases import cases_of
from ..models.lists.reordered import first_items
from ..models.lists.weighted_scores import standardised
from ..report.reranked import BOTH, JUDGE
from ..storage import whole
from .config import ConfigError
from .judged_lists import Heard, judge_of
from .listed_scores import (
    AT_ONCE,
    PARTS,
    beside_of,
    measured,
    refuse_others,
    scores_of,
    targets_of,
    users_of,
)
from .loaded import LoadedRun, load_run
from .rerank_file import Reranking
from .sections import made_of


@dataclass(frozen=True)
class Reranked:
    """What lists came to.

    Attributes:
        values: float32[U, M] of the test part by row: each run, `fused`, `judge`, `fused + judge`,
            and the runs beside.
        validation: float32[M], means of the rows that were measured there.
        metrics: M names.
        users: int[U], of the data.
        validation_users: of them, on whom the judge's rows were measured there.
        chosen: `shares`, and of both rows of the judge `subtract` and `weight`.
        held: of all test lists, the share that holds what is held out; no order brings more.
        cut: users whose history lost titles for want of room, and titles, of the test part.
        items: int[U, K], the test lists as they were ranked last, -1 for none; those that do not
            hold what is held out stay as they were, since no order of them changes a number.
    """

    values: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray]
    metrics: tuple[str, ...]
    users: np.ndarray
    validation_users: int
    chosen: Mapping[str, Any]
    held: float
    cut: tuple[int, int]
    items: np.ndarray


def rerank(plan: Reranking, told: Callable[[str], None] = lambda line: None) -> Reranked:
    """Carries out what a file says. told: is called with lines for people.

    Raises ValueError in one line: runs of other data or splits, a list that is longer than the
    catalogue, data without titles, and as the factories of the file do.
    """
    runs = {name: load_run(folder) for name, folder in plan.runs.items()}
    refuse_others(runs)
    first = next(iter(runs.values()))
    items = first.experiment.dataset.num_items
    if plan.k > items:
        raise ConfigError(f"rerank(k={plan.k}): the catalogue has {items} items; use k <= {items}.")
    evaluate.metrics(plan.metrics)
    fusion = made_of(plan.fusion, "fusion")
    if not isinstance(fusion, models.Fusion):
        raise ConfigError(
            f"fusion={plan.fusion['class_path']} puts no scores together; use weighted_scores or "
            "reciprocal_ranks."
        )
    judge = judge_of(plan, first)
    users = users_of(plan, first)
    beside = {name: beside_of(name, folder, plan, users) for name, folder in plan.beside.items()}
    scene = {part: _Scene(plan, runs, part, users) for part in PARTS}

    validation, test = scene["validation"], scene["test"]
    rows = {name: validation.measured(own) for name, own in validation.scores.items()}
    tried = [(validation.fused(fusion, shares), shares) for shares in plan.shares]
    fused, shares = max(tried, key=lambda one: _merit(validation.measured(one[0])))
    rows["fused"] = validation.measured(fused)
    told(f"shares of {', '.join(runs)}: {', '.join(f'{x:g}' for x in shares)}")
    final = test.fused(fusion, shares)
    values = {name: test.measured(own) for name, own in test.scores.items()}
    values["fused"] = test.measured(final)

    some = _some(plan, len(users))
    scene["validation"], by = validation.of_some(some), {"validation": fused[some], "test": final}
    lists = {part: scene[part].first(by[part], plan.k) for part in PARTS}
    asked = {part: _holds(lists[part], scene[part].targets) for part in PARTS}
    said, heard = Heard(plan, judge, told), {}
    for part, here in asked.items():
        told(f"{part}: {here.sum()} of {len(here)} lists hold what is held out")
        heard[part] = np.zeros(lists[part].shape, np.float32)
        if here.any():
            heard[part][here] = said.of(scene[part].history[here], lists[part][here])
    alone = np.zeros(items, np.float32)
    if any(plan.subtract):
        wanted = [lists[part][here].reshape(-1) for part, here in asked.items()]
        alone = np.nan_to_num(said.alone(np.concatenate(wanted), plan.k))

    def anew(part: str, subtract: float, weight: float) -> np.ndarray:
        here, scores = asked[part], by[part].copy()
        given = lists[part][here], heard[part][here], alone
        scores[here] = _anew(scores[here], *given, subtract, weight)
        return scores

    chosen: dict[str, Any] = {"shares": list(shares)}
    for name, weights in {JUDGE: (np.inf,), BOTH: plan.weights}.items():
        pairs = [(b, w) for b in plan.subtract for w in weights]
        tries = [scene["validation"].measured(anew("validation", *pair)) for pair in pairs]
        best = int(np.argmax([_merit(one) for one in tries]))
        (subtract, weight), rows[name] = pairs[best], tries[best]
        # JSON has no infinity: the judge alone has no weight beside the list.
        chosen[name] = {"subtract": subtract, "weight": None if np.isinf(weight) else weight}
        last = anew("test", subtract, weight)
        values[name] = test.measured(last)
        told(f"{name}: {chosen[name]}")
    cut = [judge.texts.before(history)[1] for history in test.history.tolist()]
    return Reranked(
        {**beside, **values}, {name: np.nanmean(one, 0) for name, one in rows.items()},
        plan.metrics, users, len(some), chosen, float(asked["test"].mean()),
        (sum(one > 0 for one in cut), sum(cut)), test.first(last, plan.k),
    )  # fmt: skip


def written(plan: Reranking, found: Reranked) -> list[Path]:
    """Writes numbers of each user and what was chosen into the folder; returns the files."""
    numbers, about = plan.out / "per_user.npz", plan.out / "reranked.json"
    with whole(numbers) as beside, open(beside, "wb") as file:
        names = {"users": found.users, "metrics": np.array(found.metrics), "items": found.items}
        np.savez_compressed(file, allow_pickle=False, **names, **found.values)
    means = {name: np.nanmean(one, 0).tolist() for name, one in found.values.items()}
    text = {
        "runs": dict(plan.runs), "metrics": list(found.metrics), "users": len(found.users),
        "validation_users": found.validation_users,
        "test": means, "validation": {k: v.tolist() for k, v in found.validation.items()},
        "chosen": found.chosen, "held": found.held, "cut": list(found.cut),
    }  # fmt: skip
    with whole(about) as beside:
        beside.write_text(json.dumps(text, indent=2) + "\n")
    return [numbers, about]


class _Scene:
    """One part: scores of each run, what users have seen, and what is held out."""

    def __init__(self, plan: Reranking, runs: Mapping[str, LoadedRun], part: str, users):
        self.plan, self.part = plan, part
        found = {name: scores_of(done, part, users, plan.which) for name, done in runs.items()}
        self.scores = {name: scores for name, (scores, _) in found.items()}
        first = next(iter(runs.values()))
        self.seen = next(iter(found.values()))[1]
        self.targets = targets_of(first, part, users)
        read = first.experiment.read
        assert read.split is not None and read.partition is not None
        cases = cases_of(read.split, read.partition, PARTS[part], None, plan.history)
        assert cases is not None
        self.history = np.asarray(cases.history)[np.searchsorted(np.asarray(cases.users), users)]

    def of_some(self, rows: np.ndarray) -> _Scene:
        """Of the users `rows` alone."""
        made = copy(self)
        made.scores = {name: scores[rows] for name, scores in self.scores.items()}
        made.seen, made.targets = self.seen[rows], self.targets[rows]
        made.history = self.history[rows]
        return made

    def measured(self, scores: np.ndarray) -> np.ndarray:
        return measured(self.plan.metrics, scores, self.targets, self.seen)

    def fused(self, fusion: models.Fusion, shares) -> np.ndarray:
        """float32[U, I]"""
        both = np.stack(list(self.scores.values()), 1)
        return np.asarray(_fused(fusion, np.float32(shares), both, self.seen))

    def first(self, scores: np.ndarray, k: int) -> np.ndarray:
        """int32[U, k]"""
        return np.asarray(_first(k, scores, self.seen))


@partial(jax.jit, static_argnums=0)
def _fused(fusion: models.Fusion, shares, both, seen):
    one = lambda row: fusion.fuse(row[0], shares, ~row[1])
    return jax.lax.map(one, (both, seen), batch_size=AT_ONCE)


@partial(jax.jit, static_argnums=0)
def _first(k: int, scores, seen):
    one = lambda row: first_items(row[0], ~row[1], k)
    return jax.lax.map(one, (scores, seen), batch_size=AT_ONCE)


def _holds(lists: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """bool[U]: which lists [U, K] hold some of what is held out, [U, R]."""
    alike = (lists[:, :, None] == targets[:, None]) & (targets[:, None] >= 0)
    return alike.any((1, 2))


def _some(plan: Reranking, users: int) -> np.ndarray:
    """Rows of the users on whom the judge's numbers are chosen, ascending."""
    most = plan.validation_users
    if most is None or most >= users:
        return np.arange(users)
    return np.sort(np.random.default_rng(plan.seed + 1).choice(users, most, replace=False))


@jax.jit
def _put(scores, lists, better):
    one = lambda row: models.reordered(*row)
    return jax.lax.map(one, (scores, lists, better), batch_size=AT_ONCE)


def _anew(scores, lists, heard, alone, subtract: float, weight: float) -> np.ndarray:
    """float32[U, I]: scores by which the lists [U, K] come first, in their new order."""
    real = lists >= 0
    less = np.where(real, alone[np.maximum(lists, 0)], 0.0)
    judge = standardised(jnp.asarray(heard - subtract * less), jnp.asarray(real))
    if np.isinf(weight):
        return np.asarray(_put(scores, lists, judge))
    own = np.take_along_axis(scores, np.maximum(lists, 0), 1)
    return np.asarray(_put(scores, lists, standardised(own, jnp.asarray(real)) + weight * judge))


def _merit(values: np.ndarray) -> float:
    found = float(np.nanmean(values[:, 0]))
    return -np.inf if np.isnan(found) else found
