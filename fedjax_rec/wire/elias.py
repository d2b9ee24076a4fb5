"""Signed integers in Elias gamma code: gamma(|v| + 1), and a sign bit where v != 0.

With g = |v| + 1 and n = floor(log2 g), gamma(g) is n zeros, a one, and the n bits of g below its
leading one: 2 n + 1 bits. 0 takes 1 bit, +-1 and +-2 take 4, +-3 to +-6 take 6.
P. Elias, "Universal codeword sets and representations of the integers", IEEE Trans. Information
Theory, 1975; for the levels of QSGD, Alistarh et al., NeurIPS 2017.

The bits are those of the code but not in its order: first the zeros and ones of all values, then
all the lower bits, then all the signs, so that both directions are passes over whole arrays.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Integer, UInt32

from ..types import Array

SLICE = 2**25


def nbytes(values: Integer[Array, ...], live: Bool[Array, " L"] | None = None) -> UInt32[Array, ""]:
    """uint32[]: the bytes of `pack(values[live])`. values: int32[L, ...]; live: bool[L]."""
    values = jnp.asarray(values).astype(jnp.int32)
    # |-2^31| is -2^31 as an int32 and 2^31 as a uint32.
    magnitude = jnp.abs(values).astype(jnp.uint32)
    length = 31 - jax.lax.clz(magnitude + 1)
    bits = 2 * length + 1 + (magnitude != 0)
    if live is not None:
        bits = jnp.where(live.reshape(-1, *[1] * (values.ndim - 1)), bits, 0)
    # A value takes at most 64 bits, so the sum over all may pass 2^32, but that over a slice not.
    flat = bits.reshape(-1)
    sums = [flat[i : i + SLICE].sum(dtype=jnp.uint32) for i in range(0, flat.size, SLICE)]
    rest = sum((s % 8 for s in sums), jnp.uint32(7))
    return sum((s // 8 for s in sums), rest // 8)


def pack(values: np.ndarray) -> bytes:
    """`nbytes(values)` bytes. values: integers [...] in the range of int32, else ValueError."""
    values = np.asarray(values).reshape(-1).astype(np.int64, copy=False)
    if not values.size:
        return b""
    if not -(2**31) <= values.min() <= values.max() < 2**31:
        raise ValueError(
            f"pack(values) got values from {values.min()} to {values.max()}; use int32 values."
        )
    gamma = np.abs(values) + 1
    lengths = np.frexp(gamma)[1].astype(np.int64) - 1  # exact: gamma < 2^53
    ends = np.cumsum(lengths + 1)
    begin = int(ends[-1])
    lower = begin + np.cumsum(lengths) - lengths
    signs = begin + int(lengths.sum())
    stream = np.zeros(signs + np.count_nonzero(values), np.uint8)
    stream[ends - 1] = 1
    for place, some in _places(lengths):
        stream[lower[some] + place] = gamma[some] >> place & 1
    stream[signs:] = values[values != 0] < 0
    return np.packbits(stream, bitorder="little").tobytes()


def unpack(data: bytes, count: int) -> np.ndarray:
    """int32[count]: the values in `data`.

    Raises ValueError where `data` is not the code of `count` values of the range of int32. A value
    takes at least a bit, so a count beyond the bits of `data` is refused before memory is taken.
    """
    if not 0 <= count <= 8 * len(data) or (not count and data):
        raise ValueError(
            f"from_bytes(data) has {len(data)} bytes of Elias code, not {count} values."
        )
    stream = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    ends = np.flatnonzero(stream)[:count]
    if len(ends) < count:
        raise ValueError(f"from_bytes(data) ends after {len(ends)} of {count} Elias codes.")
    if not count:
        return np.zeros(0, np.int32)
    lengths = np.diff(ends, prepend=-1) - 1
    begin = int(ends[-1]) + 1
    signs = begin + int(lengths.sum())
    total = signs + np.count_nonzero(lengths)
    if lengths.max() > 31 or (total + 7) // 8 != len(data):
        raise ValueError(
            f"from_bytes(data) has {len(data)} bytes of Elias code where its lengths, up to "
            f"{lengths.max()}, ask for {(total + 7) // 8}."
        )
    lower = begin + np.cumsum(lengths) - lengths
    gamma = np.int64(1) << lengths
    for place, some in _places(lengths):
        gamma[some] |= stream[lower[some] + place].astype(np.int64) << place
    values = gamma - 1
    nonzero = lengths > 0
    values[nonzero] *= 1 - 2 * stream[signs:total].astype(np.int64)
    if values.min() < -(2**31) or values.max() >= 2**31:
        raise ValueError("from_bytes(data) has an Elias code beyond the range of int32.")
    return values.astype(np.int32)


def _places(lengths: np.ndarray):
    """(place, which values have a lower bit there), for every place that some value has."""
    some = np.flatnonzero(lengths)
    place = 0
    while some.size:
        yield place, some
        place += 1
        some = some[lengths[some] > place]
