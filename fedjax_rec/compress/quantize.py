"""Quantizers: every coordinate as one of a few values, rounded at random so that the mean is right.

A coordinate between two neighbours l <= x <= u becomes u with probability (x - l) / (u - l), else
l: E C(x) = x, and the variance is exactly (u - x)(x - l). The methods differ in the values:

- `stochastic_uniform`  K values, evenly spread from the least to the greatest coordinate
                        (Suresh et al., ICML 2017)
- `qsgd`, `qsgd_elias`  0, 1/s, 2/s, ... 1 times the norm |x|, and a sign
                        (Alistarh et al., NeurIPS 2017)
- `natural`             powers of two, and a sign (Horvath et al., 2019)

`ternary` has the methods of two and three values. Each works on one node by itself and has a scale
for it; what is not real has no part in the scale and is not sent. A NaN or an infinity is not
hidden: the scale, and with it the whole node, comes back as NaN (`natural`: the coordinate alone,
as an infinity). Unbiased up to the 24 bits of the uniform numbers; of bfloat16 leaves up to the
rounding of what is decoded (.07% was measured). Denormals count as zeros, steps of the
grids included.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..check import at_least
from ..types import Compressor
from ..wire import Codes, Elias
from .contradictions import beyond, no_multiple
from .leafwise import count_real, leafwise

TINY = float(jnp.finfo(jnp.float32).tiny)
SYMBOLS = 2**16  # beyond these the grid is finer than what float32 can tell apart with safety


def stochastic_uniform(levels: int = 16) -> Compressor:
    """Rounds to one of `levels` values, evenly spread between the extremes of the node.

    Unbiased; E |C(x) - x|^2 = sum (u - x)(x - l) exactly, so omega <= d / (2 (levels - 1)^2), and
    every coordinate is off by less than (max - min) / (levels - 1). Both extremes are exact.
    Wire: d ceil(log2 levels) + 64 bits (5 coordinates in a byte for 3 levels).

    Args:
        levels: K.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: unless 2 <= levels <= 65536.

    Example:
        >>> eight_bits = compress.stochastic_uniform(levels=256)
    """
    _grid("stochastic_uniform", levels, 2, SYMBOLS)
    top = levels - 1

    def encode_leaf(key, x, real):
        x = x.astype(jnp.float32)
        some = real.any()
        low = jnp.where(some, jnp.min(x, initial=jnp.inf, where=real), 0.0)
        high = jnp.where(some, jnp.max(x, initial=-jnp.inf, where=real), 0.0)
        # Of halves, since the difference of two large floats of unlike sign is none.
        half = 0.5 * high - 0.5 * low
        place = (0.5 * x - 0.5 * low) / jnp.where(half < TINY, 1.0, half)
        symbols = rounded(place * top, top, uniform(key, x))
        return codes(symbols, levels), jnp.stack([low, high])

    def decode_leaf(body, side, like):
        # XLA may multiply by 1/top instead, and fuse that with the next line: no end is 1 then.
        share = jnp.where(body.symbols == top, 1.0, body.symbols.astype(jnp.float32) / top)
        return (side[0] * (1 - share) + side[1] * share).astype(like.dtype)

    def complaint(body, side, count):
        low, high = np.asarray(side)
        order = None if low <= high else f"a range from {low} to {high} came, which is none"
        return order or beyond("a bound", side, float(np.finfo(np.float32).max))

    return leafwise(encode_leaf, decode_leaf, complaint=complaint)


def qsgd(levels: int) -> Compressor:
    """Rounds |x_i| / |x| to a multiple of 1/s, s = `levels`, at a fixed number of bits.

    Unbiased; omega = min(d / s^2, sqrt(d) / s), so s should be near sqrt(d) or above. With
    s = 2^(b-1) - 1 the 2 s + 1 symbols fit b bits: 7 for four bits, 127 for eight.
    Wire: 32 + d ceil(log2(2 s + 1)) bits.

    Args:
        levels: s.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: unless 1 <= levels <= 32767.

    Example:
        >>> four_bits = compress.qsgd(levels=7)
    """
    _grid("qsgd", levels, 1, (SYMBOLS - 1) // 2)

    def encode_leaf(key, x, real):
        signed, step = _fractions_of_norm(key, x, levels)
        return codes(signed + levels, 2 * levels + 1), step

    def decode_leaf(body, step, like):
        return ((body.symbols.astype(jnp.float32) - levels) * step).astype(like.dtype)

    def complaint(body, step, count):
        return no_multiple(step, np.asarray(body.symbols, np.int64) - levels)

    return leafwise(encode_leaf, decode_leaf, complaint=complaint)


def qsgd_elias(levels: int | None = None) -> Compressor:
    """Rounds as `qsgd`, and sends multiples of 1/s in Elias gamma code: the many zeros are cheap.

    Wire: 32 bits, and a coordinate of k/s costs 2 floor(log2(|k| + 1)) + 1 bits, and one for the
    sign where k != 0.

    Args:
        levels: s, or None for sqrt(d) of each node, rounded up, d counting what is real: then
            omega <= 1, and a coordinate of many normal numbers costs 2.92 bits.

    Returns:
        An unbiased `Compressor` without memory.

    Raises:
        ValueError: unless levels is None or 1 <= levels <= 65536.

    Example:
        >>> uplink = compress.qsgd_elias()
    """
    if levels is not None:
        _grid("qsgd_elias", levels, 1, SYMBOLS)

    def encode_leaf(key, x, real):
        root = jnp.ceil(jnp.sqrt(count_real(x, real)))
        s = jnp.maximum(root, 1.0) if levels is None else levels
        signed, step = _fractions_of_norm(key, x, s)
        return Elias(signed), step

    def decode_leaf(body, step, like):
        return (body.values.astype(jnp.float32) * step).astype(like.dtype)

    def complaint(body, step, count):
        s = max(1, math.ceil(math.sqrt(count))) if levels is None else levels
        return beyond("a multiple", body.values, s) or no_multiple(step, body.values)

    return leafwise(encode_leaf, decode_leaf, complaint=complaint)


def natural() -> Compressor:
    """Rounds to one of the two nearest powers of two, by their distance: sign and exponent stay.

    Unbiased; omega = 1/8 (at 4/3 of a power of two; .0817 for normal numbers). Below 2^-126 the
    neighbours are 0 and 2^-126; from 2^127 on it rounds down, and is biased.
    Wire: 9 d bits. Exponents of one node are alike: the entropy of normal numbers is 3.6 bits.

    Returns:
        A `Compressor` without memory.

    Example:
        >>> nine_bits = compress.natural()
    """

    def encode_leaf(key, x, real):
        return Codes(rounded_bits(x, random_bits(key, x), 9).astype(jnp.uint16), 512), ()

    def decode_leaf(body, side, like):
        bits = body.symbols.astype(jnp.uint32) << 23
        return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(like.dtype)

    def complaint(body, side, count):
        # An exponent of ones is an infinity.
        return beyond("an exponent", np.asarray(body.symbols) & 255, 254)

    return leafwise(encode_leaf, decode_leaf, complaint=complaint)


def random_bits(key: jax.Array, x: jax.Array) -> jax.Array:
    """uint32[x.shape]: a word for every coordinate, each exactly uniform over keys; see `keys.mix`.
    start and stride are the client's own, so that clients do not draw one sequence at an offset."""
    start, stride = keys.words(key, 2)
    place = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    return keys.mix(place * (stride | 1) + start)


def uniform(key: jax.Array, x: jax.Array) -> jax.Array:
    """float32[x.shape] in [0, 1): multiples of 2^-24."""
    return (random_bits(key, x) >> 8).astype(jnp.int32).astype(jnp.float32) * 2.0**-24


def rounded(y: jax.Array, top, u: jax.Array) -> jax.Array:
    """int32: y, at least 0, to a neighbouring integer of at most `top`, up where the uniform u is
    below the fraction. A NaN becomes 0. Not floor(y + u), which rounds to float32 before."""
    y = jnp.where(y > 0, jnp.minimum(y, top), 0.0)
    low = jnp.floor(y)
    return (low + (u < y - low)).astype(jnp.int32)


def rounded_bits(x: jax.Array, bits: jax.Array, keep: int) -> jax.Array:
    """uint32: the first `keep` bits of each float32 of x, stochastically rounded on the others.

    A random number in the place of the bits that go carries into those that stay just as often as
    it should. What would round up to an infinity is rounded down.
    """
    x = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.uint32)
    exponent = jnp.uint32(0x7F800000)
    finite = (x & exponent) < exponent
    up = jnp.where(finite, x + (bits >> keep), x)
    over = finite & ((up & exponent) == exponent)
    return (up >> (32 - keep)) - over.astype(jnp.uint32)


def unit(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(x / m, m), m = max |x|: of that, squares and sums neither overflow nor vanish. Of nothing
    but zeros and denormals, m = 0."""
    x = x.astype(jnp.float32)
    m = jnp.abs(x).max()
    nothing = m < TINY
    # Where m is 2^126 or more, 1 / m is a denormal, by which XLA would make all of x zero.
    m = jnp.where(nothing, 1.0, m)
    power = jnp.where(m >= 2.0**64, 2.0**-64, jnp.where(m < 2.0**-64, 2.0**64, 1.0))
    return (x * power) / (m * power), jnp.where(nothing, 0.0, m)


def codes(symbols: jax.Array, levels: int) -> Codes:
    """`Codes` of int32 symbols, in the smallest type that holds `levels` of them."""
    return Codes(symbols.astype(jnp.uint8 if levels <= 2**8 else jnp.uint16), levels)


def _fractions_of_norm(key, x, s) -> tuple[jax.Array, jax.Array]:
    """(k, |x| / s): int32 multiples of |x| / s that x is rounded to, with their sign."""
    y, m = unit(x)
    norm = jnp.sqrt((y * y).sum())
    level = rounded(jnp.abs(y) * (s / jnp.maximum(norm, 1.0)), s, uniform(key, x))
    return jnp.where(y < 0, -level, level), (m / s) * norm


def _grid(where: str, levels: int, least: int, most: int) -> None:
    at_least(where, "levels", levels, least)
    if levels > most:
        raise ValueError(
            f"{where}(levels={levels}) is finer than the numbers are; use levels <= {most}, "
            "or identity()."
        )
