"""A small model of texts with adapters: items are three frozen words through two stacked layers,
scored by a private user vector."""

import jax
import jax.numpy as jnp
from flax import nnx

from fedjax_rec import models
from fedjax_rec.models.transformers import layers
from fedjax_rec.types import Model

WORDS, WIDTH, DEPTH = 3, 6, 2


class Block(nnx.Module):
    def __init__(self, rngs):
        self.query = layers.linear(rngs, WIDTH, WIDTH + 1, lead=(DEPTH,))
        self.out = layers.linear(rngs, WIDTH + 1, WIDTH, lead=(DEPTH,))

    def __call__(self, x):
        return x + self.out(jnp.tanh(self.query(x)))


class Texts(nnx.Module):
    """The parts below a head; `base` makes of them the frozen part."""

    def __init__(self, num_items, members, rngs, base, adapt):
        self.words = models.Frozen(jax.random.normal(rngs.params(), (num_items, WORDS, WIDTH)))
        self.layers = adapt(base(models.freeze(Block(rngs))), rngs)
        self.head = layers.linear(rngs, WIDTH, 4)
        self.user = models.Private(0.3 * jax.random.normal(rngs.params(), (members, 4)))
        self.objective = models.bce()

    def __call__(self, words):
        return self.head(layers.stacked(self.layers, words).mean(-2))

    def loss(self, batch, key):
        user = self.user[batch["users"]] if "users" in batch else self.user[0]
        return self.objective((self(self.words[...][batch["items"]]) * user).sum(-1), batch)

    def prepare(self):
        return self(self.words[...])

    def score(self, items, user, prepared):
        return prepared[items] @ self.user[user]


def adapted(
    num_items: int,
    members: int = 1,
    rank: int = 2,
    adapt=models.lora,
    base=lambda module: module,
    targets: str = "*query|*out",
    **kwargs,
) -> Model:
    def with_adapters(module, rngs):
        return adapt(module, rngs, targets, rank=rank, alpha=2.0 * rank, **kwargs)

    return models.from_nnx(lambda rngs: Texts(num_items, members, rngs, base, with_adapters))
