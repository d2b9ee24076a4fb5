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


def _linear(weigh: Callable[[jax.Array], jax.Array]) -> Aggregator:
    def reduce(uploads: Upload):
        weights = weigh(uploads.weight)
        return {"update": weighted_sum(weights, uploads.update), "weight": weights.sum()}

    def finish(key, state, summary):
        total = summary["weight"]
        factor = jnp.where(total > 0, 1.0 / jnp.where(total > 0, total, 1.0), 0.0)
        return state, scaled(summary["update"], factor)

    return Aggregator(lambda shared: (), reduce, finish, additive=True)


def mean() -> Aggregator:
    """Mean weighted by examples."""
    return _linear(lambda weight: weight)


def uniform() -> Aggregator:
    """Every client counts the same."""
    return _linear(lambda weight: (weight > 0).astype(jnp.float32))


def per_row() -> Aggregator:
    """Each row averaged over the clients that touched it; other leaves weighted by examples.

    After an uplink that sends some of the touched rows only (`top_k`), over the clients that sent
    it: rows move further than under `mean`, and what error feedback sends later weighs as much.
    """

    def reduce(uploads: Upload):
        there = (uploads.weight > 0).astype(jnp.float32)
        update = jax.tree.map(
            lambda x: (
                rows.weighted_sum(there, x)
                if rows.is_table(x)
                else trees.weighted_sum(uploads.weight, x)
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

    def finish(key, state, summary):
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
        return state, update

    return Aggregator(lambda shared: (), reduce, finish, additive=True)
