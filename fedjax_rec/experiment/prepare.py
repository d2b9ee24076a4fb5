"""From a configuration to what runs: the data read and packed, and the parts made for them.

    read_data(config) -> Read;   assembled(config, read) -> Experiment

Runs that differ in numbers, seeds and cases alone are of one `Experiment.made`, which is traced.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from .. import data, evaluate, pieces, simulate, strategies
from ..evaluate.protocol import of_catalogue
from ..types import Strategy
from . import in_shares
from .cold import with_fit
from .config import Config, ConfigError, part
from .factories import find
from .labelled import check_labelled, pack_labelled
from .numbers import remade
from .private import Guarantee, guarantee, mechanism
from .start import start_from


@dataclasses.dataclass(frozen=True)
class Read:
    """The data of a configuration. described: for its record. digests: which data they are, see
    `data.digests`. late: what models are told of them. labelled: whether they are examples. split,
    partition: of interactions, who is called what, and which client holds whom."""

    described: dict[str, Any]
    digests: dict[str, str]
    dataset: data.Dataset
    late: dict[str, Any]
    labelled: bool = False
    split: data.Split | None = None
    partition: data.Partition | None = None

    @property
    def cases(self) -> dict[str, Any]:
        """What is held out, by part."""
        parts = {"validation": self.dataset.validation, "test": self.dataset.test}
        return {name: held for name, held in parts.items() if held is not None}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a configuration names, made for its data.

    made(inputs) -> simulate.Parts: the same of other inputs, {"cases": as `measure.cases`, empty
    of labelled examples, whose layout is part of the program, "numbers": by dotted keys, see
    `numbers`}, which may be traced. guarantee: of privacy, where any is asked for.
    """

    read: Read
    strategy: Strategy
    measure: simulate.Measure
    made: Any
    guarantee: Guarantee | in_shares.Guarantee | None = None

    @property
    def dataset(self) -> data.Dataset:
        return self.read.dataset

    def inputs(self, numbers: Mapping[str, float] | None = None) -> dict[str, Any]:
        """Those of this experiment, for `made`."""
        cases = {} if self.read.labelled else dict(self.measure.cases)
        return {"cases": cases, "numbers": dict(numbers or {})}

    @functools.cached_property
    def outline(self) -> Any:
        """Shapes of the state that the run begins with, and what is frozen in it."""
        key, clients = jax.random.key(0), self.dataset.num_clients
        return simulate.outline(lambda: self.strategy.init(key, clients))


def prepare(config: Config) -> Experiment:
    """Reads the data and builds model, strategy and measure. Raises ValueError in one line."""
    # Weights are read to where a run has them; who looks at a finished one may have fewer devices.
    apart = config.base_devices > 1 and len(jax.devices()) >= config.devices
    with pieces.bases_on(mesh_of(config) if apart else None):
        return assembled(config, read_data(config))


def mesh_of(config: Config) -> Mesh | None:
    """The devices of a run, see `simulate.clients_mesh`."""
    by = config.plain.get("base_by") or "layers"
    return simulate.clients_mesh(config.devices, config.row_devices, config.base_devices, by)


def read_data(config: Config) -> Read:
    """The data that `config` names, packed for its evaluation. Raises ValueError in one line."""
    wanted = config.data
    found = wanted.source
    if isinstance(found, str):
        found = data.load(found)
    elif not isinstance(found, (data.Interactions, data.Examples)):
        found = part(found, "data.source")
    if isinstance(found, data.Examples):
        check_labelled(config)
        dataset = pack_labelled(config, found)
        late = _late(dataset, None) | {"fields": found.fields}
        digests = data.digests_of_examples(found)
        return Read(data.describe_examples(found), digests, dataset, late, labelled=True)
    if config.evaluation.candidates == "examples":
        raise ConfigError(
            "evaluation.candidates=examples needs labelled examples and data.source gives "
            "interactions; use full, sampled, both or ratings."
        )
    if wanted.above and found.ratings is None:
        raise ConfigError(
            f"data.above={wanted.above} asks for ratings, and {found.name!r} has none; leave it "
            "out, or use data with a rating column."
        )
    if wanted.since is not None or wanted.until is not None:
        found = data.between(found, wanted.since, wanted.until)
    if wanted.implicit:
        found = data.implicit(found, wanted.above)
    else:
        found = data.latest_of_pairs(found)
    if wanted.core:
        found = data.k_core(found, **_core(wanted.core))
    split = part(wanted.split, "data.split")(found)
    clients = part(wanted.clients, "data.clients")(split)
    sampled = config.evaluation.candidates in {"sampled", "both"}
    sampled = sampled or wanted.negatives == "symmetric"
    digests = data.digests(split, clients)
    dataset = data.pack(
        split, clients, wanted.negatives, wanted.evaluation_negatives if sampled else 0,
        seed=config.seed, history=config.examples.history, evaluation_draws=wanted.evaluation_draws,
    )  # fmt: skip
    if not wanted.implicit:
        _check_ratings_are_read(config, dataset.store)
    if dataset.test is None:
        raise ConfigError("data.split leaves nothing to test on; use a split with a test part.")
    described = data.describe(found)
    if split.ties is not None:
        described |= {"ties": split.ties, "users_with_tied_ends": data.tied_ends(found)}
    late = _late(dataset, data.titles(split.interactions))
    if wanted.features is not None:
        encoded = wanted.features.encode(split)
        late |= {
            "user_features": encoded.by_client(clients), "item_features": encoded.items,
            "user_field_sizes": encoded.user_sizes, "item_field_sizes": encoded.item_sizes,
        }  # fmt: skip
        described["feature_columns"] = {
            "users": len(encoded.user_columns), "items": len(encoded.item_columns),
        }  # fmt: skip
    return Read(described, digests, dataset, late, split=split, partition=clients)


def _core(core: int | Mapping[str, int]) -> dict[str, int]:
    """Arguments of `data.k_core`. Raises ConfigError for other keys than users and items."""
    if isinstance(core, int):
        return {"users": core, "items": core}
    if not set(core) <= {"users", "items"} or not core:
        raise ConfigError(
            f"data.core={dict(core)} names other bounds than users and items; write core: 5, or "
            "core: {users: 5, items: 3}."
        )
    return {"users": core.get("users", 0), "items": core.get("items", 0)}


def assembled(config: Config, read: Read) -> Experiment:
    """The parts of `config`, made for its data. Raises ValueError in one line, before training,
    where they do not go together."""
    own = config.evaluation.of == "personal"
    _check_features_are_read(config, read)

    def strategy_of(config: Config, cases: Mapping) -> Strategy:
        model = config.make_model(**read.late)
        probe = evaluate.probe_clients(_protocol(config, read), dict(cases)) if own else None
        model, started = start_from(config, model, read.dataset.num_clients, read.digests)
        private = mechanism(config, read.dataset.num_clients)
        parts = {} if private is None else {"aggregator": private}
        strategy = started(config.make_strategy(model, config.examples, probe, **parts))
        if (about := read.late.get("user_features")) is not None:
            strategy = strategies.described(strategy, about)
        _check_measured(config, read, model, strategy)
        return strategy

    def measure_of(strategy: Strategy, cases: Mapping) -> simulate.Measure:
        c = config.evaluation.users_per_chunk
        if read.labelled:
            return simulate.on_examples(strategy.model, cases, c)
        protocol = _protocol(config, read)
        if own:
            return simulate.personal(protocol, cases)
        measure = simulate.aggregated(strategy.model, protocol, cases, c)
        if config.evaluation.fit is None:
            return measure
        return with_fit(config, measure, strategy, read.split, read.partition)

    strategy = strategy_of(config, read.cases)
    config.cohorts.size(read.dataset.num_clients)

    def made(inputs) -> simulate.Parts:
        told = remade(config, inputs["numbers"])
        cases = inputs["cases"] or read.cases
        mine = strategy if told is config and not own else strategy_of(told, cases)
        return simulate.Parts(mine, told.cohorts, measure_of(mine, cases))

    told = guarantee(config, read.dataset.num_clients)
    if config.in_shares is not None:
        told = in_shares.guarantee(config, strategy, read.dataset.num_clients)
    return Experiment(read, strategy, measure_of(strategy, read.cases), made, told)


def _late(dataset: data.Dataset, titles: Any) -> dict[str, Any]:
    return {"num_items": dataset.num_items, "members": dataset.members, "titles": titles}


def _check_measured(config: Config, read: Read, model, strategy: Strategy) -> None:
    """Raises ConfigError where what is trained cannot be measured."""
    if read.labelled:
        what, method = "predicts no labelled examples", "predict(batch) -> logits"
        mine, theirs = strategy.model.predict, model.predict
    else:
        what, method = "scores no items", "score(items, user) -> scores"
        mine, theirs = strategy.model.ranking, model.ranking
    if mine is not None:
        return
    if theirs is None:
        name = config.plain["model"]["class_path"]
        raise ConfigError(f"model={name} {what}; give it a method {method}.")
    name = config.plain["strategy"]["class_path"]
    raise ConfigError(f"strategy={name} makes a model that {what}; use another strategy.")


def _check_ratings_are_read(config: Config, store: data.Store) -> None:
    """Raises ConfigError for examples that can be drawn without the ratings which the data keep:
    those of one star would be trained on as if they were liked."""
    if store.labels is None:
        return
    one = store.take(jnp.arange(1))
    alone = jax.tree.map(lambda x: x[0] if x.ndim else x, dataclasses.replace(one, store=None))
    bare = dataclasses.replace(alone, store=dataclasses.replace(store, labels=None))
    seed, first = jnp.zeros(2, jnp.uint32), jnp.zeros(1, jnp.uint32)
    try:
        jax.eval_shape(lambda: config.examples.draw(seed, bare, first))
    except Exception:  # whatever they are made of, they want the ratings
        return
    name = config.plain["examples"]["class_path"]
    raise ConfigError(
        f"data.implicit=false keeps ratings, and examples={name} does not read them: low ones "
        "would count as liked; use examples: fedjax_rec.data.ratings, or data.implicit: true."
    )


def _check_features_are_read(config: Config, read: Read) -> None:
    """Raises ConfigError for features of users or items that the model does not take."""
    path = config.plain["model"]["class_path"]
    takes = inspect.signature(find(path, "model")).parameters
    for name in ("user_features", "item_features"):
        if read.late.get(name) is not None and name not in takes:
            role = name.replace("_features", "s")
            raise ConfigError(
                f"data.features.{role}: model={path} reads no features of {role}; use "
                "feature_mf, two_tower or feature_deepfm, or leave them out."
            )


def _protocol(config: Config, read: Read) -> evaluate.Protocol:
    wanted = config.evaluation
    if wanted.candidates == "ratings":
        if wanted.groups:
            raise ConfigError(
                f"evaluation.groups={list(wanted.groups)} are of rankings; leave it out with "
                "candidates: ratings."
            )
        return evaluate.rating_error()
    metrics = evaluate.metrics(wanted.metrics)
    pushed = [metric for metric in metrics if metric.of_targets]
    held_out = [metric for metric in metrics if not metric.of_targets]
    if bool(pushed) != bool(wanted.targets) or metrics[0].of_targets:
        raise ConfigError(
            f"evaluation.targets={list(wanted.targets)} with metrics={list(wanted.metrics)}: er@10 "
            "and target_ndcg@10 are of targets, and the first metric of held-out items; use "
            "metrics: [hr@10, er@10] and targets: [7], or neither."
        )
    full = of_catalogue(held_out, read.dataset.num_items)
    sampled = evaluate.sampled(held_out)
    chosen = full if wanted.candidates == "full" else sampled
    if wanted.candidates == "both":
        chosen = evaluate.beside(full, sampled, "sampled_")
    if wanted.groups:
        among = sampled if wanted.candidates == "sampled" else full
        counts = read.dataset.popularity
        by_group = evaluate.item_groups(held_out, among, counts, wanted.groups)
        chosen = evaluate.beside(chosen, by_group, "")
    if not pushed:
        return chosen
    exposed = evaluate.exposure(pushed, wanted.targets, read.dataset.num_items)
    return evaluate.beside(chosen, exposed, "")
