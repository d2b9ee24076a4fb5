"""FoolsGold: clients that say the same as others weigh less, as accounts of one attacker would.

    c_kl = cos(u_k, u_l),   v_k = max over l of c_kl,   c_kl <- c_kl v_k / v_l  where v_k < v_l
    a_k = 1 - max over l of c_kl,   a_k <- a_k / max a,   a_k <- clip(log(a_k / (1 - a_k)) + 1/2)
    u = sum_k a_k u_k / sum_k a_k

(Fung, Yoon, Beschastnikh, "The limitations of federated learning in Sybil settings", RAID 2020.)
It needs no number of attackers. Breakdown point: none stated; it stands any number of attackers
that say the same, and a single one not at all. Cost: inner products of all pairs, n^2 P.

The paper compares what clients have sent in all rounds; here it is the round's, which the paper
calls FoolsGold without memory: no history of N clients is kept.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from ..check import positive
from ..types import Aggregator
from .gram import weighing


def foolsgold(confidence: float = 1.0) -> Aggregator:
    """The mean of updates, weighted by how little each is like another.

    Updates are judged whole: a row that a client did not touch is a zero, so that honest clients
    with few items in common are unlike one another. Of what each client weighs nothing is used.
    Those of weight 0 are rejected.

    Args:
        confidence: what the logit is multiplied with. Positive.

    Returns:
        An `Aggregator` that lists uploads. Where all clients say the same, it takes nobody.

    Raises:
        ValueError: for a confidence that is not positive.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.foolsgold().additive
        False
    """
    positive("foolsgold", "confidence", confidence)
    return weighing(lambda key, gram, there: _weights(gram, there, confidence), lambda there: None)


def _weights(gram: jax.Array, there: jax.Array, confidence):
    norm = jnp.sqrt(jnp.diagonal(gram))
    unit = jnp.where(norm > 0, 1 / jnp.where(norm > 0, norm, 1), 0)
    others = there[:, None] & there[None, :] & ~jnp.eye(there.shape[0], dtype=bool)
    alike = jnp.where(others, gram * unit[:, None] * unit[None, :], -jnp.inf)
    # Alone, one is like nobody.
    most = partial(jnp.max, axis=1, initial=-1.0)
    top = most(alike)
    pardoned = top[:, None] < top[None, :]
    share = top[:, None] / jnp.where(pardoned & (top[None, :] != 0), top[None, :], 1)
    alike = jnp.where(others & pardoned, alike * share, alike)
    weight = jnp.clip(1 - most(alike), 0, 1) * there
    largest = weight.max(initial=0)
    weight = weight / jnp.where(largest > 0, largest, 1)
    # A weight of 1 has an infinite logit; the authors take it for .99.
    weight = jnp.where(weight >= 1, 0.99, weight)
    logit = jnp.log(jnp.maximum(weight, 1e-30) / (1 - weight)) + 0.5
    weight = jnp.clip(confidence * logit, 0, 1) * there
    total = weight.sum()
    return weight / jnp.where(total > 0, total, 1), (weight > 0).astype(jnp.float32)
