"""The fast Walsh-Hadamard transform, orthonormal, along the last axis.

    y = H x / sqrt(B),   H[i, j] = (-1)^popcount(i & j),   B = 2^p

(Sylvester, 1867; Walsh, 1923.) H is symmetric, so the transform is its own inverse. It is a
Kronecker product of small Hadamard matrices, H_B = H_a x H_32 x H_32 ..., hence one matrix product
with each, of 64 operations a coordinate. On one CPU core 1,024 coordinates take 1.6 us so, and
4.7 us by butterflies, which need fewer operations but as many passes as B has bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

RADIX = 32

# Coordinates that are transformed at a time: 1 MiB stays in the cache of a core between products.
TILE = 2**18


def hadamard(x: jax.Array) -> jax.Array:
    """float32[..., B]: the transform of x [..., B]. Keeps norms and inner products, up to rounding
    of 1e-6; hadamard(hadamard(x)) is x. Raises ValueError where B is no power of two."""
    size = x.shape[-1]
    if size < 1 or size & (size - 1):
        raise ValueError(f"hadamard(x) of {size} coordinates; pad them to a power of two.")
    return _transform(x.astype(jnp.float32))


@jax.custom_batching.custom_vmap
def _transform(x: jax.Array) -> jax.Array:
    blocks = x.reshape(-1, x.shape[-1])
    count = blocks.shape[0]
    tile = max(1, TILE // blocks.shape[1])
    if count <= tile:
        return _products(blocks).reshape(x.shape)

    def one(begin, y, length=tile):
        part = jax.lax.dynamic_slice_in_dim(y, begin, length)
        return jax.lax.dynamic_update_slice_in_dim(y, _products(part), begin, 0)

    # In place, so that nothing but the blocks and one tile is in memory.
    y = jax.lax.fori_loop(0, count // tile, lambda t, y: one(t * tile, y), blocks)
    if count % tile:
        y = one(count - count % tile, y, count % tile)
    return y.reshape(x.shape)


@_transform.def_vmap
def _of_many(axis_size, batched, x):
    """Clients are one more leading axis. `vmap` of the products would transpose them there and
    back, which takes as long as the products."""
    return _transform(x), True


def _products(x: jax.Array) -> jax.Array:
    """The transform of x [n, B], one factor of H after the other."""
    y, rest = x, x.shape[1]
    for radix in _radices(rest):
        rest //= radix
        # `highest`, since what products in bfloat16 or TF32 lose, the inverse would not find again.
        if rest == 1:
            y = jnp.matmul(y.reshape(-1, radix), _matrix(radix), precision="highest")
        else:
            y = y.reshape(-1, radix, rest)
            # A copy of the matrix for each, since the product of one with many transposes them.
            matrices = jnp.broadcast_to(_matrix(radix), (y.shape[0], radix, radix))
            y = jnp.matmul(matrices, y, precision="highest")
    return y.reshape(x.shape)


def _radices(size: int) -> list[int]:
    """Factors of `size`, all of them RADIX but the first, where rows are longest."""
    radices = []
    while size > RADIX:
        radices.append(RADIX)
        size //= RADIX
    return [size, *radices]


def _matrix(size: int) -> np.ndarray:
    """float32[size, size]: Sylvester's matrix, orthonormal."""
    signs = np.ones((1, 1))
    while len(signs) < size:
        signs = np.block([[signs, signs], [signs, -signs]])
    return (signs / np.sqrt(size)).astype(np.float32)
