"""Terms that act on every row of a table in every step, computed when a row is read.

    y <- y - eta (g + mu (y - x) + d),   x and d the same in all steps

With a = 1 - eta mu and g of the rows of the batch alone, after t steps

    y = x + s_t v - r_t eta d,    s_t = a^t,  r_t = 1 + a + ... + a^(t-1)
    v <- v - eta g / s_(t+1)

so a step of SGD touches the rows of its batch, and the rest of the table waits for the end of the
round. Adding the terms in each step would be a pass over a client's whole local tables, 13 times
the round of federated averaging in batches of 64.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from ..rows import LocalTable
from ..types import Array, record

# Below it v would need more than a float32 has.
LEAST_SCALE = 1e-6


@record
class Drift:
    """base: x, float[L, D], or None where `values` are x + v (mu = 0). push: eta d, or None.
    decay: a. scale, shift: s_t and r_t."""

    base: Any
    push: Any
    decay: Array
    scale: Array
    shift: Array

    def at(self, values, slots) -> Array:
        """Rows `slots` of y; `slice(None)` for all."""
        y = self.scale * values[slots]
        if self.base is not None:
            y = self.base[slots] + y
        return y if self.push is None else y - self.shift * self.push[slots]

    def after(self, active) -> Drift:
        """A step later, if it was `active`."""
        scale = jnp.where(active, self.decay * self.scale, self.scale)
        shift = jnp.where(active, self.decay * self.shift + 1, self.shift)
        return replace(self, scale=scale, shift=shift)


def drifting(table: LocalTable, x, mu, push, rate) -> LocalTable:
    """`table`, which holds x, with mu (y - x) and `push` (d [L, D], or None) from now on.

    x: where its rows can be read, the table of the server or a copy. rate: eta.
    """
    one, zero = jnp.float32(1.0), jnp.float32(0.0)
    pushed = None if push is None else rate * push
    if mu is None:
        return replace(table, drift=Drift(None, pushed, one, one, zero))
    drift = Drift(x, pushed, jnp.float32(1 - rate * mu), one, zero)
    return replace(table, values=jnp.zeros_like(table.values), drift=drift)


def is_lazy(mu, rate, turns: int) -> bool:
    """Whether v stays in range: without a pull (mu is None) always, else for mu and a rate that are
    known before tracing. Otherwise the terms are added in each step, which gives the same numbers.
    """
    if mu is None:
        return rate is not None
    known = isinstance(rate, (int, float)) and isinstance(mu, (int, float))
    return known and rate * mu < 1 and (1 - rate * mu) ** turns > LEAST_SCALE


def arrived(table: LocalTable) -> LocalTable:
    """`table` with y in place."""
    if table.drift is None:
        return table
    return replace(table, values=table.drift.at(table.values, slice(None)), drift=None)


def without_push(table: LocalTable) -> LocalTable:
    """`table`, which drifts, with x + s_t v in place: y without what the push did."""
    drift: Any = table.drift
    return arrived(replace(table, drift=replace(drift, push=None)))


def reached(mu, rate, steps) -> Array:
    """float32[]: eta r_t after t = `steps` steps, as `Drift.shift` has it times the rate."""
    if mu is None:
        return rate * steps
    step = jnp.asarray(rate * mu, jnp.float32)
    power = jnp.asarray(1 - step) ** steps.astype(jnp.int32)
    # Of small steps 1 - a^t would be the difference of two numbers near 1.
    near = jnp.expm1(steps * jnp.log1p(-jnp.minimum(step, 0.5)))
    return jnp.where(step < 0.5, -near, 1 - power) / mu
