"""Tables stored narrower than they are trained: the sum of a round in float32, rounded once.

    x <- round(x + eta * sum_k update_k),   row by row, on the rows that the round touched

A bfloat16 table is half the memory and half the bytes down; clients train its rows in float32. An
update below half a unit in the last place (2^-9 of the value) is lost to rounding to the nearest,
every round again. Stochastic rounding is unbiased, E round(x) = x, so that small updates arrive on
average (Gupta et al., "Deep learning with limited numerical precision", ICML 2015).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check, keys, rows, trees
from ..check import positive
from ..compress.quantize import rounded_bits
from ..rows.narrow import Rounding, is_narrow
from ..types import Server


def stochastic_step(learning_rate: float = 1.0, seed: int = 0) -> Server:
    """Steps as `step(learning_rate)`, and rounds rows of bfloat16 tables stochastically.

    Args:
        learning_rate: eta, which may be traced.
        seed: of the rounding, a stream a round and table.

    Returns:
        A `Server` whose state is the number of the round.

    Raises:
        ValueError: for learning_rate <= 0, and for no seed of 32 bits.

    Example:
        >>> narrow = models.deepfm(100, sparse=4, dense=2, embedding=models.rows_each("bfloat16"))
        >>> server = strategies.stochastic_step()
        >>> strategy = strategies.fedavg(narrow, data.examples(), server=server)
    """
    check.seed("stochastic_step", seed)
    positive("stochastic_step", "learning_rate", learning_rate)

    def apply(count, shared, update):
        key = jax.random.fold_in(jax.random.key(seed), count)
        number = iter(range(len(jax.tree.leaves(shared))))

        def one(x, u):
            if not rows.is_table(x):
                return (x + learning_rate * u).astype(x.dtype)
            u = rows.scale(u, learning_rate)
            if not is_narrow(x.values):
                return rows.apply(x, u)
            key_of_table = jax.random.fold_in(key, next(number))
            return rows.apply(x, u, stochastic(key_of_table))

        after = rows.map_nodes(one, trees.trainable(shared), update)
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
