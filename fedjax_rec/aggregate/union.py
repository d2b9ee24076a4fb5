"""UNION's filter: clients after whose update the items lie together otherwise than usual are out.

    d_k = mean over pairs i != j of sampled items of |(q_i + eta u_k[i]) - (q_j + eta u_k[j])|
    d scaled to 0..1, in two clusters by k-means; where the gap statistic says that there are two,
    or one has at most f clients, the smaller is out

    gap(c) = mean_b log V_c(uniform_b) - log V_c(d),   two where gap(1) < gap(2) - s_2,
    s_2 = deviation_b sqrt(1 + 1/B), of B draws of as many uniform numbers

(Yu et al., "Untargeted attack against federated recommendation systems via poisonous item
embeddings and the defense", AAAI 2023; the test by at most f is that of the released code.) With
clients that keep items apart, `models.contrastive`, it is UNION; the aggregator behind it is the
mean, a norm bound or multi-Krum there. In one dimension the two clusters of k-means are a cut of
the sorted numbers, and here it is the best one.

Breakdown point: none; an attack that leaves distances between items as they are is not seen. Cost:
n S^2 D for S sampled items.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least, positive, static
from ..types import Aggregator, PyTree, Upload
from .gram import PRECISE
from .listed import Listed, count, listed
from .mean import uniform


def union(
    aggregator: Aggregator | None = None,
    f: int = 0,
    items: int = 500,
    step: float = 1.0,
    draws: int = 50,
) -> Aggregator:
    """`aggregator` of the clients whose update leaves the items as uniform as those of the others.

    Those that are out are rejected. Looks at the first table of the model.

    Args:
        aggregator: of those that are left; default `uniform()`.
        f: a smaller cluster of so many clients is out whatever the statistic says. 0 or more.
        items: S, rows drawn in each round; all where the table has no more. 2 or more.
        step: eta, how far one client's update moves the model that is judged. Positive.
        draws: B, of the gap statistic. 2 or more.

    Returns:
        An `Aggregator` that lists uploads, with the state of `aggregator`.

    Raises:
        ValueError: for numbers out of range; and in a round, for a model without a table.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.union(aggregate.norm_bound(1.0), f=2).additive
        False
    """
    at_least("union", "f", f, 0)
    for name, value in (("items", items), ("draws", draws)):
        static("union", name, value)
        at_least("union", name, value, 2)
    positive("union", "step", step)
    behind = aggregator or uniform()

    def finish(key, state, summary: Listed, now):
        of_items, of_gap, of_rule = jax.random.split(key, 3)
        table, update = _first(now.shared, summary.update)
        size = table.shape[0]
        at = jax.random.permutation(of_items, size)[: min(items, size)].astype(jnp.int32)
        spread = _spreads(table[at].astype(jnp.float32), update, at, step)
        kept = summary.there & ~_apart(of_gap, spread, summary.there, f, draws)
        weight = kept.astype(jnp.float32)
        left = Upload(summary.update, weight, {})
        found = behind.reduce(state, left, replace(now, client=summary.client))
        state, made, verdicts = behind.finish(of_rule, state, found, now)
        return state, made, weight if verdicts is None else weight * verdicts

    return Aggregator(behind.init, lambda state, *args: listed(*args), finish, False)


def _first(shared: PyTree, update: PyTree) -> tuple[jax.Array, rows.RowsUpdate]:
    """(float[I, D], the updates of it) of the first table."""
    tables = rows.tables(trees.trainable(shared))
    if not tables:
        raise ValueError(
            "union() looks at the rows of items, and the model has no table; use another rule."
        )
    changes = [x for x in rows.nodes(update) if rows.is_table(x)]
    return jnp.asarray(tables[0].values), changes[0]


def _spreads(table: jax.Array, update: rows.RowsUpdate, at: jax.Array, step) -> jax.Array:
    """float32[n]: d_k, of the rows `at` int32[S], which the server has as `table` [S, D]."""
    s, size = at.shape[0], update.size
    place = jnp.full(size, s, jnp.int32).at[at].set(jnp.arange(s, dtype=jnp.int32))

    def moved(one):
        if update.ids is None:
            return table + step * one[0][at]
        values, ids = one
        to = place.at[ids].get(mode="fill", fill_value=s)
        return table.at[to].add(step * values, mode="drop")

    def spread(one):
        q = moved(one)
        square = (q**2).sum(-1)
        inner = jnp.matmul(q, q.T, precision=PRECISE)
        apart = jnp.maximum(square[:, None] + square[None, :] - 2 * inner, 0)
        return jnp.where(jnp.eye(s, dtype=bool), 0, jnp.sqrt(apart)).sum() / (s * (s - 1))

    each = (update.values,) if update.ids is None else (update.values, update.ids)
    return jax.lax.map(spread, each)


def _apart(key, spread: jax.Array, there: jax.Array, f, draws: int) -> jax.Array:
    """bool[n]: who is in the smaller cluster, where there are two."""
    n, m = there.shape[0], count(there)
    low = jnp.where(there, spread, jnp.inf).min(initial=jnp.inf)
    high = jnp.where(there, spread, -jnp.inf).max(initial=-jnp.inf)
    some = high > low
    scaled = jnp.where(there & some, (spread - low) / jnp.where(some, high - low, 1), 2.0)
    one, two, cut = _clusters(jnp.sort(scaled), m)
    # By places first, so that the draws of a place do not hang on how many there are.
    uniform = jax.random.uniform(key, (n, draws)).T
    uniform = jnp.sort(jnp.where(jnp.arange(n) < m, uniform, 2.0), 1)
    ones, twos, _ = jax.lax.map(lambda x: _clusters(x, m), uniform)
    log = lambda v: jnp.log(jnp.maximum(v, 1e-12))
    gap_one, gap_two = log(ones).mean() - log(one), log(twos).mean() - log(two)
    deviation = log(twos).std() * jnp.sqrt(1 + 1 / draws)
    lower = scaled < cut
    smaller = jnp.where(2 * (lower & there).sum() < m, lower, ~lower) & there
    certain = (gap_one < gap_two - deviation) | (smaller.sum() <= f)
    return smaller & some & certain & (m > 2)


def _clusters(ordered: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(V_1, V_2, the least number of the upper cluster) of the first m of ordered float[n], by the
    sums of squares within clusters."""
    n = ordered.shape[0]
    here = jnp.arange(n) < m
    x = jnp.where(here, ordered, 0)
    sums, squares = jnp.cumsum(x), jnp.cumsum(x**2)
    size = jnp.arange(1, n + 1)
    all_sum, all_square = x.sum(), (x**2).sum()
    within = lambda square, total, size: square - total**2 / jnp.maximum(size, 1)
    one = within(all_square, all_sum, m)
    lower = within(squares, sums, size)
    upper = within(all_square - squares, all_sum - sums, m - size)
    both = jnp.where(size < m, lower + upper, jnp.inf)
    best = jnp.argmin(both)
    two = jnp.maximum(jnp.where(m > 1, both[best], 0), 0)
    return jnp.maximum(one, 0), two, ordered[jnp.minimum(best + 1, n - 1)]
