"""Whether a model scores as many items as the data have, found by shapes before a run begins.

A model of fewer items trains without a word: ids beyond its table are read as its last row, or
dropped, and among its few items every held-out one has a good rank.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..types import State, Strategy


def refuse_other_catalogue(strategy: Strategy, state: State, store) -> None:
    """Raises ValueError where `strategy.model` scores more or fewer items than `store` has.

    Nothing is looked at of a model that ranks nothing or cannot read this state, which matters
    where it is measured, and of a store that knows no items.
    """
    model, items = strategy.model, getattr(store, "num_items", None)
    if items is None or model.ranking is None:
        return
    size = getattr(strategy.examples, "history", 0)
    history = jnp.full(size, -1, jnp.int32) if size else None

    def scored(state):
        one = jax.tree.map(lambda x: x[0], state.private)
        return model.score(state.shared, one, slice(None), 0, history)

    try:
        found = jax.eval_shape(scored, state).shape[-1]
    except (AttributeError, KeyError, TypeError):  # what clients keep is not what it reads
        return
    if found != items:
        raise ValueError(
            f"the model scores {found} items and the data have {items}; make it with "
            f"num_items={items}."
        )
