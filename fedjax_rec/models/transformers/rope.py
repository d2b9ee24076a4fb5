"""Rotary angles (Su et al. 2021), and what stretches them over longer texts.

At place t the pair (i, i + r/2) of the first r numbers of a head turns by t rate_i, with

    rate_i = theta^(-2i/r)                                               as they are,
    rate_i / factor                                                      `Linear` (Chen 2023)
    rate_i / factor_i                                                    `Each` (LongRoPE, 2024)
    rate_i where its wave is short, rate_i / factor where it is long,
    and between them a mixture, linear in one over the wave              `Llama3` (Llama 3.1, 2024)
                                linear in i                              `Yarn` (Peng et al. 2023)

Waves 1 / rate_i are rounded to float32 as torch rounds them, in which models are trained: at place
700 another rounding turns a pair by 4e-5, and logits of wide heads tell.

`T` tokens, `d` width of a head, `r` <= d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Linear:
    """All rates divided by `factor`."""

    factor: float

    def __call__(self, waves, rope: Rope):
        return 1 / waves / np.float32(self.factor)


@dataclass(frozen=True)
class Each:
    """Each rate divided by a factor of its own, r/2 of them."""

    factors: tuple[float, ...]

    def __call__(self, waves, rope: Rope):
        return 1 / (np.asarray(self.factors, np.float32) * waves)


@dataclass(frozen=True)
class Llama3:
    """Rates of waves above `places` / `low` are divided by `factor`, those of waves below
    `places` / `high` are not."""

    factor: float
    low: float
    high: float
    places: float

    def __call__(self, waves, rope: Rope):
        rates = 1 / waves
        turns = self.places * rates / (2 * math.pi)
        kept = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return (1 - kept) * rates / np.float32(self.factor) + kept * rates


@dataclass(frozen=True)
class Yarn:
    """Pairs that turn more than `fast` times in `places` places keep their rate, those that turn
    less than `slow` times are divided by `factor`. whole: the ends are whole pairs."""

    factor: float
    places: float
    fast: float = 32.0
    slow: float = 1.0
    whole: bool = True

    def __call__(self, waves, rope: Rope):
        pair = lambda turns: (
            rope.width * math.log(self.places / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))
        )
        first, last = pair(self.fast), pair(self.slow)
        if self.whole:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, rope.width - 1)
        if first == last:
            last += 0.001
        up = (np.arange(waves.size, dtype=np.float32) - first) / (last - first)
        kept = 1 - np.clip(up, 0, 1)
        return (1 - kept) / (np.float32(self.factor) * waves) + kept / waves


@dataclass(frozen=True)
class Rope:
    """theta; width: r. scaling: of the rates, one of the above, None for none.

    size: what cosines and sines are multiplied by. most: the longest text, in tokens, for which
    these are the rates; None for any.
    """

    theta: float
    width: int
    scaling: Linear | Each | Llama3 | Yarn | None = None
    size: float = 1.0
    most: int | None = None

    def rates(self) -> np.ndarray:
        """float32[r/2]."""
        powers = np.arange(0, self.width, 2, dtype=np.float32) / np.float32(self.width)
        waves = np.asarray(self.theta ** powers.astype(np.float64), np.float32)
        rates = 1 / waves if self.scaling is None else self.scaling(waves, self)
        return np.asarray(rates, np.float32)

    def angles(self, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(cos, sin) [..., T, r/2] at `places` int32[..., T]."""
        angles = places[..., None] * self.rates()
        return self.size * jnp.cos(angles), self.size * jnp.sin(angles)


def turned(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """x [..., T, heads, d] with the pairs of its first r numbers turned by `angles`."""
    cos, sin = (a[..., None, :] for a in angles)
    width = 2 * cos.shape[-1]
    a, b = jnp.split(x[..., :width].astype(jnp.float32), 2, -1)
    made = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
    return made if width == x.shape[-1] else jnp.concatenate([made, x[..., width:]], -1)
