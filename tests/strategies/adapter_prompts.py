"""Prompts of five clients, and a small decoder of two layers that answers them with adapters."""

from dataclasses import replace

import jax
import numpy as np
from flax import nnx

from fedjax_rec import data, models

KEY, CLIENTS, T = jax.random.key(3), 5, 9
# Prompts of each client.
COUNT = [6, 3, 8, 5, 4]
SIZE = models.LlamaSize(20, 8, 12, 3, 2, 1, 4)
RANK = 2


def decoder() -> models.Decoder:
    made = models.llama(nnx.Rngs(0), SIZE)
    made.tokens[...] = made.tokens[...] * 30.0  # so that tokens differ as those of trained ones do
    return made


def found(**more) -> data.Examples:
    rng, n = np.random.default_rng(0), sum(COUNT)
    tokens, length = rng.integers(0, 20, (n, T)), rng.integers(4, T + 1, n)
    if "prefix" in more:
        tokens[:, :2] = [5, 6]
    tokens[np.arange(T) >= length[:, None]] = 0
    labels = (tokens[np.arange(n), length - 1] > 9).astype(np.float32)
    fields = {"tokens": tokens, "length": length, "prompt": np.arange(n), **more}
    fields = {name: np.asarray(x).astype(np.int32) for name, x in fields.items()}
    owners = np.repeat(np.arange(CLIENTS), COUNT)
    return data.Examples("prompts", fields | {"labels": labels}, owners, np.zeros(n, np.int8))


def packed(**more) -> data.Dataset:
    return data.pack_examples(found(**more))


def adapted():
    """Adapters in all three layers, drawn with B off zero so that all of them matter at once."""
    model = models.yes_no(decoder(), (1, 2), rank=RANK)

    def init(key, common=None):
        shared, private = model.init(key, common)
        off = lambda path, x: (
            x + 0.3 * jax.random.normal(jax.random.key(7), x.shape)
            if getattr(path[-1], "key", None) == "lora_b"
            else x
        )
        return jax.tree_util.tree_map_with_path(off, shared), private

    return replace(model, init=init)


def above(layers: int):
    """Adapters in the last layers alone, on states that are computed once."""
    fields = found().fields
    return models.yes_no_above(decoder(), (1, 2), fields, layers, rank=RANK)


