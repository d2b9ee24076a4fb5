"""Rows of bfloat16 tables, read as float32 and written back.

XLA on CPU gathers from and scatters to bfloat16 by way of a float32 copy of the whole operand; the
bits as integers it takes as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .apart import Apart, plainly

Rounding = Callable[[jax.Array], jax.Array]


def is_narrow(values: Any) -> bool:
    return values.dtype == jnp.bfloat16


def wide(values: Any) -> jax.Array:
    """`values` in float32, or as they are."""
    if isinstance(values, Apart):
        values.refuse()
    return values.astype(jnp.float32) if is_narrow(values) else values


def rows_at(values: Any, ids, mode: str | None = None) -> jax.Array:
    """The rows `ids` int[...], bfloat16 as float32."""
    if isinstance(values, Apart):
        return wide(values.rows(ids, _of_block if is_narrow(values) else plainly))
    if is_narrow(values):
        return _by_bits(values, ids, mode)
    return indexable(values).at[ids].get(mode=mode)


def _of_block(block: jax.Array, at: jax.Array) -> jax.Array:
    return rows_at(block, at, "clip").astype(block.dtype)  # rows travel as narrow as they are


def indexable(values: Any) -> Any:
    """`values` with `at`, which arrays of NumPy have not; others (of one of the clusters of IFCA,
    which is never copied whole) stay as they are."""
    return jnp.asarray(values) if isinstance(values, np.ndarray) else values


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _by_bits(values, ids, mode):
    bits = jax.lax.bitcast_convert_type(values, jnp.uint16).at[ids].get(mode=mode)
    return jax.lax.bitcast_convert_type(bits.astype(jnp.uint32) << 16, jnp.float32)


@_by_bits.defjvp
def _by_bits_jvp(mode, primals, tangents):
    values, ids = primals
    return _by_bits(values, ids, mode), wide(tangents[0].at[ids].get(mode=mode))


def with_rows(values: jax.Array, ids, rows: jax.Array) -> jax.Array:
    """bfloat16 `values` with `rows`, of the same type, at `ids`; others than 0..I-1 are dropped."""
    bits = lambda x: jax.lax.bitcast_convert_type(x, jnp.uint16)
    after = bits(values).at[ids].set(bits(rows), mode="drop")
    return jax.lax.bitcast_convert_type(after, values.dtype)


def added_once(values: jax.Array, update: Any, rounding: Rounding | None = None) -> jax.Array:
    """bfloat16 `values` plus a `RowsUpdate` without origin: the sum of each row is float32, and is
    rounded once. Repeated ids add up. rounding: None is to the nearest."""
    rounding = rounding or (lambda x: x.astype(values.dtype))
    if update.ids is None:
        after = rounding(wide(values) + update.values)
        return jnp.where(update.live[:, None], after, values)
    ids, total = summed(update)
    return with_rows(values, ids, rounding(rows_at(values, ids, "clip") + total))


def summed(update: Any) -> tuple[jax.Array, jax.Array]:
    """(ids int32[n], each once and the rest `I`; float32[n, D] the sums of their rows)."""
    values = update.values
    if update.factor is not None:
        values = values * update.factor
    order = jnp.argsort(update.ids)
    ids = update.ids[order]
    place = jnp.cumsum(jnp.append(False, ids[1:] != ids[:-1]).astype(jnp.int32))
    total = jnp.zeros(values.shape, jnp.float32).at[place].add(values[order])
    return jnp.full(ids.shape, update.size).at[place].set(ids), total
