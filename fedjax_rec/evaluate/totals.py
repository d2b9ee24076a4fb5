"""Sums of many float32 numbers that keep their digits: by blocks, of all and by group."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_BLOCK = 256


def total(x: jax.Array) -> jax.Array:
    """The sum of float[n], by blocks: one after another, 10^7 numbers lose three digits."""
    while x.shape[0] > 1:
        x = jnp.pad(x, (0, -x.shape[0] % _BLOCK)).reshape(-1, _BLOCK).sum(1)
    return x[0]


def total_by(x: jax.Array, group: jax.Array, count: int) -> jax.Array:
    """float32[count]: `total` of each group; float[n] sorted by group int32[n]."""
    size, most = jnp.bincount(group, length=count), x.shape[0]
    while most > 1:
        blocks = -(-size // _BLOCK)
        place = jnp.arange(x.shape[0]) - (jnp.cumsum(size) - size)[group]
        block = (jnp.cumsum(blocks) - blocks)[group] + place // _BLOCK
        total = -(-x.shape[0] // _BLOCK) + count
        x = jax.ops.segment_sum(x, block, total, indices_are_sorted=True)
        group = jnp.repeat(jnp.arange(count), blocks, total_repeat_length=total)
        # Blocks beyond the last are empty and of no group.
        group = jnp.where(jnp.arange(total) < blocks.sum(), group, count)
        size, most = blocks, -(-most // _BLOCK)
    return jax.ops.segment_sum(x, group, count, indices_are_sorted=True)
