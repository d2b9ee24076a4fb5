"""A rotation that all clients share: numbers of one length and no outliers, for a small modulus.

    y = H S_2 H S_1 x,     S_i = diag of random signs, of a seed and the round

Blocks of B numbers, H of Walsh and Hadamard. Sums of rotated updates are rotated sums, and a
coordinate of a block of norm c is beyond t c / sqrt(B) with a probability of about 2 e^(-t^2 / 2),
whatever the update: `secure_aggregation(bound=5 c / sqrt(B))` cuts off next to nothing and has
sqrt(B) / 5 finer steps for as many bits (Kairouz, Liu & Steinke, ICML 2021).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check, keys
from ..check import at_least
from ..compress.hadamard import hadamard
from ..compress.leafwise import nodewise
from ..compress.rotate import signed
from ..rows import RowsUpdate
from ..types import Compressor

TURNS = 2


def seeded_rotation(block: int = 1024, seed: int = 0) -> Compressor:
    """Rotates blocks of numbers, in every round anew, the same way at all clients.

    Lossless up to rounding, 1e-6, and orthonormal. Of whole tables, as they are under
    `secure_aggregation`; the last block of each is padded, which costs B / 2 numbers on average.
    After `seeded_rows` in a chain it rotates the rows that are sent.

    Args:
        block: B, or the next power of two of an array that has fewer numbers.
        seed: of all signs.

    Returns:
        A linear `Compressor` without memory, whose bodies are blocks [n, B].

    Raises:
        ValueError: unless `block` is a power of two; for no seed of 32 bits; and, when a round is
            traced, where the touched rows travel.

    Example:
        >>> from fedjax_rec import privacy
        >>> noise = privacy.skellam(clip=1.0, noise_multiplier=1.0, there=48)
        >>> hidden = privacy.secure_aggregation(5 / 32, clients=64, bits=18, noise=noise)
        >>> strategy = strategies.fedavg(
        ...     model, data.pointwise(4), uplink=privacy.seeded_rotation(), aggregator=hidden
        ... )
    """
    at_least("seeded_rotation", "block", block, 1)
    if block & (block - 1):
        raise ValueError(
            f"seeded_rotation(block={block}) is no power of two; use {1 << block.bit_length() - 1}."
        )
    check.seed("seeded_rotation", seed)

    def signs(size: int, now) -> jax.Array:
        key = jax.random.fold_in(keys.of_round(seed, now.round, now.trip), size)
        return keys.words(keys.stream(key, "rotation"), 1)

    def encode_node(key, memory, node, now):
        x = _numbers(node)
        width = min(block, 1 << (x.size - 1).bit_length())
        y = jnp.pad(x.reshape(-1), (0, -x.size % width)).reshape(-1, width)
        for turn in range(TURNS):
            y = hadamard(signed(y, signs(x.size, now), turn))
        return memory, y, ()

    def decode_node(body, side, node, now):
        x = _numbers(node)
        y = jnp.asarray(body, jnp.float32)
        for turn in reversed(range(TURNS)):
            y = signed(hadamard(y), signs(x.size, now), turn)
        values = y.reshape(-1)[: x.size].reshape(x.shape).astype(x.dtype)
        if not isinstance(node, RowsUpdate):
            return values
        return RowsUpdate(values, None, jnp.ones(node.size, bool), None, node.size)

    return nodewise(lambda node: (), encode_node, decode_node, True, lambda node: 0.0)


def _numbers(node) -> jax.Array:
    if not isinstance(node, RowsUpdate):
        return jnp.asarray(node)
    if node.ids is not None:
        raise ValueError(
            "seeded_rotation: all clients rotate the same rows, and here touched ones travel; use "
            "it under privacy.secure_aggregation, or compress.rotate."
        )
    return jnp.where(jnp.asarray(node.live)[:, None], node.values, 0)
