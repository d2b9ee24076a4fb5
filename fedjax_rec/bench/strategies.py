"""Every strategy's round over that of federated averaging, at equal local work, on MovieLens-100K.

One local epoch of FedMF, width 32, in batches of 256, all 943 clients; no evaluation. Medians of
CPU seconds, each round beside one of FedAvg, so that a change of the machine's pace is in both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from .. import aggregate, clients, data, simulate, strategies
from ..models import fedmf
from ..types import Cohort, Strategy
from .row import Row
from .timing import repeat

ROUNDS = 7
# What a round costs beside local training of one model, where that is more than once.
MORE = {
    "scaffold": "a second model a client, read, written and sent",
    "model_swapping": "a model a client, written back, passed on and compared",
    "gossip_sgd": "a model a client, written back, mixed and compared",
    "fsvrg": "two gradients a batch, and a pass for the full gradient",
    "mime": "two gradients a batch, and a pass for the full gradient",
    "mime_lite": "a pass for the full gradient",
}


def strategies_100k() -> Iterator[Row]:
    """CPU seconds of FedAvg, and every other strategy over it."""
    simulate.configure(1, cache=None)
    packed = data.pack(data.leave_one_out()(data.implicit(data.load("ml-100k"))))
    model, examples = fedmf(packed.num_items), data.pointwise(4)
    usual = {"optimizer": clients.sgd(20.0), "aggregator": aggregate.per_row()}

    def made(recipe: Callable[..., Strategy], **settings) -> Strategy:
        return recipe(model, examples, **{**usual, **settings})

    def stack(recipe: Callable[..., Strategy], **settings) -> Strategy:
        return recipe(model, examples, optimizer=usual["optimizer"], **settings)

    others = {
        "fedavg, server fed_adam": made(strategies.fedavg, server=strategies.fed_adam()),
        "fedprox": made(strategies.fedprox),
        "fednova": made(strategies.fednova, aggregator=aggregate.normalized_per_row()),
        "scaffold": made(strategies.scaffold),
        "feddyn": made(strategies.feddyn, alpha=0.001),
        "fedsgd": strategies.fedsgd(model, examples, aggregator=aggregate.per_row()),
        "fsvrg": made(strategies.fsvrg),
        "mime": made(strategies.mime),
        "mime_lite": made(strategies.mime_lite),
        "model_swapping": stack(strategies.model_swapping),
        "gossip_sgd": stack(strategies.gossip_sgd, exchange=strategies.gossip(strategies.torus())),
    }

    def seconds(strategy: Strategy) -> Callable[[], float]:
        step = jax.jit(strategy.round, donate_argnums=1)
        held = [strategy.init(jax.random.key(0), packed.num_clients)]
        everyone = Cohort(jnp.arange(packed.num_clients), packed.store)

        def go():
            held[0], info = step(jax.random.key(0), held[0], everyone)
            return info

        return lambda: repeat(go, 1).cpu

    plain = seconds(made(strategies.fedavg))
    plain()
    own = statistics.median([plain() for _ in range(9)])
    yield Row("strategies", "fedavg, CPU seconds a round", own, "s", "")
    for name, strategy in others.items():
        mine = seconds(strategy)
        ratios = [mine() / plain() for _ in range(ROUNDS)]
        goal = "<= 2" if name not in MORE else f"({MORE[name]})"
        yield Row(
            "strategies", f"{name}: CPU time over fedavg's", statistics.median(ratios), "x", goal
        )
