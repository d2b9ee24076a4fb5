"""Bulyan: clients that Krum chooses one after another, and of these the mean around the median.

    S: n - 2f times the Krum of those that are left
    u[i] = the mean of the m - 2f nearest to the median, of the m of S that touched row i

(El Mhamdi, Guerraoui, Rouault, "The hidden vulnerability of distributed learning in Byzantium",
ICML 2018.) Breakdown point: f of 4f + 3 clients. Cost: inner products of all pairs, n^2 P, and n
sorts of n^2 distances.

Krum's score is over n - f - 2 others of those that are left, and over one where that is none.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least
from ..types import Aggregator, PyTree
from .gram import gram, ranks, squared_distances
from .krum import scores
from .listed import count, listing, refuse_too_few
from .meamed import around_median
from .touched import of_groups


def bulyan(f: int, floor: int = 1) -> Aggregator:
    """The mean around the median of the clients that Krum chooses one after another.

    Krum judges whole updates, where a row that a client did not touch is a zero; the median is over
    the chosen that touched the row. A row that 2f of the chosen touched, or fewer, is left where it
    is. Each client counts once, whatever it weighs; those not chosen are rejected.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.
        floor: rows touched by fewer of the chosen are left too. 1 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 4f + 2 clients or fewer in a round it makes a zero
        update and rejects all.

    Raises:
        ValueError: for f below 0 or a floor below 1; and in a round that has room for 4f + 2
            clients or fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.bulyan(f=1).additive
        False
    """
    at_least("bulyan", "f", f, 0)
    at_least("bulyan", "floor", floor, 1)

    def finish(key, state, uploads, now):
        there = uploads.there
        refuse_too_few("bulyan", f, there, 4, 3)
        chosen = _one_after_another(squared_distances(gram(uploads.update)), there, f)
        chosen &= count(there) >= 4 * f + 3
        kept = replace(uploads, update=_only(chosen, uploads.update), there=chosen)
        rule = lambda groups: around_median(groups, 2 * f)
        update = of_groups(rule, kept, 2 * f + 1, floor)
        return state, update, chosen.astype(jnp.float32)

    return listing(finish)


def _one_after_another(distances: jax.Array, there: jax.Array, f) -> jax.Array:
    """bool[n]: those that Krum chooses, n - 2f of them."""
    wanted = count(there) - 2 * f

    def turn(i, chosen):
        left = there & ~chosen
        first = ranks(scores(distances, left, f), left) == 0
        return jnp.where(i < wanted, chosen | (first & left), chosen)

    return jax.lax.fori_loop(0, there.shape[0], turn, jnp.zeros_like(there))


def _only(chosen: jax.Array, updates: PyTree) -> PyTree:
    """Updates of which only the chosen ones say something."""

    def one(x):
        if not rows.is_table(x):
            return jnp.where(trees.leading(chosen, x), x, 0)
        live = x.live & chosen[:, None]
        ids = None if x.ids is None else jnp.where(live, x.ids, x.size)
        return replace(x, ids=ids, live=live, values=jnp.where(live[..., None], x.values, 0))

    return rows.map_nodes(one, updates)
