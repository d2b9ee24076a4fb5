"""What a finished run has learned, as files that other programs read, and which items are alike.

scores.parquet        the k items that each user is recommended: user, rank, item, score
weights.safetensors   an array by its path, shared/item; what clients keep is [N, ...]
items.json            the ids and texts of items, in the order of the rows of item tables
scorer.*              if asked for, the program that scores items: see `scorer`

similarity of items i and j: the cosine of the angle between their rows of all item tables
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
from safetensors.numpy import save_file

from .. import data, evaluate, factors, models, rows
from ..check import at_least, one_of
from ..clients.optimizers import path_of
from ..data.partition import members_of
from ..data.splits import TRAIN, VALIDATION
from ..storage import whole
from ..types import State
from ..weights import EXPORTED, ITEMS
from .config import Config
from .prepare import Experiment
from .recommend import last_seen, place_of
from .scorer import write_scorer

FORMATS = ("parquet", "csv")
AT_ONCE = 32  # users


def export(
    experiment: Experiment, config: Config, state: State, folder: Path, k: int, format: str,
    scorer: bool = False,
) -> list[Path]:  # fmt: skip
    """Writes what `LoadedRun.export` describes, whole files; returns their paths."""
    one_of("export", "format", format, FORMATS)
    at_least("export", "k", k, 1)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"export: {str(folder)!r} is a file; name a folder.")
    written = write_scorer(experiment, config, state, folder) if scorer else []
    if experiment.strategy.model.ranking is not None and experiment.read.split is not None:
        found = scores(experiment, config, state, k)
        written.append(folder / f"scores.{format}")
        with whole(written[-1]) as beside:
            found.write_parquet(beside) if format == "parquet" else found.write_csv(beside)
    written.append(folder / EXPORTED)
    with whole(written[-1]) as beside:
        save_file(weights(state), beside)
    if (split := experiment.read.split) is not None:
        written.append(folder / ITEMS)
        told = {"items": split.interactions.item_names.tolist()}
        told["texts"] = experiment.read.late["titles"]
        with whole(written[-1]) as beside:
            beside.write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    return written


def export_peft(
    given: Mapping[str, Any], state: State, folder: Path, base: str | None, client: int | None
) -> list[Path]:
    """Writes what `LoadedRun.export_peft` describes. given: the arguments of the model."""
    source = given.get("source", given.get("weights"))
    if source is None:
        raise ValueError(
            "export_peft: the run's model is of no pretrained weights (it has neither source nor "
            "weights), and PEFT has adapters of such alone; use export."
        )
    kept = [path_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.private)]
    own = any(name.rsplit("/", 1)[-1] in (factors.A, factors.B) for name in kept)
    if own and client is None:
        raise ValueError("export_peft(client=None): clients keep adapters; name one, 0 or above.")
    if not own and client is not None:
        raise ValueError(f"export_peft(client={client}): all have the same adapters; leave it out.")
    if own:
        at_least("export_peft", "client", client, 0)
        number = len(jax.tree.leaves(state.private)[0])
        if client >= number:  # pyright: ignore
            raise ValueError(f"export_peft(client={client}): there are {number}; use a lower one.")
    mine = jax.tree.map(lambda x: x[client], state.private) if own else ()
    return models.export_peft(state.shared, folder, source, base, own=mine)


def weights(state: State) -> dict[str, np.ndarray]:
    """Array by path, frozen ones too."""
    both = rows.dense({"shared": state.shared, "private": state.private})
    leaves = jax.tree_util.tree_leaves_with_path(both)
    # What is frozen is the `value` of a node, which is no name of its own.
    name = lambda path: path_of(path[:-1] if getattr(path[-1], "name", "") == "value" else path)
    return {name(path): np.ascontiguousarray(x) for path, x in leaves}


def scores(experiment: Experiment, config: Config, state: State, k: int) -> pl.DataFrame:
    """The `k` items of the highest scores of every user, of those not yet seen."""
    split = experiment.read.split
    assert split is not None
    known, found = split.interactions, list(ranked(experiment, config, state, k))
    return pl.DataFrame(
        {
            "user": [known.user_names[user] for user, best, _ in found for _ in best],
            "rank": [place for _, best, _ in found for place in range(1, len(best) + 1)],
            "item": [known.item_names[item] for _, best, _ in found for item in best],
            "score": np.concatenate([values for *_, values in found]),
        },
        schema_overrides={"user": pl.String, "item": pl.String},
    )


def ranked(
    experiment: Experiment, config: Config, state: State, k: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(user, items int[k], scores float64[k]) of every user: the highest of those not yet seen."""
    split, partition = experiment.read.split, experiment.read.partition
    assert split is not None and partition is not None
    known, model = split.interactions, experiment.strategy.model
    users = np.arange(known.num_users)
    use = np.isin(split.part, (TRAIN, VALIDATION))
    bounds = np.searchsorted(known.users[use], np.arange(len(users) + 1))
    items = known.items[use]
    seen = [items[low:high] for low, high in pairwise(bounds)]
    size = config.examples.history
    histories = None if not size else np.stack([_history(mine, size) for mine in seen])
    places = jnp.asarray(partition.client_of_user), jnp.asarray(members_of(partition)[0])

    def of_one(place):
        client, member, history = place
        mine = jax.tree.map(lambda x: x[client], state.private)
        return model.score(state.shared, mine, slice(None), member, history)

    def of_some(some):
        return jax.lax.map(of_one, some, batch_size=AT_ONCE)

    call = jax.jit(of_some)
    for begin in range(0, len(users), AT_ONCE * 8):
        some = slice(begin, begin + AT_ONCE * 8)
        one = (*(x[some] for x in places), None if histories is None else histories[some])
        for user, given in zip(users[some], np.array(call(one), np.float64), strict=True):
            given[seen[user]] = -np.inf
            best = np.argsort(-given, kind="stable")[: min(k, int(np.isfinite(given).sum()))]
            yield user, best, given[best]


def beyond_accuracy(
    experiment: Experiment,
    config: Config,
    state: Callable[[], State],
    k: int,
    categories: str | None = None,
) -> dict[str, float]:
    """What `LoadedRun.beyond_accuracy` describes. state: read once the arguments are right."""
    split = experiment.read.split
    if split is None or experiment.strategy.model.ranking is None:
        raise ValueError(
            "beyond_accuracy: the model predicts labelled examples and makes no lists; use "
            "evaluate()."
        )
    at_least("beyond_accuracy", "k", k, 1)
    known = split.interactions
    labelled = data.categories(known, categories)
    lists = np.full((known.num_users, k), -1)
    for user, best, _ in ranked(experiment, config, state(), k):
        lists[user, : len(best)] = best
    train = split.part == TRAIN
    pairs = np.unique(np.stack([known.users[train], known.items[train]]), axis=1)
    popularity = np.bincount(pairs[1], minlength=known.num_items)
    found = evaluate.beyond_accuracy(lists, popularity, known.num_users)
    history = pairs[0], pairs[1]
    if labelled is not None:
        found["calibration"] = _mean(evaluate.calibration(lists, *history, labelled[1]))
    found["upd"] = _mean(evaluate.popularity_deviation(lists, *history, popularity))
    lift = evaluate.popularity_lift(lists, *history, popularity)
    ends = {f"popularity_lift_{name}": lift[name] for name in ("niche", "blockbuster")}
    return {**found, "popularity_lift": lift["all"], **ends}


def _mean(values: np.ndarray) -> float:
    return evaluate.mean_and_interval(values)["mean"]


def reliability(
    experiment: Experiment, state: Callable[[], State], part: str, bins: int
) -> pl.DataFrame:
    """The table that `LoadedRun.reliability` describes. state: read once the arguments are
    right."""
    read = experiment.read
    if not read.labelled:
        raise ValueError(
            "reliability: the run ranks items and predicts no labelled examples; use "
            "beyond_accuracy()."
        )
    one_of("reliability", "part", part, read.cases)
    at_least("reliability", "bins", bins, 1)
    held, trained = read.cases[part], state()
    model = experiment.strategy.model
    logits = evaluate.predict_examples(model, trained.shared, trained.private, held)
    told = evaluate.reliability(logits, held.fields["labels"], bins)
    edges = np.arange(bins + 1) / bins
    numbers = {name: np.asarray(getattr(told, name), np.float64) for name in ("confidence", "rate")}
    table = {"low": edges[:-1], "high": edges[1:], "examples": np.asarray(told.count), **numbers}
    return pl.DataFrame(table).filter(pl.col("examples") > 0)


def _history(seen: np.ndarray, size: int) -> np.ndarray:
    last = last_seen(seen, size)
    return np.full(size, -1, np.int32) if last is None else last


def similar_items(experiment: Experiment, state: Callable[[], State], item: Any, k: int):
    """The table that `LoadedRun.similar_items` describes. state: read once the arguments are
    right."""
    split = experiment.read.split
    if split is None:
        raise ValueError("similar_items: the run is of labelled examples and has no items.")
    at_least("similar_items", "k", k, 1)
    known = split.interactions
    asked = f"similar_items(item={item!r})"
    index = place_of(asked, "item", item, known.item_names, known.name)
    nodes = rows.nodes({"shared": state().shared})
    tables = [
        np.asarray(rows.dense(node), np.float64)
        for node in nodes
        if isinstance(node, rows.Table) and node.shape[0] == known.num_items
    ]
    if not tables:
        raise ValueError(
            "similar_items: the model shares no table of items, whose rows could be compared."
        )
    wide = np.concatenate([table.reshape(known.num_items, -1) for table in tables], 1)
    length = np.linalg.norm(wide, axis=1)
    cosine = wide @ wide[index] / np.maximum(length * length[index], 1e-30)
    cosine[index] = -np.inf
    best = np.argsort(-cosine, kind="stable")[: min(k, known.num_items - 1)]
    titles = data.titles(known, genres=False)
    return pl.DataFrame(
        {
            "rank": np.arange(1, len(best) + 1),
            "item": known.item_names[best].tolist(),
            "title": [None if titles is None else titles[i] for i in best],
            "similarity": cosine[best],
        },
        schema_overrides={"item": pl.String, "title": pl.String},
    )
