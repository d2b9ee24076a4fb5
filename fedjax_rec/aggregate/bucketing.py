"""Bucketing: clients are dealt to buckets at random, and a rule sees the mean of each.

    v_b = 1/|B_b| sum over k in B_b of u_k,   s clients a bucket

(Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR
2022.) f attackers spoil f of the n / s buckets at most, so that the rule behind it has to stand f
of n / s. Cost: of the mixtures, n/s n P.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import random

from ..check import at_least, static
from ..keys import for_client
from .mixed import Mixer


def bucketing(s: int = 2) -> Mixer:
    """Clients dealt to buckets of s, for `mixed`; the last bucket may have fewer.

    Who comes together is drawn from the key of the round and the ids of the clients, so that their
    order changes nothing. Each client counts once, whatever it weighs.

    Args:
        s: clients of a bucket. 1 or more.

    Returns:
        A `Mixer` of n clients into n / s, rounded up.

    Raises:
        ValueError: for s below 1, or traced, since it says how many mixtures there are.

    Example:
        >>> from fedjax_rec import aggregate
        >>> rule = aggregate.mixed(aggregate.bucketing(s=2), aggregate.krum(f=2))
    """
    static("bucketing", "s", s)
    at_least("bucketing", "s", s, 1)

    def mix(key, updates, there, client):
        drawn = random.key_data(for_client(key, client))
        order = jnp.lexsort((client, drawn[:, 1], drawn[:, 0], ~there))
        place = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0]))
        buckets = -(-there.shape[0] // s)
        mine = (place // s == jnp.arange(buckets)[:, None]) & there
        return mine / jnp.maximum(mine.sum(1, keepdims=True), 1).astype(jnp.float32)

    return Mixer(mix)
