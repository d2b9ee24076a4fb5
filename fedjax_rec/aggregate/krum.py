"""Krum and multi-Krum: the update, or the updates, with the nearest neighbours.

    score_k = sum over the n - f - 2 nearest others l of |u_k - u_l|^2
    Krum:       u_k of the smallest score;      multi-Krum: the mean of the m with the smallest

(Blanchard et al., "Machine learning with adversaries: Byzantine tolerant gradient descent", NeurIPS
2017.) Breakdown point: f of 2f + 3 clients. Cost: inner products of all pairs, n^2 P.

Distances are squared once; code of the EPFL group squares them twice. ByzFL 0.0.11 sums over
n - f - 1 others, so that its Krum(f + 1) is krum(f).
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ..check import at_least
from ..types import Aggregator
from .gram import of_chosen, ranks, squared_distances, weighing
from .listed import count, refuse_too_few


def krum(f: int) -> Aggregator:
    """The one update that is nearest to its n - f - 2 nearest others.

    Updates are judged whole: a row that a client did not touch is a zero. Each client counts once,
    whatever it weighs. All but the one are rejected: their memory and private state stay.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 2f + 2 clients or fewer in a round it makes a zero
        update and rejects all.

    Raises:
        ValueError: for f below 0; and in a round that has room for 2f + 2 clients or fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.krum(f=2).additive
        False
    """
    at_least("krum", "f", f, 0)
    return weighing(lambda key, gram, there: _best(gram, there, f, 1), partial(_refuse, "krum", f))


def multi_krum(f: int, m: int | None = None) -> Aggregator:
    """The mean of the m updates with the smallest scores of Krum.

    Updates are judged whole, as in `krum`. Each client counts once, whatever it weighs; all but
    the m are rejected.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.
        m: how many are taken; None for n - f of n clients. 1 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 2f + 2 clients or fewer in a round it makes a zero
        update and rejects all.

    Raises:
        ValueError: for f below 0 or m below 1; and in a round that has room for 2f + 2 clients or
            fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.multi_krum(f=2).additive
        False
    """
    at_least("multi_krum", "f", f, 0)
    if m is not None:
        at_least("multi_krum", "m", m, 1)
    return weighing(
        lambda key, gram, there: _best(gram, there, f, m), partial(_refuse, "multi_krum", f)
    )


def scores(distances: jax.Array, there: jax.Array, f) -> jax.Array:
    """float32[n]: of each its squared `distances` to the n - f - 2 nearest others, one at least,
    of those that are `there`."""
    n = there.shape[0]
    others = there[None, :] & ~jnp.eye(n, dtype=bool)
    near = jnp.sort(jnp.where(others, distances, jnp.inf), 1)
    nearest = jnp.arange(n) < jnp.maximum(count(there) - f - 2, 1)
    return jnp.where(nearest, near, 0).sum(1)


def _refuse(where: str, f, there: jax.Array) -> None:
    refuse_too_few(where, f, there, 2, 3)


def _best(gram, there, f, m):
    n = count(there)
    taken = n - f if m is None else m
    place = ranks(scores(squared_distances(gram), there, f), there)
    return of_chosen(there & (place < taken) & (n >= 2 * f + 3))
