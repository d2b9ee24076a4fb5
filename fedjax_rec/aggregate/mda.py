"""MDA, minimum-diameter averaging: the mean of the n - f clients that are nearest together.

    S = argmin over |S| = n - f of max_{k, l in S} |u_k - u_l|,   u = 1 / (n - f) sum over S of u_k

(El Mhamdi et al., "Genuinely distributed Byzantine machine learning", PODC 2020; Rousseeuw 1985.)
Breakdown point: f of 2f + 1 clients. Cost: inner products of all pairs, n^2 P, and each of the
n! / f! (n - f)! subsets: for few clients.
"""

from __future__ import annotations

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from ..check import at_least, static
from ..types import Aggregator
from .gram import of_chosen, squared_distances, weighing
from .listed import count, refuse_too_few

MOST = 20_000


def mda(f: int) -> Aggregator:
    """The mean of all clients but f, of those n - f whose largest distance is smallest.

    Updates are judged whole: a row that a client did not touch is a zero. Of subsets with the same
    largest distance it takes the one with the smallest sum of squared distances. Each client counts
    once, whatever it weighs; those left out are rejected.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 2f clients or fewer in a round it makes a zero update
        and rejects all.

    Raises:
        ValueError: for f below 0, or traced, since it says how many subsets there are; in a round
            that has room for 2f clients or fewer; and for more than 20,000 subsets.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.mda(f=2).additive
        False
    """
    static("mda", "f", f)
    at_least("mda", "f", f, 0)

    def refuse(there):
        refuse_too_few("mda", f, there, 2, 1)
        clients = there.shape[0]
        if (subsets := math.comb(clients, f)) > MOST:
            raise ValueError(
                f"mda(f={f}) of {clients} clients looks at {subsets} subsets; use fewer clients a "
                f"round or a smaller f, for at most {MOST} subsets, or multi_krum(f={f})."
            )

    def weigh(key, gram, there):
        apart, n = squared_distances(gram), there.shape[0]
        away = list(itertools.combinations(range(n), f))
        away = jnp.asarray(np.array(away, np.int32).reshape(len(away), f))

        def judged(away):
            inside = there.at[away].set(False)
            pairs = jnp.where(inside[:, None] & inside[None, :], apart, 0)
            # An absent client is no one to leave out.
            diameter = jnp.where(there[away].all(), pairs.max(initial=0), jnp.inf)
            return diameter, pairs.sum()

        diameter, total = jax.lax.map(judged, away)
        best = jnp.lexsort((total, diameter))[0]
        return of_chosen(there.at[away[best]].set(False) & (count(there) > 2 * f))

    return weighing(weigh, refuse)
