"""The geometric median of whole updates, by smoothed Weiszfeld steps.

    z = argmin_z sum_k |u_k - z|,   z <- sum_k u_k b_k / sum_k b_k,   b_k = 1 / max(nu, |u_k - z|)

from z = 0 (Pillutla, Kakade, Harchaoui, "Robust aggregation for federated learning", IEEE TSP
2022). Breakdown point: less than half of the clients, 1/2. Cost: inner products of all pairs once,
n^2 P, and n^2 a step; or, of many clients, two passes over n P numbers a step, which is less.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, positive, static
from ..types import Aggregator, PyTree
from .centered_clip import distances
from .gram import gram, to_sum
from .listed import Listed, listing

MANY = 32  # clients a step from which passes cost less than inner products


def geometric_median(nu: float = 1e-3, steps: int = 8) -> Aggregator:
    """The point with the least sum of distances to the clients' updates.

    Updates are judged whole: a row that a client did not touch is a zero. Each client counts once,
    whatever it weighs; nobody is rejected, and who is far weighs little.

    Args:
        nu: distance below which an update is not weighed up any further, in the units of the norm
            of an update. Positive.
        steps: of Weiszfeld. 1 or more.

    Returns:
        An `Aggregator` that lists uploads.

    Raises:
        ValueError: for nu that is not positive, or fewer steps than 1.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.geometric_median(nu=0.1, steps=3).additive
        False
    """
    positive("geometric_median", "nu", nu)
    static("geometric_median", "steps", steps)
    at_least("geometric_median", "steps", steps, 1)

    def weiszfeld(there, distances):
        def step(_, weights):
            near = jnp.where(there, 1 / jnp.maximum(distances(weights), nu), 0)
            total = near.sum()
            return near / jnp.where(total > 0, total, 1)

        return jax.lax.fori_loop(0, steps, step, jnp.zeros(there.shape))

    def finish(key, state, uploads: Listed, now):
        updates, there = uploads.update, uploads.there
        if there.shape[0] < MANY * steps:
            products = gram(updates)
            apart = lambda weights: to_sum(products, weights)
        else:
            apart = lambda weights: distances(updates, _sum(weights, updates))
        return state, rows.weighted_sum(weiszfeld(there, apart), updates), None

    return listing(finish)


def _sum(weights: jax.Array, updates: PyTree) -> PyTree:
    return rows.to_dense(rows.weighted_sum(weights, updates))
