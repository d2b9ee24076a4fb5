"""What a judge says of the lists of a `fedjax-rec rerank`, asked once: it lies in the folder, some
users a file, so that a call that was stopped goes on, and one with other weights asks nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import numpy as np

from .. import data, models
from ..data.sources.prompts import short_title
from ..storage import whole
from .config import ConfigError
from .loaded import LoadedRun
from .rerank_file import Reranking
from .sections import made_of

ASKED_AT_ONCE = 50  # users


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


def heard_of(
    plan: Reranking, judge: models.Judge, part: str, histories: np.ndarray, lists: np.ndarray, told
) -> tuple[np.ndarray, np.ndarray]:
    """(scores [U, K], items of a history that were cut [U]) of the judge. told: is called with
    lines for people."""
    found = []
    for begin in range(0, len(lists), ASKED_AT_ONCE):
        rows = slice(begin, begin + ASKED_AT_ONCE)
        asked = {"history": histories[rows], "lists": lists[rows]}
        made = lambda asked=asked: models.judged(judge, asked["history"], asked["lists"])
        found.append(kept(plan, judge, part, asked, made))
        told(f"{part}: {min(begin + ASKED_AT_ONCE, len(lists))} of {len(lists)} lists")
    scores, cut = (np.concatenate(one) for one in zip(*found, strict=True))
    return scores, cut


def kept(
    plan: Reranking, judge: models.Judge, name: str, asked: Mapping[str, np.ndarray], made: Callable
):
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


def alone_of(plan: Reranking, judge, lists: Mapping[str, np.ndarray], told) -> np.ndarray:
    """float32[I]: what the judge makes of the lists' items without a history."""
    wanted = np.unique(np.concatenate([one.reshape(-1) for one in lists.values()]))
    told(f"{int((wanted >= 0).sum())} items without a history")
    made = lambda: (models.alone(judge, wanted, plan.k), wanted)
    return kept(plan, judge, "alone", {"wanted": wanted, "k": np.array(plan.k)}, made)[0]
