"""Named key streams: every random number of a run comes from one key, by name, round and client.

A key is consumed once. `stream` separates uses by name, so that adding one does not shift the
others; client keys fold in the client id, never the slot, so that reordering, padding, chunking
or sharding a cohort changes nothing.
"""

from __future__ import annotations

import zlib

import jax
import jax.numpy as jnp


def stream(key: jax.Array, name: str) -> jax.Array:
    """The key of the stream called `name`."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def for_client(key: jax.Array, client: jax.Array) -> jax.Array:
    """The key of client id `client` (int32[] or int32[c]: then keys[c])."""
    if jnp.ndim(client) == 0:
        return jax.random.fold_in(key, client)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(client)


def of_round(seed: int, round, trip: int = 0) -> jax.Array:
    """The key of a round that everybody makes from `seed`; trip: as `types.Now` has it."""
    key = jax.random.fold_in(jax.random.key(seed), round)
    return jax.random.fold_in(key, trip) if trip else key


def words(key: jax.Array, n: int) -> jax.Array:
    """uint32[n] seeds for `mix`, drawn from `key`."""
    return jax.random.bits(key, (n,), jnp.uint32)


def mix(x: jax.Array) -> jax.Array:
    """A bijection of uint32 that scatters every bit (lowbias32, Wellons 2018).

    With a threefry seed and a counter it draws the millions of negatives and shuffles of a round:
    1.6 ns a number on a CPU where threefry takes 13. Statistical, not cryptographic.
    """
    x = x ^ (x >> 16)
    x = x * jnp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def counted(seed: jax.Array, index: jax.Array) -> jax.Array:
    """uint32: numbers `index`, uint32[...], of the sequence of a seed, uint32[2].

    `mix` of an index that begins somewhere, between whose two products the other word comes in, so
    that sequences are not one at an offset; each number is uniform over seeds. A stride instead
    would cost a third product.
    """
    x = index + seed[0]
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D) ^ seed[1]
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def below(bits: jax.Array, n: jax.Array) -> jax.Array:
    """int32 in [0, n) from uint32 bits, as floor(bits * n / 2^32); bias at most n / 2^32."""
    return upper_half(bits, jnp.asarray(n).astype(jnp.uint32)).astype(jnp.int32)


def upper_half(a: jax.Array, b: jax.Array) -> jax.Array:
    """uint32: floor(a * b / 2^32) of uint32 numbers, from products of their halves of 16 bits.

    `jax.lax.mulhi` gives the same bits, and no program over more than one device (Shardy).
    """
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    middle = a_high * b_low + (a_low * b_low >> 16)
    other = a_low * b_high + (middle & 0xFFFF)
    return a_high * b_high + (middle >> 16) + (other >> 16)


def permute(index: jax.Array, n: jax.Array, seed: jax.Array) -> jax.Array:
    """Where a pseudo-random permutation of 0..n-1 sends `index`: O(1) each, without a sort.

    Six rounds of three bijections: mix the numbers below the largest power of two p <= n (odd
    multiplication, xor-shift); deal even numbers to the front and odd ones to the back, so that
    neighbours part; rotate by a random offset, so that every place is equally likely and what the
    mixing left out falls below p. Batches of it are spread like those of a uniform permutation
    (fewer rounds are not: after three, the share of positives varies up to 30% more).
    index: uint32[...] < n; n: uint32[], 1 <= n < 2^31; seed: uint32[2].
    """
    log2 = 31 - jax.lax.clz(n)
    p = jnp.uint32(1) << log2
    mask = p - 1
    shift = (log2 + 1) // 2
    a, b = seed[0], seed[1]
    for _ in range(6):
        y = (index * (a | 1) + b) & mask
        y = y ^ (y >> shift)
        y = (y * (b | 1)) & mask
        x = jnp.where(index < p, y ^ (y >> shift), index)
        x = (x >> 1) + jnp.where((x & 1) == 1, (n + 1) >> 1, 0)
        a, b = mix(a + jnp.uint32(0x9E3779B9)), mix(b ^ a)
        x = x + upper_half(a ^ b, n)
        index = jnp.where(x >= n, x - n, x)
    return index
