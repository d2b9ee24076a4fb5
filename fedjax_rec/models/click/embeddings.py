"""Tables of vectors for ids of a batch: a row each, or fewer rows than ids.

- `rows_each`           e(i) = T[i]
- `hashed`              e(i) = sum_j s_j(i) T[h_j(i)], signs s_j and hashes h_j, j = 1..k
                        (Weinberger et al., "Feature hashing", ICML 2009; several hash functions as
                        in Svenstrup et al., "Hash embeddings", NeurIPS 2017, without their weights)
- `quotient_remainder`  e(i) = Q[i // m] * R[i % m]   (Shi et al., "Compositional embeddings using
                        complementary partitions", KDD 2020): I ids are told apart by I / m + m rows

The rows are touched rows like any other: clients receive, train and upload those that the ids of
their batches name, see `fields.Derived`.

`I` ids, `D` width, `F` ids an example, `k` rows an id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from ... import check
from ...check import at_least, one_of
from ...keys import mix
from ...rows.fields import Derived
from ..roles import Rows

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Embedding:
    """build(num_ids, width, scale, field, rngs) -> module whose call makes float32[B, F, D] of a
    batch with the ids int32[B, F] in `field`. scale: standard deviation of a vector's entries."""

    build: Callable[..., nnx.Module]


@dataclass(frozen=True)
class Hashes:
    """int32[..., k] rows below `rows` of ids, and their signs."""

    rows: int
    count: int
    seed: int

    def __call__(self, ids):
        return jax.lax.rem(self._bits(ids) >> 1, jnp.uint32(self.rows)).astype(jnp.int32)

    def signs(self, ids):
        """float32[..., k], -1 or 1. The bit is one that the row number does not use."""
        return 1.0 - 2.0 * (self._bits(ids) & 1).astype(jnp.float32)

    def _bits(self, ids):
        salt = mix(jnp.arange(self.count, dtype=jnp.uint32) + jnp.uint32(self.seed * self.count))
        return mix(mix(ids.astype(jnp.uint32))[..., None] ^ salt)


@dataclass(frozen=True)
class QuotientRemainder:
    """int32[..., 2]: the rows of i // m and, behind those, of i % m."""

    quotients: int
    modulus: int

    def __call__(self, ids):
        return jnp.stack([ids // self.modulus, self.quotients + ids % self.modulus], -1)


class _Each(nnx.Module):
    def __init__(self, values, field):
        self.table, self.field = Rows(values, fields=(field,)), field

    def __call__(self, batch):
        return self.table[batch[self.field]].astype(jnp.float32)


class _Hashed(nnx.Module):
    def __init__(self, values, field, hashes):
        self.table = Rows(values, fields=(Derived(field, hashes, hashes.count),))
        self.field, self.hashes = field, hashes

    def __call__(self, batch):
        ids = batch[self.field]
        rows = self.table[ids].astype(jnp.float32)
        return (rows * self.hashes.signs(ids)[..., None]).sum(-2)


class _Composed(nnx.Module):
    def __init__(self, values, field, parts):
        self.table, self.field = Rows(values, fields=(Derived(field, parts, 2),)), field

    def __call__(self, batch):
        rows = self.table[batch[self.field]].astype(jnp.float32)
        return rows[..., 0, :] * rows[..., 1, :]


def _normal(rngs, rows: int, width: int, scale: float, dtype: str):
    return (scale * jax.random.normal(rngs.params(), (rows, width))).astype(dtype)


def rows_each(dtype: str = "float32") -> Embedding:
    """e(i) = T[i], a row an id.

    Args:
        dtype: in which rows are stored, `float32` or `bfloat16`, see `strategies.stochastic_step`.

    Raises:
        ValueError: for another dtype.

    Example:
        >>> narrow = models.rows_each("bfloat16")
        >>> model = models.deepfm(num_items=100, sparse=4, dense=2, embedding=narrow)
    """
    one_of("rows_each", "dtype", dtype, DTYPES)

    def build(num_ids, width, scale, field, rngs):
        return _Each(_normal(rngs, num_ids, width, scale, dtype), field)

    return Embedding(build)


def hashed(rows: int, hashes: int = 2, seed: int = 0, dtype: str = "float32") -> Embedding:
    """e(i) = sum_j s_j(i) T[h_j(i)], the signed sum of `hashes` of `rows` rows.

    Two ids share all of their rows with probability rows^-hashes, and a part of them more often.

    Args:
        rows: of T.
        hashes: k, how many rows an id has.
        seed: of h and s.
        dtype: as in `rows_each`.

    Raises:
        ValueError: for numbers below 1, another dtype, and for no seed of 32 bits.

    Example:
        >>> few = models.hashed(rows=40, hashes=2)
        >>> model = models.deepfm(num_items=100, sparse=4, dense=2, embedding=few)
    """
    at_least("hashed", "rows", rows, 1)
    at_least("hashed", "hashes", hashes, 1)
    check.seed("hashed", seed)
    one_of("hashed", "dtype", dtype, DTYPES)
    function = Hashes(rows, hashes, seed)

    def build(num_ids, width, scale, field, rngs):
        return _Hashed(_normal(rngs, rows, width, scale * hashes**-0.5, dtype), field, function)

    return Embedding(build)


def quotient_remainder(modulus: int, dtype: str = "float32") -> Embedding:
    """e(i) = Q[i // m] * R[i % m], the product of a row by quotient and one by remainder.

    Rows are fewest for a modulus near sqrt(I). R starts near 1, so that a vector starts near its
    quotient's row.

    Args:
        modulus: m.
        dtype: as in `rows_each`.

    Raises:
        ValueError: for a modulus below 1, and for another dtype.

    Example:
        >>> few = models.quotient_remainder(modulus=10)
        >>> model = models.deepfm(num_items=100, sparse=4, dense=2, embedding=few)
    """
    at_least("quotient_remainder", "modulus", modulus, 1)
    one_of("quotient_remainder", "dtype", dtype, DTYPES)

    def build(num_ids, width, scale, field, rngs):
        parts = QuotientRemainder(-(-num_ids // modulus), modulus)
        quotient = _normal(rngs, parts.quotients, width, scale, dtype)
        remainder = _normal(rngs, modulus, width, 0.1, dtype) + jnp.ones((), dtype)
        return _Composed(jnp.concatenate([quotient, remainder]), field, parts)

    return Embedding(build)
