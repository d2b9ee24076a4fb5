"""Means of updates, as sums that add over chunks.

- `mean()`:     sum_k n_k u_k / sum_k n_k, by examples (McMahan et al., AISTATS 2017)
- `uniform()`:  sum_k u_k / C
- `per_row()`:  for each table row, sum_k u_k[i] / #{k : k touched i}, as item-wise averaging in
                CoLR and CoFedRec; leaves that are no tables as `mean`

Clients of weight 0 are padding and do not count. A round without any client changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import rows
from ..types import Aggregator, Upload


def linear(
    weigh: Callable[[jax.Array], jax.Array], times: Callable[[Upload], jax.Array] | None = None
) -> Aggregator:
    """sum_k w_k t_k u_k / sum_k w_k, with w = weigh(weights) and t = times(uploads), 1 for None."""

    def reduce(state, uploads: Upload, now):
        weights = weigh(uploads.weight)
        factors = weights
        if times is not None:
            factors = jnp.where(weights != 0, weights * times(uploads), 0)
        return {"update": rows.weighted_sum(factors, uploads.update), "weight": weights.sum()}

    def finish(key, state, summary, now):
        total = summary["weight"]
        factor = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)
        return state, rows.scale(summary["update"], factor), None

    return Aggregator(lambda shared: (), reduce, finish, linear=True)


def mean() -> Aggregator:
    """sum_k n_k u_k / sum_k n_k, the mean of updates weighted by examples.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=aggregate.mean())
    """
    return linear(lambda weight: weight)


def uniform() -> Aggregator:
    """sum_k u_k / C, the mean in which each of the C clients that weigh something counts the same.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=aggregate.uniform())
    """
    return linear(lambda weight: (weight > 0).astype(jnp.float32))


def per_row() -> Aggregator:
    """sum_k u_k[i] / #{k : k touched i}: each row i of a table is averaged over the clients that
    touched it. Other leaves are averaged by examples, as in `mean`.

    After an uplink that sends some of the touched rows only (`top_k`), over the clients that sent
    it: rows move further than under `mean`, and what error feedback sends later weighs as much.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=aggregate.per_row())
    """
    return row_wise()


def row_wise(times: Callable[[Upload], jax.Array] | None = None) -> Aggregator:
    """`per_row` of t_k u_k, with t = times(uploads), 1 for None."""

    def reduce(state, uploads: Upload, now):
        there = (uploads.weight > 0).astype(jnp.float32)
        factor = 1.0 if times is None else jnp.where(uploads.weight > 0, times(uploads), 0)
        weigh = lambda x: there if rows.is_table(x) else uploads.weight
        one = lambda x: rows.weighted_sum(weigh(x) * factor, x)
        update = rows.map_nodes(one, uploads.update)
        touched = rows.clients_per_row(uploads.weight, uploads.update)
        return {"update": update, "weight": uploads.weight.sum(), "touched": touched}

    def finish(key, state, summary, now):
        total = summary["weight"]
        factor = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)

        def one(x, count):
            if not rows.is_table(x):
                return x * factor
            share = 1.0 / jnp.maximum(count, 1.0)
            if x.ids is not None:
                share = share.at[x.ids].get(mode="clip")
            return rows.scale(x, share[:, None])

        update = rows.map_nodes(one, summary["update"], summary["touched"])
        return state, update, None

    return Aggregator(lambda shared: (), reduce, finish, linear=True)
