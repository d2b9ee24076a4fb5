"""A small world for attacks: 60 users of 40 items, 8 of which most have; item 39 nobody likes."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from test_targets import crowd

from fedjax_rec import aggregate, data, evaluate, models, strategies
from fedjax_rec.types import Cohort

TARGET, USERS = 39, 60


TOTAL, PER_ROW = 0.3, 5.0  # rates of items whose gradients are summed, or averaged


class Found(NamedTuple):
    """shown: ER@5 of the target; hits: HR@5; first, items: float[40, 6], before and after."""

    shown: float
    hits: float
    first: np.ndarray
    items: np.ndarray


def trained(rule, split=None, examples=None, rounds: int = 40, rate: float = TOTAL) -> Found:
    """FedMF of all clients after some rounds, of users that were there without an attack."""
    ds = data.pack((split or data.leave_one_out())(crowd()), evaluation_negatives=0)
    model = models.fedmf(ds.num_items, width=6, scale=0.1)
    strategy = strategies.fedmf(
        model, examples or data.pointwise(1), aggregator=rule, item_learning_rate=rate,
        batch_size=64,
    )  # fmt: skip
    metrics = evaluate.metrics(["er@5", "hr@5"])
    protocol = evaluate.beside(
        evaluate.exposure(metrics[:1], [TARGET], 40), evaluate.full_catalogue(metrics[1:], 40), ""
    )

    @jax.jit
    def run(key):
        first = strategy.init(key, ds.num_clients)
        cohort = Cohort(jnp.arange(ds.num_clients), ds.store)
        turn = lambda i, state: strategy.round(key, state, cohort, ds.num_clients)[0]
        last = jax.lax.fori_loop(0, rounds, turn, first)
        told = evaluate.evaluate_users(model, protocol, last.shared, last.private, ds.test)
        return told, first.shared["item"].values, last.shared["item"].values

    values, first, last = map(np.asarray, run(jax.random.key(1)))
    assert len(values) == USERS
    return Found(*np.nanmean(values, 0).tolist(), first, last)


@cache
def summed() -> Found:
    """Of sums, where nobody attacks."""
    return trained(aggregate.total())


@cache
def averaged() -> Found:
    """Of rows that are averaged over their clients, where nobody attacks."""
    return trained(aggregate.per_row(), rate=PER_ROW)
