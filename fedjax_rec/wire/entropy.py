"""Symbols at their entropy: a quantised histogram, then range coded words.

For counts n_s of n symbols the length is sum_s n_s log2(1 / p_s), with p_s proportional to
2^(a_s / 4), a_s = 1 + round(4 log2 n_s), or 0 where s does not occur: rounding to a quarter of an
octave costs about .1% of the entropy (.6% at worst), and the coder at most 34 bits. The differences
a_s - a_(s-1), from the lowest symbol that occurs to the highest, travel in Elias gamma code, 1 to
6 bits each for a smooth histogram. A message is 0 and the symbols at fixed width, or 1, the lowest
symbol and the number of differences less one (2 bytes each), the bytes of the differences (4), the
differences, and the words.

G. N. N. Martin, "Range encoding", Video & Data Recording Conference, 1979; the coder is that of
R. Bamler, "Understanding entropy coding with asymmetric numeral systems", 2022 (`constriction`).
Fixed width (`bits`) serves where it is shorter, as it is where few symbols of many levels are not
worth their histogram, and above 2^16 levels.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from . import bits, elias

FIXED, RANGE = 0, 1
HEAD = struct.Struct("<BHHI")  # RANGE, lowest symbol, number of differences less one, their bytes
LEVELS = 1 << 16
STEPS = 128  # more than 1 + 4 log2(2^31)
# 2^10 2^((a - 1) / 4) in integers, so that both ends compute the same model.
WEIGHTS = np.array([0] + [(1024, 1218, 1448, 1722)[a % 4] << a // 4 for a in range(STEPS - 1)])


def pack(symbols: np.ndarray, levels: int) -> bytes:
    """The shorter of `bits.pack` and range coding, after a byte that says which.

    symbols: integers [...] in [0, levels), fewer than 2^31. Raises ValueError where one is out of
    range, and where `constriction` is not installed.
    """
    coder = _coder()
    symbols = np.asarray(symbols).reshape(-1)
    fixed = bytes([FIXED]) + bits.pack(symbols, levels)
    if not 2 <= levels <= LEVELS or not symbols.size:
        return fixed
    counts = np.bincount(symbols, minlength=levels)
    heights = np.where(counts, 1 + np.rint(4 * np.log2(np.maximum(counts, 1))), 0).astype(np.int64)
    first, last = np.flatnonzero(counts)[[0, -1]]
    steps = elias.pack(np.diff(heights[first : last + 1], prepend=0))
    words = _encode(coder, symbols.astype(np.int32, copy=False), _probabilities(heights))
    ranged = HEAD.pack(RANGE, first, last - first, len(steps)) + steps + words
    return ranged if len(ranged) < len(fixed) else fixed


def unpack(data: bytes, count: int, levels: int) -> np.ndarray:
    """The `count` symbols in `data`, of the smallest unsigned dtype that holds `levels - 1`.

    Raises ValueError where `pack` has not written `data` for `count` symbols: what was decoded is
    encoded again. Symbols that are nearly certain take nearly no bits, so a short `data` may hold
    a long `count`; it is refused, before memory is taken, where the words are too few for it.
    """
    if data[:1] == bytes([FIXED]):
        return bits.unpack(data[1:], count, levels)
    known = data[:1] == bytes([RANGE]) and 2 <= levels <= LEVELS and len(data) >= HEAD.size
    _, first, number, length = HEAD.unpack_from(data) if known else (RANGE, levels, 0, 0)
    begin = HEAD.size + length
    words = data[begin:]
    if first + number >= levels or begin > len(data) or len(words) % 4:
        raise ValueError(f"from_bytes(data) has {len(data)} bytes that are no range code.")
    heights = np.zeros(levels, np.int64)
    steps = elias.unpack(data[HEAD.size : begin], number + 1)
    heights[first : first + number + 1] = np.cumsum(steps, dtype=np.int64)
    if heights.min() < 0 or not 0 < heights.max() < STEPS:
        raise ValueError("from_bytes(data) has a histogram that no symbols have.")
    probabilities = _probabilities(heights)
    least = -np.log2(probabilities.max())  # bits of a symbol; half of it allows for rounding
    if count * least / 2 > 8 * len(words) + 64:
        raise ValueError(
            f"from_bytes(data) has {len(words)} bytes of range code, not {count} symbols."
        )
    coder = _coder()
    try:
        decoder = coder.stream.queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        symbols = decoder.decode(_model(coder, probabilities), count)
    except Exception:  # an AssertionError, in constriction 0.5
        symbols = None
    if symbols is None or _encode(coder, symbols, probabilities) != words:
        raise ValueError(f"from_bytes(data) has a range code that {count} symbols do not have.")
    return symbols.astype(np.min_scalar_type(levels - 1))


def _probabilities(heights: np.ndarray) -> np.ndarray:
    weights = WEIGHTS[heights]
    return weights / weights.sum()


def _model(coder, probabilities: np.ndarray):
    """The coder gives every symbol at least 2^-24, also where its probability is zero."""
    return coder.stream.model.Categorical(probabilities, perfect=False)


def _encode(coder, symbols: np.ndarray, probabilities: np.ndarray) -> bytes:
    encoder = coder.stream.queue.RangeEncoder()
    encoder.encode(symbols, _model(coder, probabilities))
    return encoder.get_compressed().astype("<u4").tobytes()


def _coder() -> Any:
    try:
        import constriction
    except ImportError:
        raise ValueError(
            "Range coding (entropy=True) needs the package constriction; "
            "use pip install constriction, or entropy=False."
        ) from None
    return constriction
