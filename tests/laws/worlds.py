"""Small packed data sets built by hand, and rounds on them, compiled once a test run.

`whole`: 23 users, 40 items, up to 20 interactions, so local tables are whole tables.
`compact`: 23 users, 400 items, up to 6 interactions, so clients train on touched rows.
`silos`: the users over 5 clients, likewise; `one`: all of them in one.
User 5 has no training interaction. Ratings are 1 to 5.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import clients, strategies
from fedjax_rec.data import batches, pack_examples
from fedjax_rec.data import clicks as synthetic_clicks
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.data.store import Dataset, pack
from fedjax_rec.types import Cohort, State, Strategy

USERS = 23
KEY = jax.random.key(7)


def world(
    users: int, items: int, longest: int, clients: int | None = None, seed=0, history=0
) -> Dataset:
    """Packed: user u has 1 + (7 u mod longest) training interactions, and one for the test."""
    rng = np.random.default_rng(seed)
    count = 2 + 7 * np.arange(users) % longest
    if users > 5:
        count[5] = 1
    start = np.concatenate([[0], np.cumsum(count)])
    # A user's items lie near one another, so that there is something to learn.
    chosen = [
        rng.permutation(max(items // 2, longest + 2))[:n] + (items // 2) * (u % 2)
        for u, n in enumerate(count)
    ]
    interactions = Interactions(
        "world",
        np.repeat(np.arange(users), count).astype(np.int32),
        np.concatenate(chosen).astype(np.int32) % items,
        np.arange(start[-1], dtype=np.float64),
        rng.integers(1, 6, start[-1]).astype(np.float32),
        np.arange(users).astype(str),
        np.arange(items).astype(str),
    )
    part = np.full(start[-1], TRAIN, np.int8)
    part[start[1:] - 1] = TEST
    partition = None
    if clients is not None:
        partition = Partition((np.arange(users) * 3 % clients).astype(np.int32), clients)
    return pack(Split(interactions, part), partition, evaluation_negatives=0, history=history)


@functools.cache
def named(name: str) -> Dataset:
    sizes = {
        "whole": (USERS, 40, 20),
        "compact": (USERS, 400, 6),
        "silos": (USERS, 40, 12, 5),
        "compact silos": (USERS, 800, 6, 5),
        "one": (USERS, 40, 12, 1),
    }
    return world(*sizes[name])


@functools.cache
def clicks() -> Dataset:
    """12 clients with about 20 labelled examples of 5 ids below 300 and 3 features."""
    return pack_examples(synthetic_clicks(12, 20, 300, sparse=5, dense=3, strength=3.0))


def federated(data, model, optimizer=None, kind=None, chunk=4, training=None, **assembly):
    """A strategy of `model` on batches of 16."""
    client = clients.local_training(
        model,
        kind or batches.pointwise(4),
        optimizer or clients.sgd(0.5),
        **{"batch_size": 16, **(training or {})},
    )
    return strategies.federated(client, model, clients_per_chunk=chunk, **assembly)


def run(strategy: Strategy, data: Dataset, ids=None, rounds=1, state: State | None = None, key=KEY):
    """(state, info) after `rounds` rounds of the same cohort, full by default."""
    if state is None:
        state = strategy.init(key, data.num_clients)
    ids = jnp.arange(data.num_clients) if ids is None else jnp.asarray(ids, jnp.int32)
    step = compiled(strategy.round)
    for _ in range(rounds):
        state, info = step(key, state, Cohort(ids, data.store))
    return state, info


def compiled(f):
    """`f` compiled without costly optimisations: these tests compile for longer than they run."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def mean_loss(info) -> float:
    return float((info.metrics["loss"] * info.weight).sum() / info.weight.sum())


def close(a, b, rtol=1e-5, atol=1e-6):
    """Every leaf close, with the same structure."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)


def same(a, b):
    """Every leaf equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
