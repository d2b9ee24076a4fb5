"""Prompts of five clients, and three small layers with adapters that answer them."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import data, models
from fedjax_rec.types import Model

KEY, CLIENTS, T, LAYERS, WIDTH = jax.random.key(3), 5, 9, 3, 4
# Prompts of each client.
COUNT = [6, 3, 8, 5, 4]


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.query = models.layers.linear(rngs, WIDTH, WIDTH, lead=(LAYERS,))

    def __call__(self, x):
        return x + jnp.tanh(self.query(x))


class Answer(nnx.Module):
    """The logit of yes: a column of the mean of a prompt's tokens, after three layers."""

    def __init__(self, rngs):
        self.tokens = models.Frozen(jax.random.normal(rngs.params(), (20, WIDTH)))
        self.layers = models.lora(models.freeze(Layer(rngs)), rngs, "query", rank=2, alpha=4.0)

    def predict(self, batch):
        real = jnp.arange(T) < batch["length"][:, None]
        x = (self.tokens[...][batch["tokens"]] * real[..., None]).sum(1)
        return models.layers.stacked(self.layers, x)[:, 0]

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


def adapted() -> Model:
    """Both factors begin off zero, so that both have a gradient at once."""
    model = models.from_nnx(Answer)

    def init(key, common=None):
        shared, private = model.init(key, common)
        off = lambda path, x: x + 0.3 if getattr(path[-1], "key", None) == "lora_b" else x
        return jax.tree_util.tree_map_with_path(off, shared), private

    return replace(model, init=init)


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
