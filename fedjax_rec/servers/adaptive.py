"""Federated optimization: servers that step on the mean update u as on a gradient.

    m <- b1 m + (1 - b1) u,   x <- x + eta m / (sqrt(v) + tau)

- `fed_adagrad`  v <- v + u^2
- `fed_adam`     v <- b2 v + (1 - b2) u^2
- `fed_yogi`     v <- v - (1 - b2) u^2 sign(v - u^2)
- `fed_avg_m`    m <- b m + u,   x <- x + eta m   (Hsu, Qi & Brown, 2019)
- `fed_lion`     x <- x + eta sign(b1 m + (1 - b1) u),   m <- b2 m + (1 - b2) u
                 (Chen et al., NeurIPS 2023)

The first three are Reddi et al., ICLR 2021, algorithm 2, which starts at v = tau^2 and corrects no
bias: unlike `optax.adam`, whose first steps are longer. Every row of every table is stepped on,
also those that no client touched, as long as their m is not 0. tau: how small a u counts.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from ..check import fraction, positive
from ..types import Server
from .step import from_optax


def fed_adagrad(learning_rate: float = 0.1, beta1: float = 0.0, tau: float = 1e-3) -> Server:
    """Takes steps that shrink where much has been learned.

    Args:
        learning_rate: eta.
        beta1: what m keeps of itself in a round.
        tau: how small an update counts. All three may be traced.

    Returns:
        A `Server` with m and v, each of the size of the model.

    Raises:
        ValueError: unless learning_rate and tau are positive and 0 <= beta1 <= 1.

    Example:
        >>> server = strategies.fed_adagrad(0.1)
    """
    return _adaptive("fed_adagrad", lambda v, square: v + square, learning_rate, beta1, tau)


def fed_adam(
    learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Server:
    """Takes steps of like size everywhere.

    Args:
        learning_rate: eta.
        beta1: what m keeps of itself in a round.
        beta2: what v keeps of itself in a round.
        tau: how small an update counts. All four may be traced.

    Returns:
        A `Server` with m and v, each of the size of the model.

    Raises:
        ValueError: unless learning_rate and tau are positive, and outside 0 <= beta <= 1.

    Example:
        >>> from fedjax_rec import strategies
        >>> server = strategies.fed_adam(0.03)
    """
    fraction("fed_adam", "beta2", beta2)
    second = lambda v, square: beta2 * v + (1 - beta2) * square
    return _adaptive("fed_adam", second, learning_rate, beta1, tau)


def fed_yogi(
    learning_rate: float = 0.01, beta1: float = 0.9, beta2: float = 0.99, tau: float = 1e-3
) -> Server:
    """Steps as `fed_adam`, with a v that forgets at the pace of what comes, not of what it holds.

    Args:
        learning_rate: as in `fed_adam`, like all that follow.
        beta1: of m.
        beta2: of v.
        tau: how small an update counts.

    Returns:
        A `Server` with m and v, each of the size of the model.

    Raises:
        ValueError: as `fed_adam`.

    Example:
        >>> server = strategies.fed_yogi(0.03)
    """
    fraction("fed_yogi", "beta2", beta2)
    second = lambda v, square: v - (1 - beta2) * square * jnp.sign(v - square)
    return _adaptive("fed_yogi", second, learning_rate, beta1, tau)


def fed_avg_m(learning_rate: float = 1.0, momentum: float = 0.9) -> Server:
    """Averages with momentum; at 0 it is `step(learning_rate)`.

    Args:
        learning_rate: eta, which may be traced.
        momentum: b, likewise.

    Returns:
        A `Server` with m, of the size of the model.

    Raises:
        ValueError: unless learning_rate is positive, and outside 0 <= momentum <= 1.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), server=strategies.fed_avg_m(0.5))
    """
    positive("fed_avg_m", "learning_rate", learning_rate)
    fraction("fed_avg_m", "momentum", momentum)
    return from_optax(optax.sgd(learning_rate, momentum))


def fed_lion(learning_rate: float = 1e-3, beta1: float = 0.9, beta2: float = 0.99) -> Server:
    """Moves every coordinate by the same amount.

    Args:
        learning_rate: eta, that amount; it may be traced.
        beta1: how much of the sign is that of m.
        beta2: what m keeps of itself in a round.

    Returns:
        A `Server` with m, of the size of the model.

    Raises:
        ValueError: unless learning_rate is positive, and outside 0 <= beta <= 1.

    Example:
        >>> server = strategies.fed_lion(1e-3)
    """
    positive("fed_lion", "learning_rate", learning_rate)
    for name, beta in (("beta1", beta1), ("beta2", beta2)):
        fraction("fed_lion", name, beta)
    return from_optax(optax.lion(learning_rate, beta1, beta2, weight_decay=0.0))


def _adaptive(where: str, second: Callable, learning_rate, beta1, tau) -> Server:
    for name, value in (("learning_rate", learning_rate), ("tau", tau)):
        positive(where, name, value)
    fraction(where, "beta1", beta1)

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return {"m": zeros, "v": jax.tree.map(lambda x: jnp.full_like(x, tau**2), params)}

    def update(updates, state, params=None):
        m = jax.tree.map(lambda m, g: beta1 * m - (1 - beta1) * g, state["m"], updates)
        v = jax.tree.map(lambda v, g: second(v, g * g), state["v"], updates)
        change = jax.tree.map(lambda m, v: learning_rate * m / (jnp.sqrt(v) + tau), m, v)
        return change, {"m": m, "v": v}

    return from_optax(optax.GradientTransformation(init, update))
