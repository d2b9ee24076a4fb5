"""This library on the work of `answer`, as its users write it: a model, a strategy, a round in jit.

On one thread, as `fedjax-rec bench` measures it. The clock covers a round.
"""

import jax
import jax.numpy as jnp
import numpy as np
from answer import Clock, given, told
from flax import nnx

from fedjax_rec import __version__, clients, data, models, rows, simulate, strategies
from fedjax_rec.data.splits import TRAIN
from fedjax_rec.types import Cohort


class Factors(nnx.Module):
    def __init__(self, start):
        self.items = models.Rows(start["items"])
        self.w, self.b = nnx.Param(start["w"]), nnx.Param(start["b"])

    def predict(self, batch):
        return self.items[batch["items"]] @ self.w[...] + self.b[...]

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


class Network(nnx.Module):
    def __init__(self, start):
        for name, value in start.items():
            setattr(self, name, nnx.Param(value))

    def predict(self, batch):
        hidden = jax.nn.relu(batch["x"] @ self.w1[...] + self.b1[...])
        return jax.nn.relu(hidden @ self.w2[...] + self.b2[...]) @ self.w3[...] + self.b3[...]

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


def main():
    work = given()
    simulate.configure(1, cache=None)
    start = jax.tree.map(jnp.asarray, work.start)
    build, field = (Factors, "items") if work.has_items else (Network, "x")
    sizes = np.diff(work.offsets)
    store = data.pack_examples(
        data.Examples(
            "work", {field: work.x, "labels": work.y}, np.repeat(np.arange(len(sizes)), sizes),
            np.full(len(work.y), TRAIN), len(start["items"]) if work.has_items else 0,
        )
    ).store  # fmt: skip
    strategy = strategies.fedavg(
        models.from_nnx(lambda rngs: build(start)), data.examples(),
        optimizer=clients.sgd(work.rate), batch_size=work.batch,
    )  # fmt: skip
    everyone, key = jnp.arange(len(sizes)), jax.random.key(0)
    state = strategy.init(key, len(sizes))
    one = jax.jit(lambda k, s, d: strategy.round(k, s, Cohort(everyone, d)), donate_argnums=1)
    clock, after = Clock(), []
    for _ in range(work.rounds):
        with clock:
            state, _ = jax.block_until_ready(one(key, state, store))
        after.append({n: np.array(dense(v)) for n, v in state.shared.items()})
    told(work, clock, __version__, *after)


def dense(value):
    return value.values if rows.is_table(value) else value


main()
