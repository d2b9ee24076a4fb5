"""FLTrust: clients count by how far they go the way of an update that the server makes itself.

    t_k = max(0, cos(u_k, u_0)),   u = 1 / sum_k t_k  sum_k t_k |u_0| / |u_k| u_k

u_0 is the update of a client that the server trusts: its own, on a few examples that it has
collected, the root data (Cao, Fang, Liu, Gong, "FLTrust: Byzantine-robust federated learning via
trust bootstrapping", NDSS 2021, algorithm 2). Breakdown point: none in the number of attackers,
even where all but the server lie; the aggregate is never longer than u_0. It is no better than the
root data: where these say nothing of a row, an attacker who agrees with them elsewhere may write
what it likes there, up to |u_0|. Cost: a client's round at the server, and one pass.

Updates are judged whole: a row that a client did not touch is a zero, so that clients with few
items in common with the root data are trusted little.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import rows
from ..made import part
from ..types import Aggregator, PyTree
from .gram import PRECISE
from .listed import Listed, listing
from .norm_bound import norms


@part
class Root:
    """The client that the server trusts.

    init(shared) -> state: what it keeps between rounds, such as vectors of its users.
    update(key, state, now) -> (state, update): its round, from `now.shared`: an array for each
        dense leaf and float[I, D] for each table.
    """

    update: Callable[..., tuple[PyTree, PyTree]]
    init: Callable[[PyTree], PyTree] = lambda shared: ()


def fltrust(root: Root | None = None) -> Aggregator:
    """The mean of updates, scaled to the length of the server's own and weighted by their cosine
    with it.

    Each client counts once, whatever it weighs; those that do not go the server's way are rejected.
    `strategies.fltrust` makes a root of the strategy's own client and of data that the server has.

    Args:
        root: the client that the server trusts.

    Returns:
        An `Aggregator` that lists uploads. Where nobody goes the server's way nothing moves.

    Raises:
        ValueError: for no root.

    Example:
        >>> from fedjax_rec import aggregate
        >>> ahead = aggregate.Root(lambda key, state, now: (state, {"bias": jnp.ones(3)}))
        >>> aggregate.fltrust(ahead).additive
        False
    """
    if root is None:
        raise ValueError(
            "fltrust(root=None) has nothing to trust; give a Root, or root data to "
            "strategies.fltrust(root=store)."
        )

    def finish(key, state, uploads: Listed, now):
        state, trusted = root.update(key, state, now)
        length, along = norms(uploads.update), _products(uploads.update, trusted)
        own = jnp.sqrt(sum(jax.tree.leaves(rows.map_nodes(_square, trusted)), start=jnp.zeros(())))
        scale = jnp.where(length * own > 0, 1 / jnp.where(length * own > 0, length * own, 1), 0)
        trust = jnp.where(uploads.there, jnp.maximum(along * scale, 0), 0)
        together = trust.sum()
        share = trust / jnp.where(together > 0, together, 1)
        weights = share * own * jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
        update = rows.weighted_sum(weights, uploads.update)
        return state, update, (trust > 0).astype(jnp.float32)

    return listing(finish, root.init)


def _square(x) -> jax.Array:
    return (jnp.asarray(x, jnp.float32) ** 2).sum()


def _products(updates: PyTree, trusted: PyTree) -> jax.Array:
    """float32[n]: <u_k, u_0> of updates [n, ...] with arrays of the whole model."""
    found = []

    def one(u, v):
        values, v = (u.values, v) if rows.is_table(u) else (u, v)
        v = jnp.asarray(v, jnp.float32)
        if rows.is_table(u) and u.ids is not None:
            found.append((values * v.at[u.ids].get(mode="fill", fill_value=0)).sum((1, 2)))
        else:
            n = values.shape[0]
            flat = values.reshape(n, values.size // n)
            found.append(jnp.matmul(flat, v.reshape(-1), precision=PRECISE))

    rows.map_nodes(one, updates, trusted)
    return sum(found, start=jnp.zeros(()))
