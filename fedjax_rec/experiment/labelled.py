"""An experiment on labelled examples, where `data.source` is a factory of `data.Examples`."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import data, simulate
from ..types import Strategy
from .config import Config, ConfigError
from .start import start_from


def prepare_examples(
    config: Config, found: data.Examples, digests: dict[str, str]
) -> tuple[data.Dataset, Strategy, simulate.Measure]:
    """What `run.prepare` makes of interactions. Raises ValueError in one line, before training,
    where a part of the configuration is made for interactions."""
    wanted = config.evaluation
    if wanted.candidates != "examples":
        raise ConfigError(
            f"evaluation.candidates={wanted.candidates} ranks items and data.source gives labelled "
            "examples; use examples."
        )
    if wanted.of != "aggregated":
        raise ConfigError(
            f"evaluation.of={wanted.of} serves rankings; use aggregated with candidates: examples."
        )
    dataset = data.pack_examples(found)
    _check_batches(config.examples, dataset.store)
    parts = {"validation": dataset.validation, "test": dataset.test}
    parts = {name: held for name, held in parts.items() if held is not None}
    if "test" not in parts:
        raise ConfigError("data.source leaves nothing to test on; put examples in the test part.")
    model = config.make_model(
        num_items=dataset.num_items, members=dataset.members, titles=None, fields=found.fields
    )
    model, started = start_from(config, model, dataset.num_clients, digests)
    strategy = started(config.make_strategy(model, config.examples, None))
    if strategy.model.predict is None:
        raise unmeasured(
            config, model.predict, "predicts no labelled examples", "predict(batch) -> logits"
        )
    config.cohorts.size(dataset.num_clients)
    return dataset, strategy, simulate.on_examples(strategy.model, parts, wanted.users_per_chunk)


def unmeasured(config: Config, of_model, what: str, method: str) -> ConfigError:
    """That the strategy's model cannot be measured. of_model: what the model it was given has for
    it, None where that has nothing either."""
    if of_model is None:
        name = config.plain["model"]["class_path"]
        return ConfigError(f"model={name} {what}; give it a method {method}.")
    name = config.plain["strategy"]["class_path"]
    return ConfigError(f"strategy={name} makes a model that {what}; use another strategy.")


def _check_batches(batches: data.Batches, store) -> None:
    """Raises ConfigError for batches that read what a store of examples does not have."""
    seed, first = jnp.zeros(2, jnp.uint32), jnp.zeros(1, jnp.uint32)
    one = jax.tree.map(
        lambda x: x[0] if x.ndim else x, replace(store.take(jnp.arange(1)), store=None)
    )
    try:
        jax.eval_shape(lambda: batches.draw(seed, replace(one, store=store), first))
    except AttributeError:
        raise ConfigError(
            "examples draws items and data.source gives labelled examples; use "
            "examples: fedjax_rec.data.examples."
        ) from None
