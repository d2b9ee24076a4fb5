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

from .. import rows, trees
from ..types import Aggregator, PyTree, Upload


def weighted_sum(weights: jax.Array, update: PyTree) -> PyTree:
    """sum_k weights[k] * update[k] over the leading axis, tables as `rows.weighted_sum`."""
    return jax.tree.map(
        lambda x: (
            rows.weighted_sum(weights, x) if rows.is_table(x) else trees.weighted_sum(weights, x)
        ),
        update,
        is_leaf=rows.is_table,
    )


def scaled(update: PyTree, factor) -> PyTree:
    """`update * factor`, tables as their rows."""
    return jax.tree.map(
        lambda x: rows.scaled(x, factor) if rows.is_table(x) else x * factor,
        update,
        is_leaf=rows.is_table,
    )


def linear(
    weigh: Callable[[jax.Array], jax.Array], times: Callable[[Upload], jax.Array] | None = None
) -> Aggregator:
    """sum_k w_k t_k u_k / sum_k w_k, with w = weigh(weights) and t = times(uploads), 1 for None."""

    def reduce(state, uploads: Upload, now):
        weights = weigh(uploads.weight)
        factors = weights if times is None else weights * times(uploads)
        return {"update": weighted_sum(factors, uploads.update), "weight": weights.sum()}

    def finish(key, state, summary, now):
        total = summary["weight"]
        factor = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)
        return state, scaled(summary["update"], factor), None

    return Aggregator(lambda shared: (), reduce, finish, linear=True)


def mean() -> Aggregator:
    """Mean weighted by examples."""
    return linear(lambda weight: weight)


def uniform() -> Aggregator:
    """Every client counts the same."""
    return linear(lambda weight: (weight > 0).astype(jnp.float32))


def per_row() -> Aggregator:
    """Each row averaged over the clients that touched it; other leaves weighted by examples.

    After an uplink that sends some of the touched rows only (`top_k`), over the clients that sent
    it: rows move further than under `mean`, and what error feedback sends later weighs as much.
    """
    return row_wise()


def row_wise(times: Callable[[Upload], jax.Array] | None = None) -> Aggregator:
    """`per_row` of t_k u_k, with t = times(uploads), 1 for None."""

    def reduce(state, uploads: Upload, now):
        there = (uploads.weight > 0).astype(jnp.float32)
        factor = 1.0 if times is None else times(uploads)
        update = jax.tree.map(
            lambda x: (
                rows.weighted_sum(there * factor, x)
                if rows.is_table(x)
                else trees.weighted_sum(uploads.weight * factor, x)
            ),
            uploads.update,
            is_leaf=rows.is_table,
        )
        touched = jax.tree.map(
            lambda x: rows.clients_per_row(uploads.weight, x) if rows.is_table(x) else there.sum(),
            uploads.update,
            is_leaf=rows.is_table,
        )
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
            return rows.scaled(x, share[:, None])

        update = jax.tree.map(one, summary["update"], summary["touched"], is_leaf=rows.is_table)
        return state, update, None

    return Aggregator(lambda shared: (), reduce, finish, linear=True)
