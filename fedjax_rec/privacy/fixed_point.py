"""Fixed point: real numbers as integers modulo 2^b, so that sums are exact to the bit.

    q = floor(clip(x, -B, B) / s + u),  u uniform in [0, 1),  s = B / L
    E[s q] = clip(x, -B, B),   |q| <= L,   |sum q| <= n L < 2^(b-2)        n clients

Stochastic rounding is unbiased. One bit more than a sum needs is left free: a sum that something
was left out of is uniform modulo 2^b, and half of that is out of range in each coordinate. Where
noise is in the sum, it needs so much more room.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .. import keys
from ..check import at_least, is_traced, positive, static

FINEST = 2**22  # L beyond which a float32 does not tell the steps apart


@dataclass(frozen=True)
class Grid:
    """bound: B. levels: L. bits: b."""

    bound: Any
    levels: int
    bits: int

    @property
    def step(self):
        """s, the fixed-point step."""
        return self.bound / self.levels

    @property
    def last(self) -> jax.Array:
        """uint32[]: 2^b - 1, by which what is beyond b bits is cut off."""
        return jnp.uint32(2**self.bits - 1)

    def rounded(self, key, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(uint32[d], bool[d]): q modulo 2^b, and where |x| > B."""
        place = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
        return self.rounded_by(keys.counted(keys.words(key, 2), place), x)

    def rounded_by(self, bits: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`rounded`, by uint32[d] that are uniform."""
        scaled = jnp.clip(x.astype(jnp.float32) / self.bound, -1.0, 1.0) * self.levels
        low = jnp.floor(scaled)
        # Of 24 bits, as many as a float32 has: exact, also for what is on the grid.
        up = (bits >> 8).astype(jnp.float32) * 2.0**-24 < scaled - low
        q = low.astype(jnp.int32) + up.astype(jnp.int32)
        return jax.lax.bitcast_convert_type(q, jnp.uint32) & self.last, jnp.abs(x) > self.bound

    def signed(self, total: jax.Array) -> jax.Array:
        """int32[d] of uint32[d] modulo 2^b, in -2^(b-1) ... 2^(b-1) - 1."""
        spare = 32 - self.bits
        return jax.lax.bitcast_convert_type(total << spare, jnp.int32) >> spare

    def within(self, total: jax.Array, clients, room: int = 0) -> jax.Array:
        """bool[]: whether int32[d] may be a sum of so many clients, and of noise up to `room`."""
        most = clients * self.levels + room
        return ((total <= most) & (total >= -most)).all()


def grid_of(
    where: str,
    bound,
    clients: int,
    bits: int,
    step: float | None,
    room: Callable[[int], int] = lambda levels: 0,
    finest: int = FINEST,
) -> Grid:
    """The grid whose sums of `clients` fit into `bits`, the finest where no `step` is asked for.

    room: what else must fit, in steps, where a bound has so many. finest: most levels where no step
    is asked for.

    Raises ValueError where none fits, naming the smallest number of bits that does.
    """
    positive(where, "bound", bound)
    for name, value in (("clients", clients), ("bits", bits), ("step", step)):
        static(where, name, value)
    at_least(where, "clients", clients, 1)
    if not 2 <= bits <= 32:
        raise ValueError(f"{where}(bits={bits}) is no size of a modulus; use 2 <= bits <= 32.")
    fits = lambda levels: levels * clients + room(levels) < 2 ** (bits - 2)
    most = bisect.bisect_left(range(1, FINEST + 1), True, key=lambda levels: not fits(levels))
    levels = min(most, finest)
    if step is not None:
        positive(where, "step", step)
        if is_traced(bound):
            raise ValueError(
                f"{where}(step={step}) and a traced bound: how many steps there are is not known; "
                "leave step out, for the finest grid."
            )
        levels = max(1, round(bound / step))
    if levels > most or most < 1:
        needed = (max(levels, 1) * clients + room(max(levels, 1))).bit_length() + 2
        wanted = "" if step is None else f", step={step}"
        remedy = f"use bits={needed}" if needed <= 32 else "use a larger step or fewer clients"
        if levels > FINEST:
            remedy = f"use step >= {bound / FINEST:.3g}, float32 tells no more apart"
        raise ValueError(
            f"{where}(bits={bits}, clients={clients}{wanted}): the sum of all clients does not "
            f"fit; {remedy}."
        )
    return Grid(bound, levels, bits)
