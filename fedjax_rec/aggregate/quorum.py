"""Quorum: a row moves by what its clients say beyond what f of them could have said alone.

    b = the median, or the quantile `clients`, over clients k of the `quantile` of |u_k[i]| over the
        rows i that k touched
    s[i] = sum over k of u_k[i] min(1, b / |u_k[i]|)
    u[i] = 1/n s[i] max(0, 1 - f b / |s[i]|),   n clients in the round

and with a budget, of which B is the `budget` quantile over clients of sum_i min(b, |u_k[i]|),

    s[i] = sum over k of u_k[i] min(1, b / |u_k[i]|) min(1, B / sum_j min(b, |u_k[j]|))

A composition of this library: the row-wise clip of `row_norm_bound`, at a length that the clients
of the round set and not a number of the run; the soft threshold of the group lasso, which takes off
what f attackers add where they agree; and the floor of the rules by coordinates. A dense leaf is
one row that all clients touched. It looks at no item and knows no attack.

Breakdown point: b is within what honest clients say for fewer attackers than n/2 and than (1 -
`clients`) n. Each of them adds b to a row at most, so that f of them move no row of which honest
clients say nothing, or cancel one another, and change any other row by no more than f b / n; what
is more than f moves a row by b / n each. With a floor of 2 a + 1, a attackers are no majority of a
row that moves, and rows that few clients touch stay: that is the price, for what few honest clients
have as for what attackers want them to have. Attackers that act as honest users who like an item,
in rows that many touch, are such users to this rule as to any other.

Attackers that touch all rows (Spattack, Zhang et al., AAAI 2025) add b to each, which is more than
honest clients say of most. With a budget each of them adds B / I to a row, a tenth of b where usual
clients touch a tenth of the rows; f may then be 0.

Cost: one pass over rows, and 32 over their lengths; nothing is compared two by two. Uploads are
listed.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, fraction
from ..types import Aggregator
from .blocks import touches
from .listed import count, listing
from .norm_bound import bound_factor
from .touched import MOST, held, number, smallest, value

TINY = 1e-30


def quorum(
    f: float,
    quantile: float = 0.5,
    floor: int = 1,
    budget: float | None = None,
    clients: float = 0.5,
) -> Aggregator:
    """The mean of updates whose rows are clipped to a usual length, less what f clients could say.

    Each client counts once, whatever it weighs: an attacker states its own weight. Nobody is
    rejected. As of `row_norm_bound`, a row of few clients moves by few steps out of n, so that
    servers step further than under `per_row`.

    Args:
        f: attackers of a round whose agreement moves nothing. 0 or more; less than there are is a
            compromise that lets rows of few clients learn, as honest clients pull the other way.
        quantile: of the lengths of a client's rows, of which the quantile `clients` over clients is
            the longest that a row may have. 0 to 1.
        floor: rows touched by fewer clients are left where they are. 1 or more.
        budget: the quantile over clients of the sum of lengths of a client's rows, once clipped,
            to which longer ones are scaled, table by table; None for any sum. 0 to 1.
        clients: above the median, users whose vectors are long are clipped less, and attackers may
            be fewer. 0 to 1.

    Returns:
        An `Aggregator` that lists uploads.

    Raises:
        ValueError: for f below 0, a quantile, a budget or clients outside 0 to 1, and a floor
            below 1.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.quorum(f=4).additive
        False
    """
    at_least("quorum", "f", f, 0)
    fraction("quorum", "quantile", quantile)
    fraction("quorum", "clients", clients)
    at_least("quorum", "floor", floor, 1)
    if budget is not None:
        fraction("quorum", "budget", budget)

    def finish(key, state, uploads, now):
        there = uploads.there
        weight = there.astype(jnp.float32)
        share = 1 / jnp.maximum(count(there), 1)

        def beyond(total, bound):
            length = jnp.sqrt((total**2).sum(-1, keepdims=True))
            left = jnp.maximum(0, 1 - f * bound / jnp.maximum(length, TINY))
            return total * jnp.where(length > 0, left, 0) * share

        def one(x):
            if not rows.is_table(x):
                flat = x.reshape(x.shape[0], x.size // x.shape[0])
                length = jnp.sqrt((flat**2).sum(-1))
                bound = among(length, there, clients)
                clipped = rows.weighted_sum(weight * bound_factor(length, bound), flat)
                return beyond(clipped, bound).reshape(x.shape[1:])
            length = jnp.sqrt((x.values**2).sum(-1))
            usual = of_rows(length, x.live, quantile)
            some = there & x.live.any(-1)
            bound = among(usual, some, clients)
            factor = bound_factor(length, bound)
            if budget is not None:
                said = jnp.where(x.live, jnp.minimum(length, bound), 0).sum(-1)
                factor = factor * bound_factor(said, among(said, some, budget))[:, None]
            total = rows.weighted_sum(weight, replace(x, values=x.values * factor[..., None]))
            moving = touches(x) >= floor
            values = jnp.where(moving[:, None], beyond(rows.to_dense(total), bound), 0)
            return rows.RowsUpdate(values, None, moving, None, x.size)

        return state, rows.map_nodes(one, uploads.update), None

    return listing(finish)


def among(lengths: jax.Array, there: jax.Array, quantile=0.5) -> jax.Array:
    """float32[]: the quantile of lengths [n], 0 or more, of who is `there`, the lower median by
    default; 0 of nobody."""
    return of_rows(lengths[None], there[None], quantile)[0]


def of_rows(lengths: jax.Array, live: jax.Array, quantile) -> jax.Array:
    """float32[n]: of each client the quantile of `lengths` [n, L], 0 or more, of its `live` rows:
    the one with as many below it as floor((m - 1) quantile) of m; 0 of none."""
    # Floats from 0 on are in the order of their bits.
    some = held(jnp.maximum(lengths, 0.0), live)
    ordered = jax.lax.bitcast_convert_type(some, jnp.int32)
    ordered = jnp.where(live, ordered, MOST).T
    m = number(live.T)
    place = jnp.floor((m - 1) * jnp.float32(quantile)).astype(jnp.int32)
    return jnp.where(m > 0, value(smallest(ordered, place)), 0)
