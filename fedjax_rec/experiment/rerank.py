"""Lists of finished runs, put together and ranked anew by a decoder: `fedjax-rec rerank`.

    fused(u, i)  = fusion of the runs' scores
    better(u, i) = z(fused) + w z(judge(u, i) - b alone(i))       of the first K by the fused ones

(GPT-FedRec, Zeng et al., "Federated recommendation via hybrid retrieval augmented generation",
2024: a retriever by ids and one by texts, both federated, and a language model that ranks what they
found. There that is an outside service, and its order is the last word; here it is a decoder on
this machine, and what it knows is also weighed against the list.) z: standardised over the list.
Shares, w and b are chosen on validation. Nothing is trained. What a user has seen is left out before the list is cut, so the K are of what
may be shown; all others keep their order below.

`U` users, `I` items, `K` of a list, `M` metrics.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import data, evaluate, models
from ..data.cases import cases_of
from ..data.sources.prompts import short_title
from ..data.splits import TEST, VALIDATION
from ..models.lists.reordered import first_items
from ..models.lists.weighted_scores import standardised
from ..report.reading import read_run
from ..storage import whole
from .config import ConfigError
from .listed_scores import AT_ONCE, measured, scores_of, targets_of
from .loaded import LoadedRun, load_run
from .rerank_file import Reranking
from .sections import made_of

ASKED_AT_ONCE = 50  # users
PARTS = {"validation": VALIDATION, "test": TEST}


@dataclass(frozen=True)
class Reranked:
    """What lists came to.

    Attributes:
        values: float32[U, M] of the test part by row: each run, `fused`, `judge`, `fused + judge`,
            and the runs beside.
        validation: float32[M], means of the rows that were measured there.
        metrics: M names.
        users: int[U], of the data.
        chosen: `shares`, and of both rows of the judge `subtract` and `weight`.
        held: of all test lists, the share that holds what is held out; no order brings more.
        cut: users whose history lost titles for want of room, and titles, of the test part.
        items: int[U, K], the test lists as they were ranked last, -1 for none.
        seconds: of the judge.
    """

    values: Mapping[str, np.ndarray]
    validation: Mapping[str, np.ndarray]
    metrics: tuple[str, ...]
    users: np.ndarray
    chosen: Mapping[str, Any]
    held: float
    cut: tuple[int, int]
    items: np.ndarray
    seconds: float


def rerank(plan: Reranking, told: Callable[[str], None] = lambda line: None) -> Reranked:
    """Carries out what a file says. told: is called with lines for people.

    Raises ValueError in one line: runs of other data or splits, a list that is longer than the
    catalogue, data without titles, and as the factories of the file do.
    """
    runs = {name: load_run(folder) for name, folder in plan.runs.items()}
    _refuse_others(runs)
    first = next(iter(runs.values()))
    items = first.experiment.dataset.num_items
    if plan.k > items:
        raise ConfigError(f"rerank(k={plan.k}): the catalogue has {items} items; use k <= {items}.")
    evaluate.metrics(plan.metrics)
    fusion = made_of(plan.fusion, "fusion")
    judge = judge_of(plan, first)
    users = users_of(plan, first)
    beside = {name: _beside(name, folder, plan, users) for name, folder in plan.beside.items()}
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

    validation = validation.of_some(some := _some(plan, len(users)))
    fused = fused[some]
    lists = {"validation": validation.first(fused, plan.k), "test": test.first(final, plan.k)}
    scene["validation"] = validation
    begun = time.monotonic()
    heard = {part: scene[part].heard(judge, lists[part], told) for part in PARTS}
    alone = _alone(plan, judge, lists, told) if any(plan.subtract) else np.zeros(items)
    seconds = time.monotonic() - begun
    chosen: dict[str, Any] = {"shares": list(shares)}
    last = np.zeros(0)
    for name, weights in {"judge": (np.inf,), "fused + judge": plan.weights}.items():
        pairs = [(b, w) for b in plan.subtract for w in weights]

        def of(part: str, by: np.ndarray, pair: tuple[float, float]) -> np.ndarray:
            return _anew(by, lists[part], heard[part][0], alone, *pair)

        tries = [validation.measured(of("validation", fused, pair)) for pair in pairs]
        best = int(np.argmax([_merit(one) for one in tries]))
        rows[name], chosen[name] = (
            tries[best],
            dict(zip(("subtract", "weight"), pairs[best], strict=True)),
        )
        last = of("test", final, pairs[best])
        values[name] = test.measured(last)
        told(f"{name}: {chosen[name]}")
    held = (lists["test"][:, :, None] == test.targets[:, None]) & (test.targets[:, None] >= 0)
    cut = heard["test"][1]
    return Reranked(
        {**values, **beside}, {name: np.nanmean(one, 0) for name, one in rows.items()},
        plan.metrics, users, chosen, float(held.any((1, 2)).mean()),
        (int((cut > 0).sum()), int(cut.sum())), test.first(last, plan.k), seconds,
    )  # fmt: skip


def judge_of(plan: Reranking, done: LoadedRun) -> models.Judge:
    """The judge of the catalogue of a run. Raises ValueError for data without titles."""
    split = done.experiment.read.split
    assert split is not None
    lines = data.titles(split.interactions, genres=False)
    if lines is None:
        raise ValueError(
            f"rerank: {split.interactions.name!r} has no titles, and a judge reads nothing else; "
            "use data with item features, such as ml-100k."
        )
    told = {**plan.judge["init_args"], "titles": [short_title(line) for line in lines]}
    made = made_of({**plan.judge, "init_args": told}, "judge")
    if not isinstance(made, models.Judge):
        raise ConfigError(
            f"judge={plan.judge['class_path']} makes no judge; use title_likelihood or "
            "title_answers."
        )
    return made


def users_of(plan: Reranking, done: LoadedRun) -> np.ndarray:
    """int[U], ascending: those with something held out in both parts, or as many as are drawn."""
    cases = done.experiment.read.cases
    if missing := [part for part in PARTS if part not in cases]:
        raise ValueError(f"rerank: the runs have no {missing[0]} part; use a split that has.")
    users = np.intersect1d(*(np.asarray(cases[part].users) for part in PARTS))
    if plan.users is None or plan.users >= len(users):
        return users
    drawn = np.random.default_rng(plan.seed).choice(users, plan.users, replace=False)
    return np.sort(drawn)


def written(plan: Reranking, found: Reranked) -> list[Path]:
    """Writes numbers of each user and what was chosen into the folder; returns the files."""
    numbers, about = plan.out / "per_user.npz", plan.out / "reranked.json"
    with whole(numbers) as beside, open(beside, "wb") as file:
        names = {"users": found.users, "metrics": np.array(found.metrics), "items": found.items}
        np.savez_compressed(file, allow_pickle=False, **names, **found.values)
    means = {name: np.nanmean(one, 0).tolist() for name, one in found.values.items()}
    text = {
        "runs": dict(plan.runs), "metrics": list(found.metrics), "users": len(found.users),
        "test": means, "validation": {k: v.tolist() for k, v in found.validation.items()},
        "chosen": found.chosen, "held": found.held, "cut": list(found.cut),
        "seconds": found.seconds,
    }  # fmt: skip
    # JSON has no infinity: the judge alone has no weight beside the list.
    with whole(about) as beside:
        beside.write_text(json.dumps(text, indent=2).replace("Infinity", "null") + "\n")
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
        cases = cases_of(read.split, read.partition, PARTS[part], None, plan.history)
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
        one = lambda row: fusion.fuse(row[0], jnp.float32(shares), ~row[1])
        call = jax.jit(lambda *rows: jax.lax.map(one, rows, batch_size=AT_ONCE))
        return np.asarray(call(both, self.seen))

    def first(self, scores: np.ndarray, k: int) -> np.ndarray:
        """int32[U, k]"""
        one = lambda row: first_items(row[0], ~row[1], k)
        call = jax.jit(lambda *rows: jax.lax.map(one, rows, batch_size=AT_ONCE))
        return np.asarray(call(scores, self.seen))

    def heard(self, judge, lists, told) -> tuple[np.ndarray, np.ndarray]:
        """(scores [U, K], items of a history that were cut [U]) of the judge, who is asked once:
        what it said lies in the folder, some users a file, so that a call that was stopped goes on.
        """
        found = []
        for begin in range(0, len(lists), ASKED_AT_ONCE):
            rows = slice(begin, begin + ASKED_AT_ONCE)
            asked = {"history": self.history[rows], "lists": lists[rows]}
            made = lambda asked=asked: models.judged(judge, asked["history"], asked["lists"])
            found.append(kept(self.plan, judge, self.part, asked, made))
            told(f"{self.part}: {min(begin + ASKED_AT_ONCE, len(lists))} of {len(lists)} lists")
        scores, cut = (np.concatenate(one) for one in zip(*found, strict=True))
        return scores, cut


def kept(plan: Reranking, judge, name: str, asked: Mapping[str, np.ndarray], made: Callable):
    """made(), two arrays, or what lies in the folder of the same questions to the same judge."""
    about = [plan.judge, judge.texts.opening, judge.texts.said, judge.texts.asked]
    sums = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key, array in asked.items():
        sums.update(
            key.encode() + str(array.shape).encode() + np.ascontiguousarray(array).tobytes()
        )
    path = plan.out / "judged" / f"{name}-{sums.hexdigest()[:12]}.npz"
    if path.is_file():
        with np.load(path) as file:
            return file["first"], file["second"]
    first, second = made()
    with whole(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, first=first, second=second)
    return first, second


def _alone(plan: Reranking, judge, lists: Mapping[str, np.ndarray], told) -> np.ndarray:
    """float32[I]: what the judge makes of the lists' items without a history."""
    wanted = np.unique(np.concatenate([one.reshape(-1) for one in lists.values()]))
    told(f"{int((wanted >= 0).sum())} items without a history")
    made = lambda: (models.alone(judge, wanted, plan.k), wanted)
    return kept(plan, judge, "alone", {"wanted": wanted, "k": np.array(plan.k)}, made)[0]


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


def _refuse_others(runs: Mapping[str, LoadedRun]) -> None:
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


def _beside(name: str, folder: str, plan: Reranking, users: np.ndarray) -> np.ndarray:
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
