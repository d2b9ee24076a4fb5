"""Means of updates that are clipped: none is longer than a bound, whole or row by row.

    whole:    u = 1/K sum_k u_k min(1, bound / |u_k|)
    per row:  u[i] = 1/K sum_k u_k[i] min(1, bound / |u_k[i]|),   K clients in the round

(Sun et al., "Can you really backdoor federated learning?", 2019, of whole updates.) Dividing by K,
and not by the clients that touched the row, is what keeps a row that few touch from belonging to
them: f attackers move it by f bound / K at most. Breakdown point: none, each attacker moves the
mean by bound / K at most. Cost: one pass; summaries add up.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import positive
from ..types import Aggregator, PyTree, Upload
from .listed import listed


def norm_bound(bound: float) -> Aggregator:
    """The mean of updates that are clipped to a norm, of all that a client sends together.

    Each client counts once, whatever it weighs: an attacker states its own weight. Nobody is
    rejected.

    Args:
        bound: the largest norm of an update, over all dense leaves and rows. Positive.

    Returns:
        An `Aggregator` whose summaries add up.

    Raises:
        ValueError: for a bound that is not positive.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.norm_bound(1.0).additive
        True
    """
    positive("norm_bound", "bound", bound)

    def clipped(there, update):
        return rows.weighted_sum(there * bound_factor(norms(update), bound), update)

    return _mean_of(clipped)


def row_norm_bound(bound: float, dense_bound: float | None = None) -> Aggregator:
    """The mean of updates of which every row is clipped to a norm, over all clients of the round.

    A row that 4 of 256 clients touched moves by their clipped sum over 256, so learning rates of
    the server or of the clients have to be larger than under `per_row`. Each client counts once,
    whatever it weighs. Nobody is rejected.

    Args:
        bound: the largest norm of a row of an update. Positive.
        dense_bound: the largest norm of each dense leaf, which is one row; None for `bound`.

    Returns:
        An `Aggregator` whose summaries add up.

    Raises:
        ValueError: for a bound that is not positive.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.row_norm_bound(0.1).additive
        True
    """
    positive("row_norm_bound", "bound", bound)
    if dense_bound is not None:
        positive("row_norm_bound", "dense_bound", dense_bound)

    def clipped(there, update):
        def one(x):
            if rows.is_table(x):
                factor = bound_factor(_lengths(x.values, 2), bound)
                return rows.weighted_sum(there, replace(x, values=x.values * factor[..., None]))
            factor = bound_factor(_lengths(x, 1), bound if dense_bound is None else dense_bound)
            return rows.weighted_sum(there * factor, x)

        return rows.map_nodes(one, update)

    return _mean_of(clipped)


def norms(update: PyTree) -> jax.Array:
    """float32[c]: |u_k| of each client, of updates as `listed` has them."""
    arrays = [x.values if rows.is_table(x) else x for x in rows.nodes(update)]
    return jnp.sqrt(sum(_lengths(x, 1) ** 2 for x in arrays))


def bound_factor(norm: jax.Array, bound) -> jax.Array:
    """min(1, bound / norm)."""
    return jnp.minimum(1, bound / jnp.maximum(norm, 1e-30))


def _lengths(x: jax.Array, axes: int) -> jax.Array:
    """The norm over all but the first `axes` axes."""
    return jnp.sqrt((x.reshape(*x.shape[:axes], -1) ** 2).sum(-1))


def _mean_of(clipped) -> Aggregator:
    """1/K of clipped(there float32[c], update), the sum of what clients are clipped to."""

    def reduce(state, uploads: Upload, now):
        sent = listed(uploads, now)
        there = sent.there.astype(jnp.float32)
        return {"update": clipped(there, sent.update), "clients": there.sum()}

    def finish(key, state, summary, now):
        return state, rows.scale(summary["update"], 1 / jnp.maximum(summary["clients"], 1)), None

    return Aggregator(lambda shared: (), reduce, finish)
