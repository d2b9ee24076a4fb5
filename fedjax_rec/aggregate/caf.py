"""CAF, the covariance-bound agnostic filter: clients weigh less the further they lie out.

    until sum_k c_k <= n - 2f:
        mu = sum_k c_k u_k / sum_k c_k,   lambda, v: largest of the weighted covariance around mu
        t_k = <u_k - mu, v>^2,   c_k <- c_k (1 - t_k / max t)
    u = the mu of the smallest lambda

(Allouah, Guerraoui, Stephan, "Towards trustworthy federated learning with untrusted participants",
ICML 2025.) Breakdown point: f of 2f + 1 clients. Cost: inner products of all pairs, n^2 P, and at
most n decompositions of n^2.

v is exact here; ByzFL 0.0.11 takes one step of a power iteration from a random vector.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..check import at_least
from ..types import Aggregator
from .gram import PRECISE, weighing
from .listed import count, refuse_too_few


def caf(f: int) -> Aggregator:
    """The weighted mean with the least variance, of those that the filter goes through.

    Updates are judged whole: a row that a client did not touch is a zero. Of what each client
    weighs nothing is used; those whose weight became 0 are rejected.

    Args:
        f: attackers among the clients of a round that it stands. 0 or more.

    Returns:
        An `Aggregator` that lists uploads. Of 2f clients or fewer in a round it makes a zero update
        and rejects all.

    Raises:
        ValueError: for f below 0; and in a round that has room for 2f clients or fewer.

    Example:
        >>> from fedjax_rec import aggregate
        >>> aggregate.caf(f=2).additive
        False
    """
    at_least("caf", "f", f, 0)

    def weigh(key, gram, there):
        weights = _filtered(gram, there, f) * (count(there) > 2 * f)
        return weights, (weights > 0).astype(jnp.float32)

    return weighing(weigh, lambda there: refuse_too_few("caf", f, there, 2, 1))


def _filtered(gram: jax.Array, there: jax.Array, f) -> jax.Array:
    """float32[n]: the weights of the mean, which add up to 1."""
    n = count(there)
    scale = jnp.maximum(jnp.abs(gram).max(initial=0), 1e-30)
    scaled = gram / scale
    precise = lambda a, b: jnp.matmul(a, b, precision=PRECISE)

    def share(c):
        total = c.sum()
        return c / jnp.where(total > 0, total, 1)

    def go_on(carry):
        turn, c, _, _ = carry
        # One client at least falls to 0 in each turn; with f = 0 the first mean is the mean.
        return ((c.sum() > n - 2 * f) | (turn == 0)) & (turn < there.shape[0])

    def turn(carry):
        i, c, least, best = carry
        p = share(c)
        middle = (jnp.eye(there.shape[0]) - p[None, :]) * there[:, None]
        apart = precise(precise(middle, scaled), middle.T)
        # Of X = diag(sqrt p) (u - mu): X X^T has the eigenvalues of the covariance X^T X.
        root = jnp.sqrt(p)
        values, vectors = jnp.linalg.eigh(root[:, None] * apart * root[None, :])
        largest = values[-1]
        along = precise(apart, root * vectors[:, -1]) ** 2  # <u_k - mu, v>^2, times lambda
        most = along.max(initial=0)
        fall = jnp.where(there, along / jnp.where(most > 0, most, 1), 0)
        best = jnp.where(largest < least, p, best)
        return i + 1, c * (1 - fall), jnp.minimum(largest, least), best

    c = there.astype(jnp.float32)
    begin = jnp.int32(0), c, jnp.float32(jnp.inf), jnp.zeros_like(c)
    return jax.lax.while_loop(go_on, turn, begin)[-1]
