"""Nearest-neighbour mixing: each client becomes the mean of the n - f updates nearest to its own.

    v_k = 1 / (n - f) sum over the n - f nearest l, itself one of them, of u_l

(Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS
2023.) With any rule of this room behind it that stands f of n clients, f < n/2, the error is of the
optimal order. Cost: inner products of all pairs, n^2 P, and as much for the mixtures.
"""

from __future__ import annotations

import jax.numpy as jnp

from ..check import at_least
from .gram import gram, squared_distances
from .listed import count, refuse_too_few
from .mixed import Mixer


def nnm(f: int) -> Mixer:
    """Each client mixed with its nearest, for `mixed`.

    Distances are those of whole updates, where a row that a client did not touch is a zero. Each
    client counts once, whatever it weighs.

    Args:
        f: attackers among the clients of a round. 0 or more.

    Returns:
        A `Mixer` of n clients into n. Of f clients or fewer it makes no mixture.

    Raises:
        ValueError: for f below 0; and in a round that has room for f clients or fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> rule = aggregate.mixed(aggregate.nnm(f=2), aggregate.trimmed_mean(f=2))
    """
    at_least("nnm", "f", f, 0)

    def mix(key, updates, there, client):
        refuse_too_few("nnm", f, there, 1, 1)
        apart = squared_distances(gram(updates))
        # Nobody is nearer to a client than itself.
        own = jnp.eye(there.shape[0], dtype=bool)
        apart = jnp.where(there, jnp.where(own, -1.0, apart), jnp.inf)
        place = jnp.argsort(jnp.argsort(apart, 1), 1)
        kept = count(there) - f
        near = (place < kept) & there[:, None] & there[None, :]
        return near / jnp.maximum(kept, 1).astype(jnp.float32)

    return Mixer(mix)
