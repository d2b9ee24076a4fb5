"""Casts: send floats in fewer bits.

- `cast`             round to nearest: bfloat16, float16, and the two float8 of Micikevicius et al.
                     (2022), e4m3fn with 3 bits after the point and e5m2 with 2
- `scaled_cast`      the same after a scale that takes the largest coordinate to the largest float
- `stochastic_cast`  bfloat16, rounded at random so that the mean is right

What is too large becomes the largest number of the type, neither an infinity nor a NaN.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ..check import one_of
from ..types import Compressor
from .contradictions import beyond, no_scale
from .leafwise import leafwise
from .quantize import random_bits, rounded_bits, unit

DTYPES = ("bfloat16", "float16", "float8_e4m3fn", "float8_e5m2")


def cast(dtype: str = "bfloat16") -> Compressor:
    """Sends every float as `dtype`.

    Biased by rounding: relative errors of at most 2^-8, 2^-11, 2^-4 and 2^-3 for magnitudes within
    1e-38..3e38, 6e-5..65504, 2^-6..448 and 6e-5..57344. Smaller ones are rounded to multiples of
    the least number (2^-9 for e4m3fn), so small updates become 0: use `scaled_cast`.
    Wire: 16 d or 8 d bits.

    Args:
        dtype: bfloat16, float16, float8_e4m3fn or float8_e5m2.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: for other types.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4), uplink=compress.cast("bfloat16"))
    """
    one_of("cast", "dtype", dtype, DTYPES)
    return leafwise(
        lambda key, x, real: (_saturated(x, dtype), ()),
        lambda body, side, like: body.astype(like.dtype),
    )


def scaled_cast(dtype: str = "float8_e4m3fn") -> Compressor:
    """Sends floats as `dtype`, times what takes the largest of the node to the largest of `dtype`.

    Relative errors as in `cast`, and below 4e-5 (e4m3fn) or 2e-9 (float16, e5m2) of the largest an
    absolute error of at most 2.2e-6 or 1e-10 of it. The largest itself is exact. A contraction:
    |C(x) - x|^2 <= e^2 |x|^2 with e the relative error, and d 5e-12 |x|^2 more for e4m3fn.
    Wire: 16 d + 32 or 8 d + 32 bits.

    Args:
        dtype: as in `cast`.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: for other types.

    Example:
        >>> uplink = compress.error_feedback(compress.scaled_cast("float8_e4m3fn"))
    """
    one_of("scaled_cast", "dtype", dtype, DTYPES)
    # Of bfloat16 the range is that of float32: 1, so that its products stay within.
    largest = 1.0 if dtype == "bfloat16" else float(jnp.finfo(dtype).max)

    def encode_leaf(key, x, real):
        y, m = unit(x)
        return _saturated(y * largest, dtype), m

    def decode_leaf(body, m, like):
        # m / largest may be a denormal, which XLA takes for zero.
        power = jnp.where(m < 2.0**-64, 2.0**64, 1.0)
        return (body.astype(jnp.float32) * (m * power / largest) / power).astype(like.dtype)

    def complaint(body, m, count):
        return no_scale(m) or beyond("a number", body, largest)

    return leafwise(encode_leaf, decode_leaf, complaint=complaint)


def stochastic_cast() -> Compressor:
    """Sends every float as bfloat16, stochastically rounded.

    Unbiased, unlike `cast`; omega = 2^-16, relative errors below 2^-7. Wire: 16 d bits.

    Returns:
        A `Compressor` without memory.

    Example:
        >>> uplink = compress.stochastic_cast()
    """

    def encode_leaf(key, x, real):
        bits = rounded_bits(x, random_bits(key, x), 16).astype(jnp.uint16)
        return jax.lax.bitcast_convert_type(bits, jnp.bfloat16), ()

    return leafwise(encode_leaf, lambda body, side, like: body.astype(like.dtype))


def _saturated(x: jax.Array, dtype: str) -> jax.Array:
    most = float(jnp.finfo(dtype).max)
    return jnp.clip(x.astype(jnp.float32), -most, most).astype(dtype)
