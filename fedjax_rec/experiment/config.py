"""Configuration: one YAML file, overridden on the command line, with jsonargparse.

Wherever a configuration takes a part, it names a factory of this library or of the user's:

    strategy:
      class_path: fedjax_rec.strategies.fedmf
      init_args: {item_learning_rate: 1.0, server: {class_path: optax.adam, init_args: {...}}}

`model` and `strategy` name functions whose first arguments are only known in the run (the number of
items; the model, the examples and a probe), so their other arguments are read off the function's
signature. On the command line `--model.width 64` is short for `--model.init_args.width 64`.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from ..attacks import Attack, Malicious, Published
from ..check import at_least, positive
from ..clients import Local
from ..data import Batches, EvaluationDraws, Features, Field
from ..models import Embedding, Fit, ItemLoss
from ..privacy import Clip, Correlation, Shares
from ..rounds.memory import bytes_of
from ..simulate import Callback, Cohorts
from ..storage import read_yaml
from ..strategies import Clock, Exchange, Graph, Held, Neighbours, Similarity, Staleness, Utility
from ..types import Aggregator, Compressor, Model, Server, Stage, Strategy
from . import callbacks, in_shares, private
from .choices import KEY, choose
from .complaints import one_line
from .factories import (
    DEFAULTS,
    ConfigError,
    called,
    check_complete,
    check_made,
    find,
    full_name,
    is_factory,
    of_default,
    source_name,
)
from .overrides import lay, merge
from .raw import raw_of, stem
from .seeded import seed_splits
from .short_names import lengthened

PARTS = [
    Aggregator, Attack, Batches, Clip, Clock, Cohorts, Compressor, Correlation, Embedding,
    EvaluationDraws, Exchange, Features, Field, Fit, Graph, Held, ItemLoss, Local, Malicious, Model,
    Neighbours, Published, Server, Shares, Similarity, Stage, Staleness, Strategy, Utility,
]  # fmt: skip
DEVICES = "devices", "row_devices", "base_devices"
NULLABLE = dict.fromkeys(DEVICES, int) | {"memory_budget": str | int, "start_from": str}
NULLABLE |= {"most_rejected": float, "base_by": Literal["layers", "heads"]}
PRIVATE = {
    "clip": Clip, "epsilon": float, "delta": float, "noise_multiplier": float,
    "correlated": Correlation,
}  # fmt: skip
LATE = {
    "model": {"num_items", "members", "titles", "fields", "user_features", "item_features"}
    | {"user_field_sizes", "item_field_sizes"},
    "strategy": {"model", "examples", "probe"},
}


@dataclass(frozen=True)
class Data:
    """What is learned from.

    source: a known name (`fedjax-rec data list`), the path of a file or a folder, or a factory of
        Interactions, such as `fedjax_rec.data.read`, or of labelled Examples, which are split and
        dealt to clients and have no other key here.
    since, until: keep interactions with since <= time < until, dates or numbers of the data.
    implicit: keep only that a user interacted; set false for rating models.
    above: of explicit data keep ratings above this. core: k of the k-core filter, 0 for none;
        {users: 5, items: 3} for one each.
    split, clients: factories such as `fedjax_rec.data.leave_one_out` and `fedjax_rec.data.by_user`.
    negatives: what training negatives exclude: `paper`, `train` or `symmetric`.
    evaluation_negatives: per user and part, for sampled evaluation. evaluation_draws: how they are
        drawn, `uniform_draws` or `popularity_draws`; None for the first.
    features: columns of user and item features that the model reads, `fedjax_rec.data.features`.
    """

    source: Any = "ml-100k"
    since: str | float | None = None
    until: str | float | None = None
    implicit: bool = True
    above: float = 0.0
    core: int | dict[str, int] = 0
    split: Any = "fedjax_rec.data.leave_one_out"
    clients: Any = "fedjax_rec.data.by_user"
    negatives: Literal["paper", "train", "symmetric"] = "train"
    evaluation_negatives: int = 99
    evaluation_draws: EvaluationDraws | None = None
    features: Features | None = None


@dataclass(frozen=True)
class ColdFit:
    """What a cold user fits before it is measured: what its client keeps, by SGD with
    `learning_rate`, in `epochs` over what is known of it, in batches of `batch_size`."""

    learning_rate: float
    epochs: int = 10
    batch_size: int = 256


@dataclass(frozen=True)
class Evaluation:
    """How a round is measured.

    candidates: `full`, the catalogue without seen items; `sampled`, the fixed evaluation negatives;
        `both`, whose sampled metrics are called `sampled_hr@10`; `ratings`, RMSE and MAE; or, of
        labelled examples, `examples`: AUC, GAUC, log loss and accuracy.
    of: `aggregated`, the server's model; `personal`, each client's own model after training.
    metrics: for rankings. The first one, on validation, chooses the best round.
    targets: ids of the items that attackers push, whose exposure to users `er@10` and
        `target_ndcg@10` among `metrics` are, among the full catalogue whatever `candidates` says.
    groups: of the held-out items by their popularity in training, `head`, `mid`, `tail` and `cold`,
        whose metrics are called `head_hr@10`; None for none. See `evaluate.item_groups`.
    every: rounds between measurements. users_per_chunk: users scored at once.
    fit: what cold users (`data.cold_users`) fit first; None: they keep what the model began with.
    """

    candidates: Literal["full", "sampled", "both", "ratings", "examples"] = "full"
    of: Literal["aggregated", "personal"] = "aggregated"
    metrics: tuple[str, ...] = ("hr@10", "ndcg@10", "mrr", "auc")
    targets: tuple[int, ...] = ()
    groups: tuple[str, ...] | None = None
    every: int = 1
    users_per_chunk: int = 32
    fit: ColdFit | None = None


@dataclass(frozen=True)
class Config:
    """All parts, made. plain: as nested dicts, for `config.yaml`. parsed: before they were made."""

    name: str
    seed: int
    rounds: int
    data: Data
    make_model: Callable[..., Model]
    examples: Batches
    make_strategy: Callable[..., Strategy]
    cohorts: Cohorts
    evaluation: Evaluation
    checkpoint_every: int
    keep_best: bool
    audit: int
    threads: int
    devices: int
    row_devices: int
    base_devices: int
    memory_budget: str | int | None
    most_rejected: float
    start_from: str | None
    privacy: private.Privacy | None
    in_shares: in_shares.InShares | None
    callbacks: tuple[Callback, ...]
    plain: dict[str, Any]
    parsed: Namespace


def read(
    source: str | Path | Mapping | None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Config:
    """The configuration in a YAML file, or in a mapping of the same keys (None: all defaults), with
    overrides: `--key value` words, of which `--choose NAME` takes one of the `choices`, or a
    mapping that is laid over it.

    Raises ConfigError, naming the key and the nearest known one.
    """
    raw = raw_of(source)
    for key in ("sweep", "search"):
        if key in raw:
            raise ConfigError(f"{key}: the file is of several runs; use fedjax-rec sweep.")
    if isinstance(overrides, Mapping):
        given = dict(overrides)
        words = [f"--{KEY}={given.pop(KEY)}"] if KEY in given else []
        raw, choice, _ = choose(raw, words)
        raw = lay(raw, given)
    else:
        raw, choice, rest = choose(raw, overrides)
        raw = merge(raw, rest)
    for part in LATE:
        raw[part] = _late_part(raw.get(part), part)
    _lengthen(raw)
    raw = _parts_within(raw)
    seed_splits(raw)
    raw[callbacks.KEY] = callbacks.sections(raw.get(callbacks.KEY))
    factories = {part: find(raw[part].get("class_path"), part) for part in LATE}
    parser = _parser(*factories.values(), tuple(raw[part]["class_path"] for part in LATE))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parser.parse_object(raw)
            made = parser.instantiate(parsed)
            plain = read_yaml(parser.dump(parsed, skip_none=False))
    except (ArgumentError, TypeError, ValueError, KeyError, AttributeError) as error:
        for key in re.findall(r"argument '(\w+)\.class_path'", str(error)):
            check_made(_plain(parsed.data[key]), f"data.{key}")  # a part that refused to be made
        keys = [a.dest for a in parser._actions if a.dest != "help"]
        raise ConfigError(one_line(str(error), keys)) from error
    for part in LATE:
        check_made(_plain(made[part].get("init_args")), f"{part}.init_args")
    for key in ("source", "split", "clients"):
        check_made(_plain(getattr(made.data, key)), f"data.{key}")
    check_complete(plain, "")
    _check_numbers(made)
    if (wanted := private_of(made)) is None:
        del plain[private.KEY]
    return Config(
        name=str(made.name or "_".join(filter(None, (stem(source), choice)))),
        seed=made.seed,
        rounds=made.rounds,
        data=made.data,
        make_model=late_factory(factories["model"], _arguments(made, "model")),
        examples=made.examples,
        make_strategy=late_factory(factories["strategy"], _arguments(made, "strategy")),
        cohorts=made.cohorts,
        evaluation=made.evaluation,
        checkpoint_every=made.checkpoint_every,
        keep_best=made.keep_best,
        audit=made.audit,
        threads=made.threads,
        devices=made.devices or max(made.row_devices or 1, made.base_devices or 1),
        **{name: getattr(made, name) or 1 for name in ("row_devices", "base_devices")},
        memory_budget=made.memory_budget,
        most_rejected=0.1 if made.most_rejected is None else made.most_rejected,
        start_from=made.start_from,
        privacy=wanted,
        in_shares=in_shares.checked(plain, wanted, _arguments(made, "strategy")),
        callbacks=callbacks.made(plain[callbacks.KEY]),
        plain=plain,
        parsed=parsed,
    )


def private_of(made: Namespace) -> private.Privacy | None:
    """The section `privacy`; None where nothing of it is set."""
    given = {name: getattr(made.privacy, name) for name in PRIVATE}
    return None if all(x is None for x in given.values()) else private.Privacy(**given)


def _arguments(made: Namespace, part: str) -> dict[str, Any]:
    """The arguments of a late part but those of the run."""
    given = getattr(getattr(made, part), "init_args", None)
    return {} if given is None else dict(vars(given))


def late_factory(factory: Callable, kwargs: Mapping[str, Any]) -> Callable:
    """`factory` of these arguments, which takes those of the run as well: all but what only some
    models read, by its name. A part dropped in silence could be the mechanism of a guarantee."""
    known = inspect.signature(factory).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    some = LATE["model"] - ({"num_items", "members"} if open_ended else set())
    wanted = lambda late: {name: late[name] for name in late if name in known or name not in some}
    return lambda *args, **late: factory(*args, **{**kwargs, **wanted(late)})


@functools.lru_cache(maxsize=16)  # it takes longer to make than to use, and sweeps use it often
def _parser(model: Callable, strategy: Callable, paths: tuple[str, str]) -> ArgumentParser:
    set_parsing_settings(subclasses_enabled=PARTS)
    parser = ArgumentParser(exit_on_error=False, prog="fedjax-rec run")
    parser.add_argument("--name", type=str | int | None, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--checkpoint_every", type=int, default=25)
    parser.add_argument("--keep_best", type=bool, default=True)
    parser.add_argument("--audit", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    within = {f"privacy.{key}": kind for key, kind in PRIVATE.items()}
    for key, kind in {**NULLABLE, **within}.items():
        parser.add_argument(f"--{key}", type=kind | None, default=None)
    parser.add_argument(f"--{callbacks.KEY}", type=list[dict[str, Any]] | None, default=None)
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Evaluation, "evaluation")
    for part, factory, path in zip(LATE, (model, strategy), paths, strict=True):
        parser.add_argument(f"--{part}.class_path", type=str, default=path)
        parser.add_function_arguments(
            factory, f"{part}.init_args", skip=set(LATE[part]), as_group=False
        )
    for part, kind in (("examples", Batches), ("cohorts", Cohorts)):
        parser.add_argument(f"--{part}", type=kind, default={"class_path": DEFAULTS[part]})
    return parser


def _late_part(section: Any, part: str) -> dict:
    """A section `model` or `strategy` with a class path."""
    if isinstance(section, str | None):
        return {"class_path": section or DEFAULTS[part]}
    if isinstance(section, dict):
        return {"class_path": DEFAULTS[part], **section}
    raise ConfigError(f"{part}={section} names no factory; write {part}: {DEFAULTS[part]}.")


def _lengthen(raw: dict) -> None:
    """Gives short names of factories, such as `uniform` of `cohorts`, their room, and arguments
    that stand alone the factory that their key has by default."""
    for where in (*DEFAULTS, "data.source"):
        section, _, key = where.rpartition(".")
        holder = (raw.get(section) or {}) if section else raw
        given = full_name(of_default(holder.get(key), where), where)
        if isinstance(given, dict) and "class_path" in given:
            given = {**given, "class_path": source_name(full_name(given["class_path"], where))}
        if key in holder:
            holder[key] = given


def _parts_within(value: Any, inside: bool = False, where: str = "") -> Any:
    """`value` with every factory that is named among `init_args` as `{class_path: name}`, short
    names with their rooms, but where an argument is annotated as Callable[..., X]: there the
    factory itself is wanted."""
    if inside and is_factory(value):
        return {"class_path": value}
    if isinstance(value, list):
        return [_parts_within(one, inside, where) for one in value]
    if not isinstance(value, dict):
        return value
    if isinstance(given := value.get("init_args"), dict):
        path = value.get("class_path")
        full = {name: lengthened(one, path, name, where) for name, one in given.items()}
        value = {**value, "init_args": full}
    within = {key: inside or key == "init_args" for key in value}
    below = lambda k: where if k == "init_args" else f"{where}.{k}" if where else k
    made = {
        k: v if k == "class_path" else _parts_within(v, within[k], below(k))
        for k, v in value.items()
    }
    arguments = value.get("init_args")
    if isinstance(arguments, dict):
        itself = called(value.get("class_path")) & arguments.keys()
        made["init_args"] |= {k: arguments[k] for k in itself if is_factory(arguments[k])}
    return made


def _plain(value: Any) -> Any:
    return value.as_dict() if isinstance(value, Namespace) else value


def _check_numbers(made: Namespace) -> None:
    for key, whole in (("seed", 0), ("rounds", 100), ("checkpoint_every", 25), ("audit", 0),
                       ("threads", 1), ("evaluation.every", 1), ("evaluation.users_per_chunk", 32),
                       ("data.core", 0), ("data.evaluation_negatives", 99)):  # fmt: skip
        if attrgetter(key)(made) is None:
            raise ConfigError(f"{key}=null is no number; use {key}: {whole}, or leave it out.")
    least = {"rounds": 1, "checkpoint_every": 0, "audit": 0, "threads": 0}
    least |= dict.fromkeys((*DEVICES, "evaluation.every", "evaluation.users_per_chunk"), 1)
    for key, low in least.items():
        value = attrgetter(key)(made)
        if value is not None and value < low:
            raise ConfigError(f"{key}={value} is too small; use {key} >= {low}.")
    if not 0 <= made.seed < 2**32:
        raise ConfigError(
            f"seed={made.seed} is no seed, or the same run as {made.seed % 2**32}; use 0 <= seed < "
            "2**32."
        )
    if made.data.above and not made.data.implicit:
        raise ConfigError(
            f"data.above={made.data.above} is not read with data.implicit=false, which keeps all "
            "ratings; leave it out, or set data.implicit: true."
        )
    if made.memory_budget is not None:
        bytes_of("memory_budget", made.memory_budget)
    if made.most_rejected is not None and not 0 <= made.most_rejected <= 1:
        raise ConfigError(f"most_rejected={made.most_rejected} is no share; use 0 to 1.")
    if (fit := made.evaluation.fit) is not None:
        positive("evaluation.fit", "learning_rate", fit.learning_rate)
        at_least("evaluation.fit", "epochs", fit.epochs, 1)
        at_least("evaluation.fit", "batch_size", fit.batch_size, 1)
        if made.evaluation.of == "personal":
            raise ConfigError(
                "evaluation.fit with evaluation.of=personal: who is cold trains in no round and "
                "has no model of its own; use of: aggregated."
            )
    if not made.evaluation.metrics:
        raise ConfigError("evaluation.metrics=[] measures nothing; use [hr@10, ndcg@10].")


def part(value: Any, where: str) -> Any:
    """A part typed Any: as made by the parser, or the name of a factory without arguments."""
    if not isinstance(value, str):
        return value
    try:
        return find(value, where)()
    except TypeError as error:
        raise ConfigError(f"{where}: {error}; give {where}.init_args.") from error
