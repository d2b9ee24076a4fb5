"""A file of lists that are put together and ranked anew, as `fedjax-rec rerank` takes it.

    section: Lists ranked anew                 # of `page`; neither is needed
    page: docs/results.md
    out: runs/reranked
    runs: {rows: runs/rows-0, texts: runs/texts-0}   # finished runs on the same data and split
    fusion: weighted_scores                    # or {class_path: reciprocal_ranks, init_args: {...}}
    shares: [0, 0.5, 1]                        # of the first of two runs; else [[0.2, 0.3, 0.5]]
    judge: {class_path: title_likelihood, init_args: {source: smollm2}}
    subtract: [0, 0.5, 1]                      # of the judge's score after the opening alone
    weights: [0.5, 1, 2]                       # of the judge's score beside that of the list
    k: 20                                      # of a list that is ranked anew
    history: 10                                # items that the judge is told
    metrics: [ndcg@10, hr@10]                  # the first chooses, on validation
    users: 500                                 # drawn, the same everywhere; null for all
    validation_users: 200                      # of them, on whom the judge's numbers are chosen
    seed: 0
    beside: {popularity: runs/popularity-0}    # finished runs whose numbers of these users are told

Every number that is a list is chosen from on validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..check import at_least
from ..check import seed as check_seed
from ..report.reranked import BOTH, FUSED, JUDGE
from ..storage import read_yaml
from .config import ConfigError
from .factories import unknown_argument
from .loaded import WHICH
from .overrides import lay_words
from .sections import section_of

HOME = "fedjax_rec.models"
TAKEN = (FUSED, JUDGE, BOTH, "users", "metrics", "items")  # names of what comes of it
USUAL: dict[str, Any] = {
    "section": None, "page": None, "out": "runs/reranked", "runs": None, "which": "best",
    "fusion": "weighted_scores", "shares": [round(0.1 * i, 1) for i in range(11)],
    "judge": "title_likelihood", "subtract": [0, 0.5, 1], "weights": [0.25, 0.5, 1, 2, 4], "k": 20,
    "history": 10, "metrics": ["ndcg@10", "hr@10"], "users": None,
    "validation_users": None, "seed": 0, "beside": {},
}  # fmt: skip


@dataclass(frozen=True)
class Reranking:
    """What a file says. shares: those of all runs, for each that is tried."""

    name: str
    out: Path
    runs: Mapping[str, str]
    which: str
    fusion: dict[str, Any]
    shares: tuple[tuple[float, ...], ...]
    judge: dict[str, Any]
    subtract: tuple[float, ...]
    weights: tuple[float, ...]
    k: int
    history: int
    metrics: tuple[str, ...]
    users: int | None
    validation_users: int | None
    seed: int
    beside: Mapping[str, str]
    section: str | None = None
    page: str | None = None


def read_reranking(
    source: str | Path | Mapping[str, Any], changes: Mapping[str, Any] | None = None
) -> Reranking:
    """Reads a file, or a mapping of its keys; `changes` are dotted keys and values over it.

    Raises ConfigError, in one line, for what it lacks or says that makes no sense.
    """
    if isinstance(source, Mapping):
        where, raw = "rerank", dict(source)
    else:
        where = str(source)
        if not Path(source).is_file():
            raise ConfigError(f"{where}: there is no such file of lists; see configs/rerank.")
        raw = read_yaml(Path(source).read_text(encoding="utf-8"))
        if not isinstance(raw, dict):
            raise ConfigError(f"{where}: is no mapping; write runs: {{rows: runs/rows-0, ...}}.")
    raw = lay_words(raw, changes or {})
    unknown_argument(raw, list(USUAL), where)
    raw = {**USUAL, **raw}
    runs = _named(raw, "runs", where)
    if len(runs) < 2:
        raise ConfigError(
            f"{where}: runs={raw['runs']} has nothing to put together; name two finished runs or "
            "more, runs: {rows: runs/rows-0, texts: runs/texts-0}."
        )
    beside = _named(raw, "beside", where)
    taken = [
        name for name in [*runs, *beside] if name in TAKEN or (name in runs and name in beside)
    ]
    if taken:
        raise ConfigError(
            f"{where}: a run is called {taken[0]}, and another list or array is, too; give it "
            "another name."
        )
    for key in ("k", "history", "users", "validation_users"):
        if (value := raw[key]) is None and key.endswith("users"):
            continue
        if type(value) is not int:
            raise ConfigError(f"{where}: {key}={value} is no whole number; write {key}: 20.")
        at_least("rerank", key, value, 1)
    check_seed("rerank", raw["seed"])
    if raw["which"] not in WHICH:
        raise ConfigError(f"{where}: which={raw['which']} is no state; use {' or '.join(WHICH)}.")
    if bool(raw["section"]) != bool(raw["page"]):
        raise ConfigError(f"{where}: section and page stand together; give both or neither.")
    if not isinstance(raw["metrics"], list) or not raw["metrics"]:
        raise ConfigError(f"{where}: metrics={raw['metrics']} is no list; write [ndcg@10, hr@10].")
    return Reranking(
        where, Path(str(raw["out"])), runs, raw["which"],
        section_of(raw["fusion"], "fusion", HOME), _shares(raw["shares"], len(runs), where),
        section_of(raw["judge"], "judge", HOME), _numbers(raw, "subtract", where),
        _numbers(raw, "weights", where), raw["k"], raw["history"], tuple(raw["metrics"]),
        raw["users"], raw["validation_users"], raw["seed"], beside,
        raw["section"], raw["page"],
    )  # fmt: skip


def _named(raw: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    value = raw[key] or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key}={value} is no mapping; write {key}: {{name: FOLDER}}.")
    return {str(name): str(folder) for name, folder in value.items()}


def _numbers(raw: Mapping[str, Any], key: str, where: str) -> tuple[float, ...]:
    if not _is_list(raw[key], lambda x: x >= 0):
        raise ConfigError(f"{where}: {key}={raw[key]} is no list of numbers; write {key}: [0, 1].")
    return tuple(map(float, raw[key]))


def _shares(given: Any, runs: int, where: str) -> tuple[tuple[float, ...], ...]:
    """Of each run, for each that is tried."""
    if runs == 2 and _is_list(given, lambda x: 0 <= x <= 1):
        return tuple((float(x), 1.0 - float(x)) for x in given)
    whole = lambda one: _is_list(one, lambda x: x >= 0) and len(one) == runs and sum(one) > 0
    if not isinstance(given, list) or not given or not all(map(whole, given)):
        like = "numbers from 0 to 1" if runs == 2 else f"lists of {runs} shares"
        raise ConfigError(f"{where}: shares={given} is no list of {like}; mend it.")
    return tuple(tuple(map(float, one)) for one in given)


def _is_list(value: Any, holds) -> bool:
    number = lambda x: isinstance(x, int | float) and not isinstance(x, bool)
    return (
        isinstance(value, Sequence) and bool(value) and all(number(x) and holds(x) for x in value)
    )
