"""Small packed data sets and models, made once: what laws of whole clients and rounds play in.

- `interactions()`  7 clients of one user, 211 items, at most 4 interactions: clients train on the
                    rows that they touch. Client 5 has nothing.
- `silos()`         3 clients of several users on 24 items: local tables are whole tables
- `impressions()`   6 clients with labelled examples of 3 ids and 2 features
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from .. import data, models, rows
from ..data.partition import Partition
from ..data.splits import TEST, TRAIN, Split
from ..trees import Frozen
from ..types import Model, Ranking

USERS = 7
EMPTY = 5  # the client of `interactions` that has nothing to train on


@functools.cache
def interactions() -> data.Dataset:
    return _packed(USERS, 211, 4)


@functools.cache
def silos() -> data.Dataset:
    return _packed(USERS, 24, 6, clients=3)


@functools.cache
def impressions() -> data.Dataset:
    return data.pack_examples(data.clicks(6, 12, 90, sparse=3, dense=2, strength=3.0))


def _packed(users: int, items: int, longest: int, clients: int | None = None) -> data.Dataset:
    """User u has 1 + (3 u mod longest) training interactions, and one for the test."""
    rng = np.random.default_rng(0)
    count = 2 + 3 * np.arange(users) % longest
    count[EMPTY] = 1
    start = np.concatenate([[0], np.cumsum(count)])
    # A user's items lie near one another, so that there is something to learn.
    chosen = [rng.permutation(items // 2)[:n] + (items // 2) * (u % 2) for u, n in enumerate(count)]
    found = data.Interactions(
        "toy",
        np.repeat(np.arange(users), count).astype(np.int32),
        np.concatenate(chosen).astype(np.int32),
        np.arange(start[-1], dtype=np.float64),
        rng.integers(1, 6, start[-1]).astype(np.float32),
        np.arange(users).astype(str),
        np.arange(items).astype(str),
    )
    part = np.full(start[-1], TRAIN, np.int8)
    part[start[1:] - 1] = TEST
    partition = None
    if clients is not None:
        partition = Partition((np.arange(users) % clients).astype(np.int32), clients)
    return data.pack(Split(found, part), partition, evaluation_negatives=5)


def toy_model(num_items: int, members: int = 1, width: int = 4) -> Model:
    """score(u, i) = p_u . (q_i + f_i) + b, of a table, a frozen one, a private vector and a bias
    that is trained whole: a leaf of each kind."""

    def init(key, common=None):
        draw = lambda i, n: 0.5 * jax.random.normal(jax.random.fold_in(key, i), (n, width))
        table = rows.Table(draw(0, num_items))
        shared = {"item": table, "base": Frozen(draw(1, num_items)), "bias": jnp.zeros(())}
        return shared, {"user": draw(2, members)}

    def whole(shared, items):
        return shared["item"][items] + shared["base"].value[items]

    def loss(shared, private, batch, key):
        user = private["user"][batch.get("users", 0)]
        logits = (whole(shared, batch["items"]) * user).sum(-1) + shared["bias"]
        return models.bce()(logits, batch)

    def score(shared, private, items, user):
        return whole(shared, items) @ private["user"][user] + shared["bias"]

    return Model(init, loss, Ranking.of(score))


def of_client(store, id: int):
    """What the client `id` holds, alone in its chunk."""
    taken = store.take(jnp.int32([id]))
    axes = store.axes()
    return jax.tree.map(
        lambda axis, x: x if axis is None else jax.tree.map(lambda leaf: leaf[0], x),
        axes, taken, is_leaf=lambda x: x is None,
    )  # fmt: skip
