"""Randomized Hadamard rotation: what comes out of it looks Gaussian, whatever went in.

    y = H S_2 H S_1 x,   S_i = diag of random signs

(Ailon & Chazelle, 2009; for quantizers Suresh et al., ICML 2017.) A quantizer of y has a range of
sqrt(log d / d) |x| to cover in place of up to |x|. One turn spreads a dense vector; of a sparse one
it leaves few distinct values, from which the bias of a deterministic quantizer never averages out,
so the default is two.

What is rotated is the coordinates that exist, in blocks of a power of two: the rows of a table that
were touched, moved together, never the others.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..check import at_least
from ..types import Compressor
from ..wire import Live, is_node
from .contradictions import miscounted
from .hadamard import hadamard
from .leafwise import nodewise, numbers, room, touched


def rotate(times: int = 2, block: int = 1024) -> Compressor:
    """Rotates, as a stage for `chain`: its body is `Live` blocks [n, B] of rotated coordinates.

    The last block is padded with zeros, which are rotated and sent like the others: B / 2
    coordinates on average, so large blocks are for large updates, and a quantizer with a scale a
    block likes them not too small. Every client and node has a rotation of its own, from its key;
    if it were shared, errors of clients would not average out.
    Lossless up to rounding (1e-6; that of the update's dtype), orthonormal: unbiased, and what
    follows is as unbiased and as exact in the norm as it is without.
    Wire: 32 bits a coordinate and a seed of 32; of a table the ids of its touched rows.

    Args:
        times: turns.
        block: B, or the next power of two of a node that has fewer coordinates.

    Returns:
        A `Compressor` without memory, linear for one seed.

    Raises:
        ValueError: unless 1 <= times <= 32 and `block` is a power of two.

    Example:
        >>> from fedjax_rec import compress
        >>> two_bits = compress.chain(compress.rotate(), compress.stochastic_uniform(4))
    """
    if not 1 <= times <= 32:
        raise ValueError(f"rotate(times={times}) must be 1 to 32; use 2.")
    at_least("rotate", "block", block, 1)
    if block & (block - 1):
        raise ValueError(
            f"rotate(block={block}) is no power of two; use {1 << block.bit_length() - 1}."
        )

    def encode_node(key, memory, node, now):
        x, _ = numbers(node)
        width = min(block, 1 << (room(node) - 1).bit_length())
        rows, count = _together(x, node)
        flat = jnp.pad(rows.reshape(-1), (0, -x.size % width))
        seed = keys.words(key, 1)
        y = flat.reshape(-1, width)
        for turn in range(times):
            y = hadamard(signed(y, seed, turn))
        live = jnp.arange(y.shape[0]) < -(-count // width)
        return memory, Live(y.astype(x.dtype), live), (seed, touched(node))

    def decode_node(body, side, node, now):
        seed, touched = side
        y = jnp.asarray(body.values, jnp.float32)
        for turn in reversed(range(times)):
            y = signed(hadamard(y), seed, turn)
        return _apart(y.reshape(-1), touched, node)

    def complaint(body, side, node, now):
        x = numbers(node)[0]
        count = int(np.sum(side[1].live)) * (x.size // x.shape[0]) if is_node(node) else x.size
        return miscounted("blocks", body.live, -(-count // body.values.shape[1]))

    return nodewise(lambda node: (), encode_node, decode_node, linear=True, complaint=complaint)


def signed(blocks: jax.Array, seed: jax.Array, turn: int) -> jax.Array:
    """float32[n, B]: random signs on each coordinate, from bit `turn` of a word of its own.

    The word depends on the place alone, so that a receiver of fewer blocks has the same."""
    place = jnp.arange(blocks.size, dtype=jnp.uint32).reshape(blocks.shape)
    # Fused into one pass, these words cost less than reading the coordinates.
    sign = (keys.mix(keys.mix(place) ^ seed) << turn) & jnp.uint32(1 << 31)
    bits = jax.lax.bitcast_convert_type(blocks.astype(jnp.float32), jnp.uint32)
    return jax.lax.bitcast_convert_type(bits ^ sign, jnp.float32)


def _together(x: jax.Array, node) -> tuple[jax.Array, jax.Array | int]:
    """(rows, count): the live rows of a node first, in their order, zeros after them, and how many
    coordinates they have. Of an array all of them."""
    if not is_node(node):
        return x, x.size
    length = node.live.shape[0]
    place = jnp.cumsum(node.live, dtype=jnp.int32) - 1
    # `length` is the place of nothing, and row `length` is the row of zeros.
    source = jnp.full(length, length, jnp.int32)
    source = source.at[jnp.where(node.live, place, length)].set(
        jnp.arange(length, dtype=jnp.int32), mode="drop"
    )
    rows = x.at[source].get(mode="fill", fill_value=0)
    return rows, node.live.sum(dtype=jnp.int32) * (x.size // length)


def _apart(flat: jax.Array, touched, node):
    """The inverse of `_together`, of as many rows as arrived."""
    if not is_node(node):
        return flat[: node.size].reshape(node.shape).astype(node.dtype)
    live = jnp.asarray(touched.live)
    shape = (live.shape[0], *node.values.shape[1:])
    size = live.shape[0] * (node.values.size // node.values.shape[0])
    rows = flat[:size].reshape(shape).astype(node.values.dtype)
    place = jnp.cumsum(live, dtype=jnp.int32) - 1
    place = jnp.where(live, place, live.shape[0])
    return replace(touched, values=rows.at[place].get(mode="fill", fill_value=0))
