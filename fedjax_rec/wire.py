"""Packets to bytes and back: `nbytes(packet) == len(to_bytes(packet))`, always.

A message is a msgpack array `[version, part, part, ...]`, one raw binary part per dense leaf, and
two per `RowsUpdate`: the touched row ids, sorted, packed at ceil(log2 I) bits each, and their rows.
The receiver knows structure, shapes and dtypes (`like`), so they are not sent.

`nbytes` is exact integer arithmetic on shapes and touched-row counts, so it also runs inside jit,
where it is the ledger of a round.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import msgpack
import numpy as np

from .rows import RowsUpdate
from .types import PyTree

VERSION = 1


def _is_rows(node) -> bool:
    return isinstance(node, RowsUpdate)


def id_bits(size: int) -> int:
    """Bits of one row id of a table with `size` rows."""
    return max(1, math.ceil(math.log2(size))) if size > 1 else 1


def _binary(length):
    """Bytes of one msgpack binary part with `length` bytes of content."""
    n = jnp.asarray(length, jnp.uint32)
    return n + jnp.where(n < 2**8, 2, jnp.where(n < 2**16, 3, 5)).astype(jnp.uint32)


def _header(parts: int) -> int:
    """Bytes of the array header and the version before `parts` parts."""
    return (1 if parts + 1 < 16 else 3) + 1


def nbytes(packet: PyTree) -> jax.Array:
    """uint32[]: the bytes of `packet` on the wire."""
    total = jnp.uint32(0)
    parts = 0
    for leaf in jax.tree.leaves(packet, is_leaf=_is_rows):
        if _is_rows(leaf):
            count = leaf.live.sum(dtype=jnp.uint32)
            width = leaf.values.shape[-1] * leaf.values.dtype.itemsize
            total += _binary((count * id_bits(leaf.size) + 7) // 8) + _binary(count * width)
            parts += 2
        else:
            total += _binary(leaf.size * leaf.dtype.itemsize)
            parts += 1
    return total + jnp.uint32(_header(parts))


def to_bytes(packet: PyTree) -> bytes:
    """The bytes of `packet`, a pytree of arrays and `RowsUpdate` nodes of one client."""
    message: list = [VERSION]
    for leaf in jax.tree.leaves(packet, is_leaf=_is_rows):
        if _is_rows(leaf):
            leaf = leaf.delta()
            live = np.asarray(leaf.live)
            ids = np.arange(leaf.size) if leaf.ids is None else np.asarray(leaf.ids)
            message.append(_pack_ids(ids[live], id_bits(leaf.size)))
            message.append(_raw(np.asarray(leaf.values)[live]))
        else:
            message.append(_raw(np.asarray(leaf)))
    return bytes(msgpack.packb(message, use_bin_type=True) or b"")


def from_bytes(data: bytes, like: PyTree) -> PyTree:
    """The packet in `data`, structured as `like`; rows come back as `RowsUpdate` with ids.

    Raises ValueError where the bytes are not a message of this version for `like`.
    """
    try:
        message = msgpack.unpackb(data, max_bin_len=len(data), max_array_len=len(data))
    except Exception as error:
        raise ValueError(f"from_bytes(data={len(data)} bytes) is no message: {error}.") from None
    if not isinstance(message, list) or not message or message[0] != VERSION:
        raise ValueError(
            f"from_bytes(data={len(data)} bytes) is no message of version {VERSION}; "
            "send and receive with the same fedjax_rec."
        )
    leaves, structure = jax.tree.flatten(like, is_leaf=_is_rows)
    parts = iter(message[1:])
    if len(message) - 1 != sum(2 if _is_rows(x) else 1 for x in leaves):
        raise ValueError(
            f"from_bytes(data) holds {len(message) - 1} parts, which is not what `like` has; "
            "give the structure that was sent."
        )
    return structure.unflatten(
        _rows_part(next(parts), next(parts), x) if _is_rows(x) else _dense_part(next(parts), x)
        for x in leaves
    )


def _raw(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _dense_part(part: bytes, like) -> np.ndarray:
    expected = like.size * like.dtype.itemsize
    if not isinstance(part, bytes) or len(part) != expected:
        raise ValueError(f"from_bytes(data) has a part that is not the {expected} bytes expected.")
    return np.frombuffer(part, like.dtype).reshape(like.shape)


def _rows_part(ids: bytes, values: bytes, like: RowsUpdate) -> RowsUpdate:
    width = like.values.shape[-1]
    row = width * like.values.dtype.itemsize
    count, rest = divmod(len(values), row) if isinstance(values, bytes) else (0, 1)
    bits = id_bits(like.size)
    if rest or not isinstance(ids, bytes) or len(ids) != (count * bits + 7) // 8:
        raise ValueError("from_bytes(data) has row ids and rows that do not fit each other.")
    index = _unpack_ids(ids, count, bits)
    if count and index.max() >= like.size:
        raise ValueError(f"from_bytes(data) names row {index.max()} of a table of {like.size}.")
    array = np.frombuffer(values, like.values.dtype).reshape(count, width)
    return RowsUpdate(array, index, np.ones(count, bool), None, like.size)


def _pack_ids(ids: np.ndarray, bits: int) -> bytes:
    planes = (ids[:, None] >> np.arange(bits)) & 1
    return np.packbits(planes.astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def _unpack_ids(data: bytes, count: int, bits: int) -> np.ndarray:
    flat = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little")
    planes = flat.reshape(count, bits).astype(np.int64)
    return (planes << np.arange(bits)).sum(1).astype(np.int32)
