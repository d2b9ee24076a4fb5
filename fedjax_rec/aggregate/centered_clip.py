"""Centered clipping: a mean of what updates add to the last aggregate, clipped around it.

    v_t = v + 1/n sum_k (u_k - v) min(1, tau / |u_k - v|),   v = v_{t-1}, from 0

(Karimireddy, He, Jaggi, "Learning from history for Byzantine robust optimization", ICML 2021, with
one step a round.) Breakdown point: 1/2 with tau of the order of the spread of honest updates; an
attacker moves v by 2 tau / n at most. Cost: one pass over updates and one over v; summaries add up.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import rows
from ..check import positive
from ..types import Aggregator, PyTree, Upload
from .listed import listed
from .norm_bound import bound_factor, norms


def centered_clip(tau: float) -> Aggregator:
    """The mean of updates around the last aggregate, each clipped to a distance from it.

    Updates are judged whole: a row that a client did not touch is a zero. A row that nobody touched
    in a round stays, and is forgotten in v: all said zero of it. Each client counts once, whatever
    it weighs. Nobody is rejected.

    Args:
        tau: the largest distance from v at which an update counts in full. Positive.

    Returns:
        An `Aggregator` whose summaries add up, and whose state is the last aggregate: a whole
        model's worth.

    Raises:
        ValueError: for tau that is not positive.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.centered_clip(tau=1.0).additive
        True
    """
    positive("centered_clip", "tau", tau)

    def reduce(state, uploads: Upload, now):
        sent = listed(uploads, now)
        there = sent.there.astype(jnp.float32)
        factor = there * bound_factor(distances(sent.update, state), tau)
        counts = {"clients": there.sum(), "factor": factor.sum()}
        touched = rows.clients_per_row(there, sent.update)
        return {"update": rows.weighted_sum(factor, sent.update), "touched": touched, **counts}

    def finish(key, state, summary, now):
        clients = jnp.maximum(summary["clients"], 1)
        keep = 1 - summary["factor"] / clients
        total = rows.to_dense(summary["update"])

        def one(v, u, touched):
            old = v.values if rows.is_table(v) else v
            somebody = touched[:, None] > 0 if rows.is_table(v) else touched > 0
            return jnp.where(somebody, keep * old + u / clients, 0)

        after = rows.map_nodes(one, state, total, summary["touched"])
        after = rows.with_values(state, after)
        zero = rows.with_values(state, jax.tree.map(jnp.zeros_like, rows.dense(state)))
        return after, rows.difference(after, zero), None

    return Aggregator(rows.zeros_of, reduce, finish)


def distances(updates: PyTree, center: PyTree) -> jax.Array:
    """float32[c]: |u_k - v|, v with whole tables or an array for each. By the rows that a client
    touched, and what v is elsewhere."""
    elsewhere = []

    def one(u, v):
        v = v.values if rows.is_table(v) else v
        if not rows.is_table(u):
            return u - v
        if u.ids is None:
            return u.values - v
        near = v.at[u.ids].get(mode="fill", fill_value=0)
        elsewhere.append((v**2).sum() - (near**2).sum((1, 2)))
        return u.values - near

    apart = norms(rows.map_nodes(one, updates, center))
    rest = sum(elsewhere, start=jnp.zeros(apart.shape))
    return jnp.sqrt(apart**2 + jnp.maximum(rest, 0))
