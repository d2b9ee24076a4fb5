"""What a device reaches at best: bytes a second of a pass over memory, operations a second of a
product of matrices. Measured beside what is held against them."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

import jax
import jax.numpy as jnp

from .timing import Timing, repeat

WALL: Callable[[Timing], float] = attrgetter("wall")


def copy_bandwidth(megabytes: int = 512, clock: Callable[[Timing], float] = WALL) -> float:
    """Bytes a second, read and written, of one pass over a large array. clock: which seconds."""
    x = jnp.ones(megabytes * 2**18, jnp.float32)
    # In place, so that a CPU's page faults are not measured in its stead.
    pass_over = jax.jit(lambda x: x * 0.5 + 1, donate_argnums=0)
    size = x.nbytes

    def call():
        nonlocal x
        x = pass_over(x)
        return x

    return 2 * size / clock(repeat(call, 9))


def product_rate(n: int, dtype=jnp.bfloat16, clock: Callable[[Timing], float] = WALL) -> float:
    """Operations a second of a product of two matrices [n, n] of normal numbers. clock: which
    seconds."""
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), dtype)
    product = jax.jit(jnp.matmul)
    return 2 * n**3 / clock(repeat(lambda: product(a, b), 9))
