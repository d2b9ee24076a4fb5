"""What a judge says of the lists of a `fedjax-rec rerank`, asked once: it lies in the folder, some
lists a file, so that a call that was stopped goes on, and one with other weights asks nothing.

`U` users, `H` items of a history, `K` of a list.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

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


class Heard:
    """What a judge has said, in the folder `judged` of a plan. told: is called with lines for
    people."""

    def __init__(self, plan: Reranking, judge: models.Judge, told: Callable[[str], None]):
        about = [plan.judge, judge.texts.opening, judge.texts.said, judge.texts.asked]
        self.mark = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        self.folder, self.judge, self.told = plan.out / "judged", judge, told
        self.known: dict[bytes, np.ndarray] = {}
        for path in sorted(self.folder.glob(f"{self.mark}-*.npz")):
            with np.load(path) as file:
                self._learn(file["histories"], file["lists"], file["scores"])

    def of(self, histories: np.ndarray, lists: np.ndarray) -> np.ndarray:
        """float32[U, K], as `models.judged`, of histories [U, H] and lists [U, K]."""
        histories, lists = (np.asarray(x, np.int32) for x in (histories, lists))
        keys = [_key(*row) for row in zip(histories, lists, strict=True)]
        left = np.flatnonzero([key not in self.known for key in keys])
        for begin in range(0, len(left), ASKED_AT_ONCE):
            rows = left[begin : begin + ASKED_AT_ONCE]
            scores, _ = models.judged(self.judge, histories[rows], lists[rows])
            self._keep(histories[rows], lists[rows], scores)
            self.told(f"{begin + len(rows)} of {len(left)} lists")
        return np.stack([self.known[key] for key in keys])

    def alone(self, items: np.ndarray, at_once: int) -> np.ndarray:
        """float32[I], as `models.alone`, of `items`, each of which has been asked once."""
        wanted = np.unique(items[items >= 0])
        path = self._path("alone", [wanted])
        if path.is_file():
            with np.load(path) as file:
                return file["scores"]
        self.told(f"{len(wanted)} items after no history")
        scores = models.alone(self.judge, wanted, at_once)
        _write(path, scores=scores)
        return scores

    def _keep(self, histories: np.ndarray, lists: np.ndarray, scores: np.ndarray) -> None:
        path = self._path(self.mark, [histories, lists])
        _write(path, histories=histories, lists=lists, scores=scores)
        self._learn(histories, lists, scores)

    def _learn(self, histories: np.ndarray, lists: np.ndarray, scores: np.ndarray) -> None:
        for history, items, said in zip(histories, lists, scores, strict=True):
            self.known[_key(history, items)] = said

    def _path(self, name: str, arrays: list[np.ndarray]) -> Path:
        sums = hashlib.sha256(self.mark.encode())
        for array in arrays:
            sums.update(
                f"{array.shape}{array.dtype}".encode() + np.ascontiguousarray(array).tobytes()
            )
        return self.folder / f"{name}-{sums.hexdigest()[:12]}.npz"


def _key(history: np.ndarray, items: np.ndarray) -> bytes:
    return f"{len(history)}:".encode() + history.tobytes() + items.tobytes()


def _write(path: Path, **arrays: np.ndarray) -> None:
    with whole(path) as beside, open(beside, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
