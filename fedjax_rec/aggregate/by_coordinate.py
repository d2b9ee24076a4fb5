"""An aggregator of a function on the numbers that clients say of each coordinate.

    u[i] = rule {u_k[i] : k touched row i},  and of a dense leaf over all clients

The shortest way to a rule of one's own. `median` and its like sort what was said of each row
instead, and lay no table out for each client.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..rows import RowsUpdate
from ..types import Aggregator
from .listed import Listed, listing


def by_coordinate(rule: Callable[[jax.Array], jax.Array]) -> Aggregator:
    """rule(values float[n, ...]) -> float[...] of the updates of n clients, NaN where a client said
    nothing: it did not touch the row, or is padding. So the functions `jnp.nan...` are rules.

    Each client counts once, whatever it weighs, and nobody is rejected. What nobody said anything
    of stays where it is. Memory: n times the whole model.

    Args:
        rule: reduces the first axis. It must not hang on the order of the clients.

    Returns:
        An `Aggregator` that lists uploads.

    Raises:
        ValueError: in the round, for a rule that gives another shape.

    Example:
        >>> from fedjax_rec import aggregate
        >>> median = aggregate.by_coordinate(lambda values: jnp.nanmedian(values, axis=0))
    """

    def ruled(values: jax.Array, said: jax.Array) -> jax.Array:
        made = rule(jnp.where(said, values, jnp.nan))
        if made.shape != values.shape[1:]:
            raise ValueError(
                f"by_coordinate(rule) gives {list(made.shape)} of values {list(values.shape)}; "
                "reduce the first axis, as jnp.nanmedian(values, axis=0)."
            )
        return jnp.where(said.any(0), made, 0)

    def of_rows(x: RowsUpdate) -> RowsUpdate:
        values, live = x.values, x.live
        if x.ids is not None:
            n, size = live.shape[0], x.size
            at = jnp.arange(n)[:, None], x.ids
            whole = jnp.zeros((n, size, values.shape[-1]), values.dtype)
            values = whole.at[at].set(values, mode="drop")
            live = jnp.zeros((n, size), bool).at[at].set(live, mode="drop")
        return RowsUpdate(ruled(values, live[..., None]), None, live.any(0), None, x.size)

    def finish(key, state, uploads: Listed, now):
        def one(x):
            return of_rows(x) if rows.is_table(x) else ruled(x, trees.leading(uploads.there, x))

        return state, rows.map_nodes(one, uploads.update), None

    return listing(finish)
