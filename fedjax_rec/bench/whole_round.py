"""A strategy's round of all clients as a call that is repeated, its state updated in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Cohort, Strategy


def whole_round(strategy: Strategy, store) -> tuple[Callable[[], Any], Any]:
    """(call, the compiled round, called jit_round): call() takes the state one round on, and
    returns the model and the RoundInfo."""
    ids = jnp.arange(store.num_clients, dtype=jnp.int32)
    key = jax.random.key(0)
    state = strategy.init(key, store.num_clients)

    def round(key, state, data):
        return strategy.round(key, state, Cohort(ids, data))

    compiled: Any = jax.jit(round, donate_argnums=1).lower(key, state, store).compile()

    def call():
        nonlocal state
        state, info = compiled(key, state, store)
        return state.shared, info

    return call, compiled
