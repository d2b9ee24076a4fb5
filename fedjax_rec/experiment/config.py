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

import importlib
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from ..check import nearest
from ..clients import Local
from ..data import Batches, Interactions
from ..simulate import Cohorts
from ..types import Aggregator, Compressor, Model, Server, Strategy

PARTS = [Aggregator, Batches, Cohorts, Compressor, Local, Model, Server, Strategy]
LATE = {"model": {"num_items", "members"}, "strategy": {"model", "examples", "probe"}}
DEFAULTS = {"model": "fedjax_rec.models.fedmf", "strategy": "fedjax_rec.strategies.fedmf"}


class ConfigError(ValueError):
    """A configuration that cannot be read, in one line."""


@dataclass(frozen=True)
class Data:
    """What is learned from.

    source: a known name (`fedjax-rec data list`), a folder, or a factory of Interactions.
    implicit: keep only that a user interacted; set false for rating models.
    above: of explicit data keep ratings above this. core: k of the k-core filter, 0 for none.
    split, clients: factories such as `fedjax_rec.data.leave_one_out` and `fedjax_rec.data.by_user`.
    negatives: what training negatives exclude: `paper`, `train` or `symmetric`.
    evaluation_negatives: per user and part, for sampled evaluation.
    """

    source: Any = "ml-100k"
    implicit: bool = True
    above: float = 0.0
    core: int = 0
    split: Any = "fedjax_rec.data.leave_one_out"
    clients: Any = "fedjax_rec.data.by_user"
    negatives: Literal["paper", "train", "symmetric"] = "train"
    evaluation_negatives: int = 99


@dataclass(frozen=True)
class Evaluation:
    """How a round is measured.

    candidates: `full`, the catalogue without seen items; `sampled`, the fixed evaluation negatives;
        or `ratings`, RMSE and MAE.
    of: `aggregated`, the server's model; `personal`, each client's own model after training.
    metrics: for rankings. The first one, on validation, chooses the best round.
    every: rounds between measurements. users_per_chunk: users scored at once.
    """

    candidates: Literal["full", "sampled", "ratings"] = "full"
    of: Literal["aggregated", "personal"] = "aggregated"
    metrics: tuple[str, ...] = ("hr@10", "ndcg@10", "mrr", "auc")
    every: int = 1
    users_per_chunk: int = 32


@dataclass(frozen=True)
class Config:
    """A configuration with every part made. plain: as nested dicts, for `config.yaml`."""

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
    threads: int
    plain: dict[str, Any]


def read(path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """The configuration in the YAML file `path` (None: all defaults) with `--key value` overrides.

    Raises ConfigError, naming the key and the nearest known one.
    """
    raw = _raw(path)
    words = [_long(word) for word in overrides]
    paths = {part: _class_path(raw, words, part) for part in LATE}
    factories = {part: _factory(part, where) for part, where in paths.items()}
    parser = _parser(factories, paths)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parser.parse_object(raw)
            if words:
                parsed = parser.parse_args(words, namespace=parsed)
            made = parser.instantiate(parsed)
            plain = yaml.safe_load(parser.dump(parsed, skip_none=False))
    except (ArgumentError, TypeError, ValueError, KeyError, AttributeError) as error:
        raise ConfigError(_one_line(str(error), parser)) from error
    for part in LATE:
        getattr(made, part)  # both exist
    return Config(
        name=made.name or (Path(path).stem if path else "run"),
        seed=made.seed,
        rounds=made.rounds,
        data=Data(**vars(made.data)) if isinstance(made.data, Namespace) else made.data,
        make_model=_late(factories["model"], made.model.init_args),
        examples=made.examples,
        make_strategy=_late(factories["strategy"], made.strategy.init_args),
        cohorts=made.cohorts,
        evaluation=made.evaluation,
        checkpoint_every=made.checkpoint_every,
        threads=made.threads,
        plain=plain,
    )


def _late(factory, init_args) -> Callable:
    kwargs = dict(vars(init_args)) if init_args is not None else {}
    return lambda *args, **late: factory(*args, **late, **kwargs)


def _parser(factories, paths) -> ArgumentParser:
    set_parsing_settings(subclasses_enabled=PARTS)
    parser = ArgumentParser(exit_on_error=False, prog="fedjax-rec run")
    parser.add_argument("--name", type=str | None, default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--checkpoint_every", type=int, default=25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_class_arguments(Data, "data")
    parser.add_class_arguments(Evaluation, "evaluation")
    for part, factory in factories.items():
        parser.add_argument(f"--{part}.class_path", type=str, default=paths[part])
        parser.add_function_arguments(
            factory, f"{part}.init_args", skip=set(LATE[part]), as_group=False
        )
    parser.add_argument(
        "--examples", type=Batches, default={"class_path": "fedjax_rec.data.pointwise"}
    )
    parser.add_argument(
        "--cohorts", type=Cohorts, default={"class_path": "fedjax_rec.simulate.full"}
    )
    return parser


def _raw(path) -> dict:
    if path is None:
        return {}
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such configuration file; check the path.")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; mend the YAML.") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no mapping of keys; see configs/quickstart.yaml.")
    for part in LATE:
        if isinstance(raw.get(part), str):
            raw[part] = {"class_path": raw[part]}
    return raw


def _long(word: str) -> str:
    """`--model.width=3` as `--model.init_args.width=3`, and `--model=X` as its class path."""
    for part in LATE:
        if re.fullmatch(rf"--{part}(=.*)?", word):
            return word.replace(f"--{part}", f"--{part}.class_path", 1)
        if word.startswith(f"--{part}.") and not word.startswith(
            (f"--{part}.init_args", f"--{part}.class_path")
        ):
            return word.replace(f"--{part}.", f"--{part}.init_args.", 1)
    return word


def _class_path(raw: dict, words: Sequence[str], part: str) -> str:
    section = raw.get(part) or {}
    path = section.get("class_path", DEFAULTS[part]) if isinstance(section, dict) else section
    option = f"--{part}.class_path"
    for i, word in enumerate(words):
        if word.startswith(option + "="):
            path = word.split("=", 1)[1]
        elif word == option and i + 1 < len(words):
            path = words[i + 1]
    return path


def _factory(part: str, path) -> Callable:
    where = f"{part}.class_path={path!r}"
    module, _, name = str(path).rpartition(".")
    if not module:
        module, name = DEFAULTS[part].rpartition(".")[0], str(path)
    try:
        room = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(f"{where} cannot be imported ({error}); check the module.") from None
    if not callable(getattr(room, name, None)):
        near = nearest(name, getattr(room, "__all__", dir(room)))
        raise ConfigError(f"{where}: {module} has no factory {name!r}{near}; name one of it.")
    return getattr(room, name)


def _one_line(message: str, parser: ArgumentParser) -> str:
    """jsonargparse's message in one line, with the nearest known key beside an unknown one."""
    known = [a.dest for a in parser._actions if a.dest not in ("help",)]
    unknown = re.search(r"(?:Option|option|Key|key) '([\w.]+)' is not accepted", message)
    if unknown is None:
        unknown = re.search(r"[Uu]nrecognized arguments: --([\w.]+)", message)
    if unknown:
        key = unknown[1]
        near = nearest(key, known) or nearest(
            key.rsplit(".", 1)[-1], [k.rsplit(".", 1)[-1] for k in known]
        )
        return f"{key} is no key of the configuration{near}; see docs/configuration.md."
    message = re.sub(r"<class '([^']*)'>", r"\1", " ".join(message.split()))
    return message if len(message) < 400 else message[:400] + " ..."


def part(value: Any, where: str) -> Any:
    """A part typed Any: as made by the parser, or the name of a factory without arguments."""
    if isinstance(value, str):
        return _factory(where, value)()
    if isinstance(value, (dict, Namespace)):
        raise ConfigError(
            f"{where}={value} could not be made; check its class_path and the names of its init_args."
        )
    return value
