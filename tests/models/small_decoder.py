"""A decoder of four layers that answers yes or no, what is compared of it, and rounds of it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import trees
from fedjax_rec.models.transformers.families.llama import LlamaSize, llama
from fedjax_rec.types import Cohort

SIZE = LlamaSize(50, 24, 40, 4, 6, 2, 4)
KEY, YES, NO = jax.random.key(0), 3, 4


def decoder(**changes):
    made = llama(nnx.Rngs(0), replace(SIZE, **changes))
    made.tokens[...] = made.tokens[...] * 30.0  # so that tokens differ as those of trained ones do
    return made


def close(a, b, tolerance=1e-5):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    np.testing.assert_allclose(b, a, atol=tolerance * max(np.abs(a).max(), 1e-3), rtol=tolerance)


def moved(model):
    """(shared, private) with adapters, and biases, that do something."""
    shared, private = model.init(KEY)
    rng = np.random.default_rng(1)
    draw = lambda x: x if x is None else x + 0.2 * jnp.float32(rng.normal(size=x.shape))
    return trees.with_frozen(jax.tree.map(draw, trees.trainable(shared)), shared), private


def played(strategy, store, rounds: int):
    """(the state before, after, the last round's information, the mean loss of each round)."""
    before = state = strategy.init(KEY, store.num_clients)
    step, cohort = jax.jit(strategy.round), Cohort(jnp.arange(store.num_clients), store)
    losses = []
    for _ in range(rounds):
        state, info = step(KEY, state, cohort)
        losses.append(float(info.metrics["loss"].mean()))
    return before, state, info, losses
