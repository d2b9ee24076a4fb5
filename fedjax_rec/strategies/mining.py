"""Which items are popular, mined by the server: rows that many clients train move most.

    moved_i = |q_i after `rounds` rounds - q_i at the start|,   the P items that moved furthest

PIECK finds popular items so (Zhang, Li, et al., ICDE 2024), to attack and to defend. The server
keeps the items as they began until it knows, and hands out the rows of popular ones with the model:
`models.with_popular` reads them. They stay the popular ones from then on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import trees
from ..check import at_least
from ..models.contrastive import items_of
from ..servers.step import as_server, step
from ..types import PyTree, Server, Transform


def mining(server: Server | Transform | None = None, rounds: int = 4) -> Server:
    """`server` on a model from `models.with_popular`, whose popular items it finds.

    Rows that it hands out, P of them, are not billed: they come with the rows that a client asks
    for anyway, or are P D numbers more.

    Args:
        server: what steps on the model; default `step(1.0)`.
        rounds: that it watches items move, from the first. 1 or more.

    Returns:
        A `Server` whose state holds a copy of the items.

    Raises:
        ValueError: for rounds below 1, and for a model that has no room for popular items.

    Example:
        >>> server = strategies.mining(strategies.step(1.0), rounds=4)
    """
    at_least("mining", "rounds", rounds, 1)
    optimizer = as_server(server or step(1.0))

    def init(shared):
        table = jnp.asarray(items_of(_checked(shared)["model"]).values, jnp.float32)
        return {"optimizer": optimizer.init(shared), "begun": table, "steps": jnp.int32(0)}

    def apply(state, shared, update):
        moved, after = optimizer.apply(state["optimizer"], shared, update)
        steps, known = state["steps"] + 1, after["popular"].value
        now = jnp.asarray(items_of(after["model"]).values, jnp.float32)
        distance = ((now - state["begun"]) ** 2).sum(-1)
        _, furthest = jax.lax.top_k(distance, known["ids"].shape[0])
        ids = jnp.where(steps == rounds, furthest.astype(jnp.int32), known["ids"])
        read = now.at[ids].get(mode="fill", fill_value=0)
        popular = trees.Frozen({"ids": ids, "rows": read})
        state = {"optimizer": moved, "begun": state["begun"], "steps": steps}
        return state, {**after, "popular": popular}

    return Server(init, apply)


def _checked(shared: PyTree) -> PyTree:
    if not isinstance(shared, dict) or "popular" not in shared:
        raise ValueError(
            "mining(server) has nowhere to put popular items; make the model with "
            "models.with_popular(model)."
        )
    return shared
