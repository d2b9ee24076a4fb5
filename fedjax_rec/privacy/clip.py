"""How an update is clipped, so that one client changes the sum of a round by so much and no more.

- `whole`     u min(1, C / |u|), over all dense leaves and rows together:    S = C
- `per_leaf`  each of L leaves and tables clipped to C / sqrt(L):            S = C
- `per_row`   each row to r, then all of them together to C = r sqrt(m):     S = C
- `adaptive`  `whole` with C that follows a quantile of the norms,
              C <- C exp(-eta (b - gamma)), b the share of norms below C, with noise
              (Andrew et al., "Differentially private learning with adaptive clipping", 2021)

`S`, the sensitivity, is the largest L2 norm of what is left of a client's update: exact, drawn
negatives and their rows included, since every row that travels is in the norm once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows
from ..aggregate.norm_bound import norms
from ..check import at_least, fraction, positive
from ..made import part
from ..types import PyTree

# Norms are taken in float32, which may be that much too small.
CAREFUL = 1 - 1e-5


@part
class Clip:
    """A way to clip the updates of a chunk, as `aggregate.listed` has them.

    init() -> state. apply(state, update) -> (factor float32[c], update): what counts of client k is
    factor[k] times its update. sensitivity(state) -> S, the largest norm of that. watched: how many
    clients' worth of noise there is in the count of clients below the bound, as a share of the
    round's, with follow(state, share) -> state for the next round; None for a bound that stays.
    """

    init: Callable[[], Any]
    apply: Callable[[Any, PyTree], tuple[jax.Array, PyTree]]
    sensitivity: Callable[[Any], Any]
    watched: float | None = None
    follow: Callable[[Any, jax.Array], Any] = lambda state, share: state


def whole(bound: float) -> Clip:
    """Clips the norm over all dense leaves and touched rows together.

    Args:
        bound: C, the largest norm of an update. Positive; may be traced.

    Returns:
        A `Clip` of sensitivity C.

    Raises:
        ValueError: for a bound that is not positive and finite.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.whole(0.5).sensitivity(())
        0.5
    """
    _bounded("whole", bound)
    apply = lambda state, update: (_factor(norms(update), bound), update)
    return Clip(lambda: (), apply, lambda state: bound)


def per_leaf(bound: float) -> Clip:
    """Clips each dense leaf, and each table's rows together, to its part of a norm.

    A leaf that is much longer than the others no longer takes the room of all.

    Args:
        bound: C, the largest norm of an update; of L leaves each has C / sqrt(L). Positive.

    Returns:
        A `Clip` of sensitivity C.

    Raises:
        ValueError: for a bound that is not positive and finite.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.per_leaf(0.5).sensitivity(())
        0.5
    """
    _bounded("per_leaf", bound)

    def apply(state, update):
        nodes = rows.nodes(update)
        each = bound / len(nodes) ** 0.5
        clipped = rows.map_nodes(lambda x: _scaled(x, _factor(norms(x), each)), update)
        return jnp.ones_like(norms(nodes[0])), clipped

    return Clip(lambda: (), apply, lambda state: bound)


def per_row(bound: float, touched: int) -> Clip:
    """Clips each row, and then what a client sends together to what `touched` such rows have.

    Who touches fewer rows than that has each clipped for itself; who touches more is scaled down.

    Args:
        bound: r, the largest norm of a row; a dense leaf is one row. Positive.
        touched: m, rows. A number chosen without looking at the data. At least 1.

    Returns:
        A `Clip` of sensitivity r sqrt(m).

    Raises:
        ValueError: for a bound that is not positive and finite, and touched < 1.

    Example:
        >>> from fedjax_rec import privacy
        >>> privacy.per_row(0.1, touched=400).sensitivity(())
        2.0
    """
    _bounded("per_row", bound)
    at_least("per_row", "touched", touched, 1)
    together = bound * touched**0.5

    def apply(state, update):
        def one(x):
            if not rows.is_table(x):
                return _scaled(x, _factor(norms(x), bound))
            each = _factor(jnp.sqrt((x.values**2).sum(-1)), bound)
            return replace(x, values=x.values * each[..., None])

        clipped = rows.map_nodes(one, update)
        return _factor(norms(clipped), together), clipped

    return Clip(lambda: (), apply, lambda state: together)


def adaptive(
    bound: float = 0.1, quantile: float = 0.5, rate: float = 0.2, noise: float = 0.05
) -> Clip:
    """`whole` with a bound that follows a quantile of the clients' norms, told with noise.

    How many clients are below the bound is a second release of each round, of sensitivity 1/2: the
    mechanism pays for it, by more noise in the sum for the same guarantee (theorem 1 of the paper).

    Args:
        bound: C of the first round. Positive.
        quantile: gamma, the share of clients that shall be below C. In [0, 1].
        rate: eta, of the geometric step. Positive.
        noise: of the count, as a share of the clients of a round. Positive.

    Returns:
        A `Clip` of sensitivity C, which is another in every round.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> from fedjax_rec import privacy
        >>> clip = privacy.adaptive(bound=1.0, rate=1.0)
        >>> round(float(clip.follow(clip.init(), 0.75)), 4)  # three of four are below: C falls
        0.7788
    """
    _bounded("adaptive", bound)
    fraction("adaptive", "quantile", quantile)
    positive("adaptive", "rate", rate)
    positive("adaptive", "noise", noise)
    return Clip(
        lambda: jnp.asarray(bound, jnp.float32),
        lambda C, update: (_factor(norms(update), C), update),
        lambda C: C,
        noise,
        lambda C, share: C * jnp.exp(-rate * (share - quantile)),
    )


def _bounded(where: str, bound) -> None:
    positive(where, "bound", bound)
    if isinstance(bound, float) and bound == float("inf"):
        raise ValueError(
            f"{where}(bound=inf) clips nothing, so there is no guarantee; use a finite bound."
        )


def _factor(norm: jax.Array, bound) -> jax.Array:
    return jnp.minimum(1, CAREFUL * bound / jnp.maximum(norm, 1e-30))


def _scaled(x, factor: jax.Array):
    of = lambda values: values * factor.reshape(-1, *[1] * (values.ndim - 1))
    return replace(x, values=of(x.values)) if rows.is_table(x) else of(x)
