"""A strategy's round of all clients as a call that is repeated, its state updated in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..types import Cohort, Strategy


def whole_round(strategy: Strategy, store) -> tuple[Callable[[], Any], Any]:
    """(call, XLA's memory analysis): call() takes the state one round on, and returns the model and
    the RoundInfo."""
    ids = jnp.arange(store.num_clients, dtype=jnp.int32)
    key = jax.random.key(0)
    state = strategy.init(key, store.num_clients)
    one = jax.jit(lambda k, s, d: strategy.round(k, s, Cohort(ids, d)), donate_argnums=1)
    compiled: Any = one.lower(key, state, store).compile()

    def call():
        nonlocal state
        state, info = compiled(key, state, store)
        return state.shared, info

    return call, compiled.memory_analysis()
