"""Rows of items by how much each client changed them, the aggregation of items in ActvAGG (Muhammad
et al., "FedFast", KDD 2020).

    q_k[i] = |u_k[i]|_1,   x[i] <- x[i] + sum_k q_k[i] u_k[i] / sum_k q_k[i]

over the clients that touched row i; other leaves by examples, as in `mean`. Whoever changes a row
ten times as far counts ten times as much on it, whoever it is: a client can pull a row as far as
it likes, against which the rules of `docs/robustness.md` are.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from .. import rows
from ..types import Aggregator, Upload


def by_change() -> Aggregator:
    """sum_k q_k[i] u_k[i] / sum_k q_k[i] of each row i, with q_k[i] = |u_k[i]|_1; leaves that are
    no tables by examples. A row that nobody changed stays.

    Example:
        >>> rule = aggregate.by_change()
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=rule)
    """

    def reduce(state, uploads: Upload, now):
        there = (uploads.weight > 0).astype(jnp.float32)

        def amounts(x):
            """q_k[i] as rows of one column."""
            length = jnp.abs(x.values.astype(jnp.float32)).sum(-1, keepdims=True)
            return replace(x, values=jnp.where(x.live[..., None], length, 0))

        def weighted(x):
            if not rows.is_table(x):
                return rows.weighted_sum(uploads.weight, x)
            return rows.weighted_sum(there, replace(x, values=amounts(x).values * x.values))

        def summed(x):
            """float[I], or of what is no table how many examples there are."""
            if not rows.is_table(x):
                return uploads.weight.sum()
            return rows.to_dense(rows.weighted_sum(there, amounts(x)))[:, 0]

        update = rows.deltas(uploads.update)
        return {
            "update": rows.map_nodes(weighted, update),
            "amount": rows.map_nodes(summed, update),
        }

    def finish(key, state, summary, now):
        def one(x, amount):
            share = jnp.where(amount > 0, 1 / jnp.where(amount > 0, amount, 1.0), 0.0)
            if not rows.is_table(x):
                return x * share
            if x.ids is not None:
                share = share.at[x.ids].get(mode="clip")
            return rows.scale(x, share[:, None])

        return state, rows.map_nodes(one, summary["update"], summary["amount"]), None

    return Aggregator(lambda shared: (), reduce, finish)
