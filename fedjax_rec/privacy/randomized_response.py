"""Randomized response on a set of items: each item is told truly with probability p, else falsely.

    p = e^eps / (1 + e^eps),    P(told | in) / P(told | out) = e^eps, of each item by itself
    share of clients that have item i, unbiased:  (reports_i - (1 - p)) / (2 p - 1)

(Warner, JASA 1965; of a set of items, the basic step of RAPPOR, Erlingsson et al., CCS 2014.)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..check import positive


def randomized_response(key: jax.Array, items: jax.Array, epsilon: float) -> jax.Array:
    """What a client says of its set of items.

    Guarantee: epsilon-local differential privacy **of whether one item is in the set**. Sets that
    differ in m items are told apart up to m epsilon: of sets of at most s items any two differ in
    2 s or fewer, so that a whole set has 2 s epsilon.

    Args:
        key: of this client and report.
        items: bool[I], what is in the set.
        epsilon: of an item. Positive; may be traced.

    Returns:
        bool[I]. Where the set is small most of what is told is false: of I items about (1 - p) I.

    Raises:
        ValueError: for an epsilon that is not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> told = privacy.randomized_response(key, jnp.arange(100) < 5, epsilon=2.0)
        >>> told.shape
        (100,)
    """
    positive("randomized_response", "epsilon", epsilon)
    truly = jax.random.uniform(key, items.shape) < jax.nn.sigmoid(jnp.float32(epsilon))
    return jnp.where(truly, items, ~items)


def share_of_clients(reports: jax.Array, epsilon: float) -> jax.Array:
    """The share of clients that have each item, from what `randomized_response` made them say.

    Unbiased, so it may be below 0 or above 1; variance p (1 - p) / (n (2 p - 1)^2) of n clients,
    where p = e^epsilon / (1 + e^epsilon).

    Args:
        reports: bool[n, I].
        epsilon: that of the reports. Positive.

    Returns:
        float32[I].

    Raises:
        ValueError: for an epsilon that is not positive.

    Example:
        >>> from fedjax_rec import privacy
        >>> told = privacy.randomized_response(key, jnp.ones((1000, 3), bool), epsilon=2.0)
        >>> bool((abs(privacy.share_of_clients(told, 2.0) - 1) < 0.1).all())
        True
    """
    positive("share_of_clients", "epsilon", epsilon)
    p = jax.nn.sigmoid(jnp.float32(epsilon))
    return (jnp.asarray(reports, jnp.float32).mean(0) - (1 - p)) / (2 * p - 1)
