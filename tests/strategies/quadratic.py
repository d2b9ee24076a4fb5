"""A problem with a closed form: client k wants its rows at t_k and a dense vector at b_k.

    f_k(q, x) = 1/n_k sum_{i in items of k} 1/2 |q_i - t_ki|^2 + 1/2 sum_d a_kd (x_d - b_kd)^2

Every batch is all of the client's examples, so that a step is one of gradient descent.
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import rows
from fedjax_rec.data.batches import Batches
from fedjax_rec.types import Model, Ranking

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import worlds

WIDTH = 3


class Problem:
    def __init__(self, name: str, seed: int = 0):
        self.data = worlds.named(name)
        draw = np.random.default_rng(seed)
        self.clients, self.items = self.data.num_clients, self.data.num_items
        self.target = draw.normal(size=(self.clients, self.items, WIDTH)).astype(np.float32)
        self.curve = draw.uniform(0.2, 2.0, (self.clients, WIDTH)).astype(np.float32)
        self.goal = draw.normal(size=(self.clients, WIDTH)).astype(np.float32)
        store = self.data.store
        start, count = np.asarray(store.start), np.asarray(store.length)
        items = np.asarray(store.items)
        self.own = [items[s : s + n] for s, n in zip(start, count, strict=True)]
        self.sizes = np.array([len(x) for x in self.own], float)
        self.start = draw.normal(size=(self.items, WIDTH)).astype(np.float32)

    def model(self) -> Model:
        def init(key, common=None):
            return {"item": rows.Table(jnp.asarray(self.start)), "x": jnp.zeros(WIDTH)}, {}

        def loss(shared, private, batch, key):
            far = 0.5 * ((shared["item"][batch["items"]] - batch["t"]) ** 2).sum(-1)
            far = far + 0.5 * (batch["a"] * (shared["x"] - batch["b"]) ** 2).sum(-1)
            return (batch["mask"] * far).sum() / jnp.maximum(batch["mask"].sum(), 1)

        score = lambda shared, private, items, user: shared["item"][items][:, 0]
        return Model(init, loss, Ranking.of(score))

    def examples(self) -> Batches:
        target, curve, goal = map(jnp.asarray, (self.target, self.curve, self.goal))

        def draw(seed, data, q):
            items = data.store.items.at[data.start + q.astype(jnp.int32)].get(mode="clip")
            same = lambda x: jnp.broadcast_to(x[data.id], (q.size, WIDTH))
            return {"items": items, "t": target[data.id, items], "a": same(curve), "b": same(goal)}

        return Batches(lambda data: data.length, lambda store: store.longest, draw, {"items": 1})

    def gradient(self, k: int, q: np.ndarray, x: np.ndarray):
        """(gradient in q, in x) of f_k, in NumPy."""
        of_q = np.zeros_like(q)
        of_q[self.own[k]] = (q[self.own[k]] - self.target[k, self.own[k]]) / len(self.own[k])
        return of_q, self.curve[k] * (x - self.goal[k])


def of(tree, array=np.asarray):
    """(q, x) of a model-shaped pytree."""
    return array(tree["item"].values), array(tree["x"])


def rounds(problem: Problem, strategy, cohorts):
    """State after a round of each cohort, and the infos. Cohorts are padded: one compilation."""
    step, infos = worlds.compiled(strategy.round), []
    state = strategy.init(worlds.KEY, problem.clients)
    for ids in cohorts:
        padded = jnp.full(problem.clients, problem.clients).at[: len(ids)].set(jnp.asarray(ids))
        state, info = step(worlds.KEY, state, worlds.Cohort(padded, problem.data.store))
        infos.append(jax.tree.map(lambda x, n=len(ids): x[:n], info))
    return state, infos


def from_start(problem: Problem, strategy):
    """ids -> (q, x) after one round of these clients from the start, compiled once."""
    step = worlds.compiled(strategy.round)
    state = strategy.init(worlds.KEY, problem.clients)

    def after(ids):
        padded = jnp.full(problem.clients, problem.clients).at[: len(ids)].set(jnp.asarray(ids))
        there = worlds.Cohort(padded, problem.data.store)
        return of(step(worlds.KEY, state, there)[0].shared)

    return after
