"""The same federated averaging as FedJAX's, side by side: CPU and wall seconds a round.

An item table and one shared affine scorer, BCE on fixed samples (each training interaction and four
uniform items), all clients, one local epoch of SGD in batches of 256, mean by examples, server SGD
at 1. No evaluation and no fresh negatives on either side. FedJAX runs its `jit` backend in an
environment of its own (see `fedjax`), with XLA's default threads and on one, of which the better
counts; this library before, between and after, of which the median counts.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import clients, data, models, simulate, strategies
from ..data.sources import sources
from ..data.splits import TRAIN
from ..types import Cohort
from . import fedjax
from .row import Row
from .timing import repeat

WIDTH, BATCH, RATE = 32, 256, 0.1
GOAL = {"ml-100k": 15, "ml-1m": 30}


def samples(source: str):
    """(items, labels, offsets, num_items): training interactions with four uniform items each."""
    split = data.leave_one_out()(data.implicit(data.load(source)))
    found = split.interactions
    train = split.part == TRAIN
    users, items = found.users[train], found.items[train]
    drawn = np.random.default_rng(0).integers(0, found.num_items, (len(items), 4))
    all_items = np.concatenate([items[:, None], drawn], 1).reshape(-1).astype(np.int32)
    labels = np.tile(np.array([1, 0, 0, 0, 0], np.float32), len(items))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users) * 5)])
    return all_items, labels, offsets.astype(np.int64), found.num_items


class SharedScorer(nnx.Module):
    def __init__(self, num_items, rngs):
        self.item = models.Rows(0.1 * jax.random.normal(rngs.params(), (num_items, WIDTH)))
        self.weight = nnx.Param(0.1 * jax.random.normal(rngs.params(), (WIDTH,)))
        self.bias = nnx.Param(jnp.zeros(()))

    def loss(self, batch, key):
        scores = self.item[batch["items"]] @ self.weight[...] + self.bias[...]
        return models.bce()(scores, batch)

    def score(self, items, user):
        return self.item[items] @ self.weight[...] + self.bias[...]


def ours(items, labels, offsets, num_items, rounds: int):
    """(timing, loss of the last round) of this library."""
    length = np.diff(offsets).astype(np.int32)
    held = data.Store(
        items=jnp.asarray(items), labels=jnp.asarray(labels), owners=None, users=None,
        start=jnp.asarray(offsets[:-1], jnp.int32), length=jnp.asarray(length), exclusion=None,
        num_items=num_items, longest=int(length.max()),
    )  # fmt: skip
    model = models.from_nnx(lambda rngs: SharedScorer(num_items, rngs))
    strategy = strategies.fedavg(
        model, data.ratings(), optimizer=clients.sgd(RATE), batch_size=BATCH
    )
    ids = jnp.arange(len(length), dtype=jnp.int32)
    state = strategy.init(jax.random.key(0), len(length))
    one = jax.jit(lambda k, s, d: strategy.round(k, s, Cohort(ids, d)), donate_argnums=1)
    loss = 0.0

    def call():
        nonlocal state, loss
        state, info = one(jax.random.key(0), state, held)
        loss = (info.metrics["loss"] * info.weight).sum() / info.weight.sum()
        return state, loss

    return repeat(call, rounds), float(loss)


@contextmanager
def _threads(count: str | None):
    before = os.environ.pop("NPROC", None)
    if count:
        os.environ["NPROC"] = count
    try:
        yield
    finally:
        os.environ.pop("NPROC", None)
        if before:
            os.environ["NPROC"] = before


def versus_fedjax(source: str) -> Iterator[Row]:
    simulate.configure(1, cache=None)
    made = samples(source)
    small = source == "ml-100k"
    python = fedjax.prepare(sources.cache() / "fedjax")
    mine = [ours(*made, rounds=9 if small else 5)]
    theirs = []
    for threads in (None, "1"):
        with _threads(threads):
            theirs.append(
                fedjax.measure(
                    *made, python=python, width=WIDTH, batch=BATCH, learning_rate=RATE,
                    rounds=6 if small else 3,
                )
            )  # fmt: skip
        mine.append(ours(*made, rounds=9 if small else 5))
    cpu = min(t["cpu_seconds"] for t in theirs)
    wall = min(t["wall_seconds"] for t in theirs)
    my_cpu = statistics.median(timing.cpu for timing, _ in mine)
    my_wall = statistics.median(timing.wall for timing, _ in mine)
    my_loss = mine[0][1]
    name = f"FedAvg {source}"
    yield Row("fedjax", f"{name}: this library, CPU seconds a round", my_cpu, "s", "")
    yield Row("fedjax", f"{name}: FedJAX {theirs[0]['fedjax']}, CPU seconds a round", cpu, "s", "")
    goal = f">= {GOAL[source]}"
    yield Row("fedjax", f"{name}: FedJAX's CPU time over ours", cpu / my_cpu, "x", goal)
    yield Row("fedjax", f"{name}: FedJAX's wall time over ours", wall / my_wall, "x", "")
    yield Row("fedjax", f"{name}: our loss in the last timed round", my_loss, "", "")
    yield Row("fedjax", f"{name}: FedJAX's loss after its rounds", theirs[0]["loss"], "", "")
