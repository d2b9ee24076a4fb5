"""A strategy whose clients know what their users are like: features that lie with them.

They are a private leaf `about` of the model, zero where nobody says: it is set before the first
round, is in no message, and no gradient comes to it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Strategy

ABOUT = "about"


def described(strategy: Strategy, users: Any) -> Strategy:
    """`strategy` whose clients begin with the features of their users.

    Args:
        strategy: of a model with a private leaf `about`, such as `models.feature_mf`; wherever the
            strategy keeps it.
        users: float[N, members, Fu], as `data.features` makes them by client.

    Raises:
        ValueError: in `init`, where clients keep no such leaf, or one of another shape.

    Example:
        >>> about = np.ones((dataset.num_users, 1, 3), np.float32)
        >>> model = models.feature_mf(num_items, width=4, user_features=about)
        >>> strategy = strategies.described(strategies.fedncf(model, data.pointwise(4)), about)
    """
    values = np.asarray(users, np.float32)

    def init(key, num_clients):
        state = strategy.init(key, num_clients)
        found = []

        def leaf(path, x):
            if getattr(path[-1], "key", None) != ABOUT:
                return x
            if x.shape != values.shape:
                raise ValueError(
                    f"described(users: {values.shape}): clients keep {x.shape} of them; give "
                    "[N, members, columns] of the same data."
                )
            found.append(path)
            return jnp.array(values, x.dtype)  # a copy: a run is given its state, and takes it up

        private = jax.tree_util.tree_map_with_path(leaf, state.private)
        if not found:
            raise ValueError(
                "described(strategy): its clients keep no features of users; use a model that "
                "reads them, such as feature_mf, and a strategy that keeps what is private."
            )
        return replace(state, private=private)

    return replace(strategy, init=init)
