"""Symbols at a fixed width: b = ceil(log2 levels) bits each, three levels at five to a byte.

Symbol i takes the bits i b to (i + 1) b - 1 of the stream, the lowest first, and the stream fills
each byte from its lowest bit. Three levels are written in base 3, since 3^5 = 243 <= 256: 1.6 bits
where two would be taken. The last byte is padded with zeros, which the reader ignores.
"""

from __future__ import annotations

import math

import numpy as np

TRITS = np.arange(243, dtype=np.uint8)[:, None] // 3 ** np.arange(5, dtype=np.uint8) % 3


def width(levels: int) -> int:
    """Bits of one symbol below `levels`: ceil(log2 levels), at least 1. Three levels are packed
    closer than their width of 2, see `nbytes`."""
    return max(1, (levels - 1).bit_length())


def nbytes(count, levels: int):
    """Bytes of `count` symbols below `levels`; count: int, or uint32 inside jit. Up to 2^32."""
    if levels == 3:
        return count // 5 + (count % 5 != 0)
    return nbytes_at(count, width(levels))


def nbytes_at(count, width):
    """Bytes of `count` fields of `width` bits, each an int, or uint32 inside jit.

    `count * width` may pass 32 bits where the bytes do not, so it is never formed.
    """
    return count // 8 * width + (count % 8 * width + 7) // 8


def pack(symbols: np.ndarray, levels: int) -> bytes:
    """`nbytes(symbols.size, levels)` bytes. symbols: integers [...] in [0, levels); levels <= 2^32.

    Raises ValueError where a symbol is out of range.
    """
    symbols = np.asarray(symbols).reshape(-1)
    if symbols.size and not 0 <= int(symbols.min()) <= int(symbols.max()) < levels:
        raise ValueError(
            f"pack(levels={levels}) got symbols from {symbols.min()} to {symbols.max()}; "
            f"use 0 <= symbol < {levels}."
        )
    if levels == 3:
        trits = _padded(symbols.astype(np.uint8), 5)
        packed = trits[:, 4]
        for place in (3, 2, 1, 0):
            packed = 3 * packed + trits[:, place]
        return packed.tobytes()
    bits = width(levels)
    if bits == 1:
        return np.packbits(symbols.astype(np.uint8), bitorder="little").tobytes()
    if bits % 8 == 0:
        unsigned = symbols.astype("<u1" if bits == 8 else "<u2" if bits == 16 else "<u4")
        each = unsigned.view(np.uint8).reshape(-1, unsigned.itemsize)
        return each[:, : bits // 8].tobytes()
    group, filled = _group(bits)
    fields = _padded(symbols.astype(np.uint32, copy=False), group)
    packed = np.zeros((len(fields), filled), np.uint8)
    for place, byte, shift in _overlaps(bits):
        field = fields[:, place]
        packed[:, byte] |= (field << -shift if shift < 0 else field >> shift).astype(np.uint8)
    return packed.tobytes()[: nbytes(symbols.size, levels)]


def unpack(data: bytes, count: int, levels: int) -> np.ndarray:
    """The `count` symbols in `data`, of the smallest unsigned dtype that holds `levels - 1`.

    Raises ValueError where `data` is not `nbytes(count, levels)` long, before any memory is taken,
    and where a symbol is not below `levels`.
    """
    if len(data) != nbytes(count, levels):
        raise ValueError(
            f"from_bytes(data) has {len(data)} bytes of symbols where "
            f"{nbytes(count, levels)} are expected."
        )
    dtype = np.min_scalar_type(max(1, levels - 1))
    raw = np.frombuffer(data, np.uint8)
    if levels == 3:
        if count and raw.max() >= len(TRITS):
            raise ValueError(f"from_bytes(data) has the byte {raw.max()} where trits end at 242.")
        return TRITS[raw].reshape(-1)[:count]
    bits = width(levels)
    if bits == 1:
        symbols = np.unpackbits(raw, count=count, bitorder="little")
    elif bits % 8 == 0:
        symbols = np.zeros((count, dtype.itemsize), np.uint8)
        symbols[:, : bits // 8] = raw.reshape(count, bits // 8)
        symbols = symbols.reshape(-1).view(dtype.newbyteorder("<"))
    else:
        group, filled = _group(bits)
        packed = np.zeros(-(-count // group) * filled, np.uint8)
        packed[: len(raw)] = raw
        packed = packed.reshape(-1, filled)
        fields = np.zeros((len(packed), group), dtype)
        for place, byte, shift in _overlaps(bits):
            part = packed[:, byte].astype(dtype)
            fields[:, place] |= part >> -shift if shift < 0 else part << shift
        fields &= (1 << bits) - 1
        symbols = fields.reshape(-1)[:count]
    if count and levels < 1 << bits and symbols.max() >= levels:
        raise ValueError(f"from_bytes(data) has the symbol {symbols.max()} of {levels} levels.")
    return symbols.astype(dtype, copy=False)


def _group(bits: int) -> tuple[int, int]:
    """How many symbols fill how many whole bytes."""
    common = math.gcd(bits, 8)
    return 8 // common, bits // common


def _overlaps(bits: int):
    """(place, byte, shift) where a symbol of a group meets a byte of it: symbol >> shift."""
    for place in range(_group(bits)[0]):
        first, last = place * bits, (place + 1) * bits - 1
        for byte in range(first // 8, last // 8 + 1):
            yield place, byte, 8 * byte - first


def _padded(symbols: np.ndarray, group: int) -> np.ndarray:
    """[groups, group]: `symbols` and as many zeros as fill the last group."""
    padded = np.zeros(-(-symbols.size // group) * group, symbols.dtype)
    padded[: symbols.size] = symbols
    return padded.reshape(-1, group)
