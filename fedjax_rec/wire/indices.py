"""Sets of row ids: `count` distinct ids below `size`, sorted, in the shortest of four codings.

A set begins with a tag, of which the lowest two bits name the coding and the next two how many
bytes of `count` follow, less one. Then, with c = floor(log2 m):

- bitmap: one bit an id, and no count.
- Golomb: the gaps g = id_i - id_(i-1) - 1 (id_-1 = -1) by a modulus m, g = q m + r. q takes q
  zeros and a one; r takes c bits, or c + 1 where r >= 2^(c+1) - m. With m = 2^c it is a Rice code.
  Golomb, "Run-length encodings", IEEE Trans. Information Theory, 1966. Both ends compute
  m = round(ln 2 (size / count - 1/2)), the best for a random set (Gallager, van Voorhis, 1975).
- Elias-Fano: the c lower bits of each id, c = floor(log2(size / count)), and the upper ones as a
  bitmap with a one at (id_i >> c) + i. Its length depends on `count` and `size` alone. Elias,
  "Efficient storage and retrieval by content and address of static files", J. ACM, 1974.
- complement: the ids that are absent, in Elias-Fano; `count` is how many they are. Of sizes up to
  2^24, since few bytes say many ids.

Fields of one kind lie together, so that both directions are passes over whole arrays.

Measured on random sets of a share p < .25 of 2^17 ids, over the entropy log2 C(size, count):
Golomb .4 to 1.3% (the best Rice code up to 2.9%, near p = .11 and .21), Elias-Fano 6% for small p
to 24% at .25, above which bitmaps are shorter than either, and complements above .75.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt32

from .. import keys
from ..types import Array
from . import bits

BITMAP, GOLOMB, ELIAS_FANO, COMPLEMENT = 0, 1, 2, 3
LN2 = 2977044472  # of 2^32
WHOLE = 2**24


def nbytes_of_list(
    ids: Int32[Array, " L"], live: Bool[Array, " L"], size: int
) -> UInt32[Array, ""]:
    """uint32[]: the bytes of `pack(ids[live], size, gaps=True)`, in one pass.

    ids: int32[L], sorted; live: bool[L]. An entry that is not live repeats the id before it or is
    `>= size`, as `rows.localize` has it, so the entry before a live one is the live id before it.
    """
    count = live.sum(dtype=jnp.uint32)
    modulus, lower, short = _golomb(count, jnp.uint32(max(1, size)))
    before = jnp.concatenate([jnp.full(1, -1, ids.dtype), ids])[:-1]
    gaps = (ids - before - 1).astype(jnp.uint32)
    quotient = gaps // modulus
    longer = gaps - quotient * modulus >= short
    stream = count + jnp.where(live, quotient + longer, 0).sum(dtype=jnp.uint32)
    return _shorter(count, lower, stream, size)


def nbytes_of_mask(count: Integer[Array, ""] | int, size: int) -> UInt32[Array, ""]:
    """uint32[]: the bytes of `pack(ids, size, gaps=False)` of any `count` ids below `size`."""
    count = jnp.asarray(count).astype(jnp.uint32)
    lower, stream = _elias_fano(count, jnp.uint32(max(1, size)))
    return _shorter(count, lower, stream, size)


def most(count: int, size: int) -> int:
    """Bytes that no set of `count` ids below `size` takes more than, in the layout of gaps."""
    modulus, lower, _ = _golomb(count, max(1, size))
    # All quotients together, and each remainder of the longer kind.
    stream = count + (size - count) // modulus + count
    return min(_length(count, lower, stream), 1 + bits.nbytes(size, 2))


def _shorter(count, lower, stream, size: int) -> UInt32[Array, ""]:
    """Bytes of `count` fields of `lower` bits and a stream of bits, or of a bitmap or of the
    complement if less."""
    length = jnp.minimum(_length(count, lower, stream), jnp.uint32(1 + bits.nbytes(size, 2)))
    if size <= WHOLE:
        absent = jnp.uint32(size) - count
        others = _length(absent, *_elias_fano(absent, jnp.uint32(max(1, size))))
        length = jnp.minimum(length, others)
    return length.astype(jnp.uint32)


def _length(count, lower, stream):
    """Bytes of a set: the tag, `count`, so many fields of `lower` bits, and a stream of bits."""
    return 1 + _width(count) + bits.nbytes_at(count, lower) + bits.nbytes(stream, 2)


def pack(ids: np.ndarray, size: int, gaps: bool) -> bytes:
    """The set `ids`, sorted and distinct integers in [0, size), size < 2^31.

    gaps: the shortest of Golomb, bitmap and complement, else Elias-Fano in place of Golomb; of two
    of one length the one named first.
    Raises ValueError where the ids are not such a set.
    """
    ids = np.asarray(ids).astype(np.int64)
    spaces = np.diff(ids, prepend=-1) - 1
    if ids.size and (spaces.min() < 0 or ids[-1] >= size):
        raise ValueError(
            f"pack(ids, size={size}) got ids from {ids.min()} to {ids.max()}, which are not "
            f"sorted, distinct and in [0, {size}); sort them and give each of them once."
        )
    coding = GOLOMB if gaps else ELIAS_FANO
    body = _pack_gaps(spaces, max(1, size)) if gaps else _pack_places(ids, max(1, size))
    shortest = _tagged(coding, ids.size, body)
    absent = size - ids.size
    others = int(_length(absent, *_elias_fano(absent, max(1, size)))) if size <= WHOLE else size
    if len(shortest) <= min(bits.nbytes(size, 2) + 1, others):
        return shortest
    there = np.zeros(size, np.uint8)
    there[ids] = 1
    if bits.nbytes(size, 2) + 1 <= others:
        return bytes([BITMAP]) + bits.pack(there, 2)
    return _tagged(COMPLEMENT, absent, _pack_places(np.flatnonzero(there == 0), max(1, size)))


def _tagged(coding: int, count: int, body: bytes) -> bytes:
    tag = coding | _width(count) - 1 << 2
    return bytes([tag]) + count.to_bytes(_width(count), "little") + body


def unpack(data: bytes, size: int) -> np.ndarray:
    """int32[count]: the ids that `pack` has written, sorted and distinct.

    Raises ValueError where `data` is no such set. Takes memory in proportion to `data`.
    """
    coding, begin = (data[0] & 3, 2 + (data[0] >> 2)) if data else (BITMAP, 2)
    if coding == BITMAP and begin == 2 and len(data) == 1 + bits.nbytes(size, 2):
        return np.flatnonzero(bits.unpack(data[1:], size, 2)).astype(np.int32)
    count, body = int.from_bytes(data[1:begin], "little"), data[begin:]
    whole = begin <= min(5, len(data)) and count <= min(size, 8 * len(body))
    if coding == BITMAP or not whole or (coding == COMPLEMENT and size > WHOLE):
        raise ValueError(f"from_bytes(data) has {len(data)} bytes that are no set of row ids.")
    read = _unpack_gaps if coding == GOLOMB else _unpack_places
    ids = read(body, count, max(1, size))
    if count and (ids[-1] >= size or (np.diff(ids) <= 0).any()):
        raise ValueError(f"from_bytes(data) has row ids that are not sorted or not below {size}.")
    if coding == COMPLEMENT:
        there = np.ones(size, bool)
        there[ids] = False
        ids = np.flatnonzero(there)
    return ids.astype(np.int32)


def _golomb(count: Any, size: Any) -> tuple[Any, Any, Any]:
    """The modulus m, c = floor(log2 m), and how many remainders take c bits: 2^(c+1) - m."""
    count += count == 0
    scaled = _times_ln2(2 * size - count)
    modulus = scaled // (2 * count) + (scaled % (2 * count) >= count)
    modulus += modulus == 0
    lower = _log2(modulus)
    return modulus, lower, (2 << lower) - modulus


def _elias_fano(count: Any, size: Any) -> tuple[Any, Any]:
    """The number of lower bits of an id, and the bits of the upper stream."""
    lower = _log2(size // (count + (count == 0)))
    return lower, count + (size - 1 >> lower)


def _width(count):
    """Bytes of `count`."""
    return 1 + (count >= 1 << 8) + (count >= 1 << 16) + (count >= 1 << 24)


# These two differ between Python's integers, of any length, and uint32 inside jit.
def _log2(n):
    return 31 - jax.lax.clz(n) if isinstance(n, jax.Array) else int(n).bit_length() - 1


def _times_ln2(n):
    return keys.upper_half(n, jnp.uint32(LN2)) if isinstance(n, jax.Array) else n * LN2 >> 32


def _pack_gaps(gaps: np.ndarray, size: int) -> bytes:
    modulus, lower, short = _golomb(gaps.size, size)
    quotient, rest = np.divmod(gaps, modulus)
    longer = rest >= short
    rest = np.where(longer, rest + short, rest << 1)  # c + 1 bits, of which the last is sent if 1
    unary = np.zeros(gaps.size + int(quotient.sum()), np.uint8)
    unary[np.cumsum(quotient + 1) - 1] = 1
    stream = np.concatenate([(rest[longer] & 1).astype(np.uint8), unary])
    return _pack_lower(rest >> 1, lower) + bits.pack(stream, 2)


def _unpack_gaps(body: bytes, count: int, size: int) -> np.ndarray:
    modulus, lower, short = _golomb(count, size)
    rest, stream = _unpack_lower(body, count, lower)
    longer = rest >= short
    extra = int(longer.sum())
    ends = _ends(stream[extra:], count)
    _check_end(extra + (int(ends[-1]) + 1 if count else 0), stream)
    rest[longer] = 2 * rest[longer] + stream[:extra] - short
    gaps = (np.diff(ends, prepend=-1) - 1) * modulus + rest
    return np.cumsum(gaps + 1) - 1


def _pack_places(ids: np.ndarray, size: int) -> bytes:
    lower, length = _elias_fano(ids.size, size)
    upper = np.zeros(length, np.uint8)
    upper[(ids >> lower) + np.arange(ids.size)] = 1
    return _pack_lower(ids & (1 << lower) - 1, lower) + bits.pack(upper, 2)


def _unpack_places(body: bytes, count: int, size: int) -> np.ndarray:
    lower, length = _elias_fano(count, size)
    rest, upper = _unpack_lower(body, count, lower)
    ends = _ends(upper, count)
    _check_end(length, upper)
    return (ends - np.arange(count) << lower) | rest


def _pack_lower(fields: np.ndarray, width: int) -> bytes:
    return bits.pack(fields, 1 << width) if width else b""


def _unpack_lower(body: bytes, count: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """int64[count] fields of `width` bits, and the bits that follow them."""
    begin = bits.nbytes_at(count, width)
    fields = bits.unpack(body[:begin], count, 1 << width) if width else np.zeros(count)
    stream = np.unpackbits(np.frombuffer(body[begin:], np.uint8), bitorder="little")
    return fields.astype(np.int64), stream


def _ends(stream: np.ndarray, count: int) -> np.ndarray:
    """int64[count]: where the ones of `stream` are."""
    ends = np.flatnonzero(stream)
    if len(ends) != count:
        raise ValueError(f"from_bytes(data) has {len(ends)} ends of {count} row ids.")
    return ends


def _check_end(length: int, stream: np.ndarray) -> None:
    if bits.nbytes(length, 2) != len(stream) // 8:
        raise ValueError(
            f"from_bytes(data) has {len(stream) // 8} bytes of row ids where "
            f"{bits.nbytes(length, 2)} are expected."
        )
