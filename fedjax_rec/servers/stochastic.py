"""Tables stored narrower than they are trained: the sum of a round in float32, rounded once.

    x <- round(x + eta * sum_k update_k),   row by row, on the rows that the round touched

A bfloat16 table is half the memory and half the bytes down; clients train its rows in float32. An
update below half a unit in the last place (2^-9 of the value) is lost to rounding to the nearest,
every round again. Stochastic rounding is unbiased, E round(x) = x, so that small updates arrive on
average (Gupta et al., "Deep learning with limited numerical precision", ICML 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees
from ..check import positive
from ..compress.quantize import rounded_bits
from ..rows.narrow import is_narrow, rows_at, with_rows
from ..types import Array, Server

Rounding = Callable[[jax.Array], jax.Array]


def stochastic_step(learning_rate: float = 1.0, seed: int = 0) -> Server:
    """Steps as `step(learning_rate)`, and rounds rows of bfloat16 tables stochastically.

    Args:
        learning_rate: eta, which may be traced.
        seed: of the rounding, a stream a round and table.

    Returns:
        A `Server` whose state is the number of the round.

    Raises:
        ValueError: for learning_rate <= 0.
    """
    positive("stochastic_step", "learning_rate", learning_rate)

    def apply(count, shared, update):
        key = jax.random.fold_in(jax.random.key(seed), count)
        number = iter(range(len(jax.tree.leaves(shared))))

        def one(x, u):
            if not rows.is_table(x):
                return (x + learning_rate * u).astype(x.dtype)
            u = rows.scaled(u, jnp.float32(learning_rate))
            if not is_narrow(x.values):
                return replace(x, values=add_to(x.values, u))
            key_of_table = jax.random.fold_in(key, next(number))
            return replace(x, values=add_to(x.values, u, stochastic(key_of_table)))

        after = jax.tree.map(one, trees.trainable(shared), update, is_leaf=rows.is_table)
        return count + 1, trees.with_frozen(after, shared)

    return Server(lambda shared: jnp.int32(0), apply)


def stochastic(key: jax.Array) -> Rounding:
    """float32 to bfloat16, up or down with the probabilities that keep the mean."""
    seed = keys.words(key, 2)

    def rounding(x):
        place = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
        bits = keys.mix(keys.mix(place + seed[0]) ^ seed[1])
        kept = rounded_bits(x, bits, 16).astype(jnp.uint16)
        return jax.lax.bitcast_convert_type(kept, jnp.bfloat16)

    return rounding


def add_to(table: jax.Array, update: rows.RowsUpdate, rounding: Rounding | None = None):
    """float[I, D]: `table` plus an update without origin, in the table's type.

    Of a narrow table the sum of each row is float32 and is rounded once; rounding: default to the
    nearest. Repeated ids add up.
    """
    if not is_narrow(table):
        return rows.add_to(table, update)
    rounding = rounding or (lambda x: x.astype(table.dtype))
    if update.ids is None:
        after = rounding(table.astype(jnp.float32) + update.values)
        return jnp.where(update.live[:, None], after, table)
    ids, total = summed(update)
    return with_rows(table, ids, rounding(rows_at(table, ids, "clip") + total))


def summed(update: rows.RowsUpdate) -> tuple[jax.Array, jax.Array]:
    """(ids int32[n], each once and the rest `I`; float32[n, D] the sums of their rows)."""
    values = update.values
    if update.factor is not None:
        values = values * update.factor
    ids: Array = update.ids
    order = jnp.argsort(ids)
    ids = ids[order]
    place = jnp.cumsum(jnp.append(False, ids[1:] != ids[:-1]).astype(jnp.int32))
    total = jnp.zeros(values.shape, jnp.float32).at[place].add(values[order])
    return jnp.full(ids.shape, update.size).at[place].set(ids), total
