"""An experiment on labelled examples, where `data.source` is a factory of `data.Examples`."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import data
from .config import Config, ConfigError


def check_labelled(config: Config) -> None:
    """Raises ConfigError where a part of the configuration is made for interactions."""
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
    if config.data.features is not None:
        raise ConfigError(
            "data.features are of users and items and data.source gives labelled examples; leave "
            "them out."
        )
    if wanted.groups:
        raise ConfigError(
            f"evaluation.groups={list(wanted.groups)} are of items; leave it out with candidates: "
            "examples."
        )


def pack_labelled(config: Config, found: data.Examples) -> data.Dataset:
    """`found` on the device. Raises ValueError, before training, where nothing can be tested, or
    batches read what examples do not have."""
    dataset = data.pack_examples(found)
    _check_batches(config.examples, dataset.store)
    if dataset.test is None:
        raise ConfigError("data.source leaves nothing to test on; put examples in the test part.")
    return dataset


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
