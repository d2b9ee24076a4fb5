"""Orthonormal bases, and random row spaces that client and server make from a seed.

A client that trains in such a space (`clients.subspace`) and a compressor that sends coordinates
in it (`compress.seeded_low_rank`) must mean the same one, so it is made here, and never sent.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from . import keys

# A column of which less than this is new depends on those before, within the noise of float32.
DEPENDENT = 1e-5


def random_rows(seed: int, round, width: int, rank: int, trip: int = 0) -> jax.Array:
    """float32[rank, width]: A, rows orthogonal and of length sqrt(width / rank), so that
    E[A^T A] = I; its row space is uniform among those of dimension `rank`.

    round: int or int32[]; every round, and every trip of it, has a space of its own. All matrices
    of one width share it.
    """
    key = jax.random.fold_in(keys.of_round(seed, round, trip), width)
    normal = jax.random.normal(key, (width, rank))
    return math.sqrt(width / rank) * orthonormal(normal).T


def orthonormal(x: jax.Array) -> jax.Array:
    """[n, r]: the columns of x by Gram-Schmidt, each projected twice; one that depends on those
    before is 0."""
    columns = x.T

    def one(j, q):
        v = columns[j]
        size = jnp.linalg.norm(v)
        v = v / jnp.where(size > 0, size, 1.0)
        for _ in range(2):
            v = v - product(product(q, v), q)
        rest = jnp.linalg.norm(v)
        new = rest > DEPENDENT
        return q.at[j].set(jnp.where(new, v / jnp.where(new, rest, 1.0), 0.0))

    return jax.lax.fori_loop(0, x.shape[1], one, jnp.zeros_like(columns)).T


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b in full float32, also on devices whose matrix units round to fewer bits."""
    return jnp.matmul(a, b, precision="highest")
