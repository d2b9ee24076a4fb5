"""A toy strategy that compiles at once, and a small packed data set with a real one.

The toy's model is a random walk, moved by the ids of the cohort, so that any change of a key, a
cohort or an order of rounds changes its bits.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import clients, data, models, strategies
from fedjax_rec.evaluate import Protocol
from fedjax_rec.simulate import Measure
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Model, RoundInfo, State, Strategy, record

N = 9
KEY = jax.random.key(5)


@record
class Crowd:
    """A store of N clients with nothing in it."""

    held: jax.Array

    @property
    def num_clients(self) -> int:
        return self.held.shape[0]

    def sizes(self, ids):
        return self.held.at[ids].get(mode="fill", fill_value=0)


def crowd() -> Crowd:
    return Crowd(jnp.ones(N))


def walk(traces: list | None = None, wrong_from: int = 10**6, spoil: str = "loss") -> Strategy:
    """A strategy of a few operations. From round `wrong_from` (1 is the first) the loss is NaN, or
    the model infinite (spoil="model"). `traces` grows each time `round` is traced."""

    def init(key, num_clients):
        shared = {"x": jax.random.normal(key, (3,)), "steps": jnp.int32(0)}
        return State(shared, {"seen": jnp.zeros(num_clients)}, (), {"m": jnp.ones(2)}, jnp.int32(0))

    def round(key, state, cohort, chunk=None):
        if traces is not None:
            traces.append(1)
        real = cohort.ids < cohort.data.num_clients
        noise = jax.random.normal(jax.random.fold_in(key, state.round), (3,))
        x = 0.9 * state.shared["x"] + noise + 0.01 * jnp.where(real, cohort.ids, 0).sum()
        wrong = state.round + 1 >= wrong_from
        loss = jnp.where(real, x.sum() + cohort.ids, 0.0)
        if spoil == "loss":
            loss = jnp.where(wrong, jnp.nan, loss)
        else:
            x = jnp.where(wrong, jnp.inf, x)
        seen = state.private["seen"].at[cohort.ids].add(1.0, mode="drop")
        shared = {"x": x, "steps": state.shared["steps"] + 1}
        after = State(shared, {"seen": seen}, (), state.server, state.round + 1)
        up = jnp.where(real, cohort.ids + 1, 0).astype(jnp.uint32)
        return after, RoundInfo({"loss": loss}, real.astype(jnp.float32), up, 2 * up)

    walker = Model(lambda key, common=None: ({}, {}), lambda *_: jnp.float32(0))
    return Strategy(init, round, walker)


def gauge() -> Measure:
    """Two users: the model's sum, and how often client 0 took part."""

    def values(state, info, ids):
        one = jnp.stack([state.shared["x"].sum(), state.private["seen"][0]])
        of_users = {"test": one[:, None], "validation": 2 * one[:, None]}
        return of_users, {name: x.mean(0) for name, x in of_users.items()}

    protocol = Protocol(("level",), lambda *_: None, "gauge", lambda *_: None, ("level",))
    return Measure(values, protocol, {})


def packed(users=10, items=20, seed=0, implicit=True, **kwargs) -> data.Dataset:
    """Leave-one-out of users with 4 to 8 ratings."""
    rng = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(users) for i in rng.permutation(items)[: 4 + u % 5]]
    names = np.array(pairs)
    found = data.from_arrays(
        "crowd",
        names[:, 0],
        names[:, 1],
        times=np.arange(len(pairs), dtype=np.float64),
        ratings=rng.integers(1, 6, len(pairs)).astype(np.float32),
    )
    if implicit:
        found = data.implicit(found)
    return data.pack(data.leave_one_out()(found), **{"evaluation_negatives": 3, **kwargs})


def factorization(dataset: data.Dataset, probe=None, rate: float = 0.5, **kwargs):
    """A strategy of FedMF, width 4, batches of 8."""
    model = models.fedmf(dataset.num_items, dataset.members, width=4, scale=1.0)
    client = clients.local_training(
        model, data.pointwise(2), clients.sgd(rate), batch_size=8, probe=probe
    )
    return strategies.federated(client, model, **kwargs)


def same(a, b) -> None:
    """Every leaf equal to the bit, dtypes too."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes(), f"{x} is not {y}"


BASE = np.random.default_rng(0).normal(size=(2**9, 2**9)).astype(np.float32)  # 1 MiB


def adapted(dataset, base: jax.Array) -> Strategy:
    """FedAvg of rows, and of an adapter beside a base [D, D] that is frozen."""
    width = len(base)

    class Based(nnx.Module):
        def __init__(self, rngs):
            draw = lambda *shape: 0.1 * jax.random.normal(rngs.params(), shape)
            self.base = models.Frozen(base)
            self.lora_a, self.lora_b = nnx.Param(draw(width, 2)), nnx.Param(jnp.zeros((2, width)))
            self.item = models.Rows(draw(dataset.num_items, width))

        def score(self, items, user):
            x = self.item[items]
            return (x @ self.base[...] + x @ self.lora_a[...] @ self.lora_b[...]).mean(-1)

        def loss(self, batch, key):
            return models.bce()(self.score(batch["items"], 0), batch)

    model, sgd = models.from_nnx(Based), clients.sgd(0.1)
    return strategies.fedavg(model, data.pointwise(1), optimizer=sgd, steps=1, batch_size=4)


def merging(strategy: Strategy) -> Strategy:
    """`adapted`, whose rounds add to the base."""

    def round(key, state, cohort, chunk=None):
        state, info = strategy.round(key, state, cohort, chunk)
        base = Frozen(state.shared["base"].value + 0.5)
        return replace(state, shared=state.shared | {"base": base}), info

    return replace(strategy, round=round)
