"""Packets to bytes and back: `nbytes(packet) == len(to_bytes(packet))`, always.

A message is a msgpack array `[version, coder, part, part, ...]`. A dense leaf is one raw binary
part; `Codes` are packed bits; a `RowsUpdate` is two parts, its sorted row ids (`indices`) and its
rows; a `Live` is the number of its entries and the entries. The receiver knows structure, shapes
and dtypes (`like`) and what is in `Packet.known`, so they are not sent.

`nbytes` is exact integer arithmetic on shapes, counts and ids, so it also runs inside jit, where
it is the ledger of a round. Range coding (`entropy=True`) depends on the symbols: its size is that
of the bytes themselves, see `simulate.audit`.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import msgpack
import numpy as np
from jaxtyping import UInt32

from ..rows import RowsUpdate
from ..types import Array, Packet, PyTree
from . import bits, elias, entropy, indices
from .nodes import Codes, Elias, Live, Raw, flatten, nodes

VERSION = 2
FIXED, RANGE = 0, 1


def _leaves(packet: PyTree) -> list:
    sent = (packet.body, packet.side) if isinstance(packet, Packet) else packet
    return list(map(_bare, nodes(sent)))


def _bare(leaf):
    return leaf.values if isinstance(leaf, Raw) else leaf


def _parts(leaf) -> int:
    return 2 if isinstance(leaf, (RowsUpdate, Live)) else 1


def _binary(length):
    """Bytes of one msgpack binary part with `length` bytes of content."""
    return length + 2 + (length >= 2**8) + 2 * (length >= 2**16)


def _integer(value):
    """Bytes of one msgpack unsigned integer."""
    return 1 + (value >= 2**7) + (value >= 2**8) + 2 * (value >= 2**16)


def _header(parts: int) -> int:
    """Bytes of the array header, the version and the coder before `parts` parts."""
    return (1 if parts + 2 < 16 else 3 if parts + 2 < 2**16 else 5) + 2


def _content(values, live=None, count=None):
    """Bytes of the entries of an array, `Codes` or `Elias`; all of them where `live` is None."""
    if isinstance(values, Elias):
        return elias.nbytes(values.values, live)
    if isinstance(values, Codes):
        numbers, levels, itemsize = values.symbols, values.levels, 0
    else:
        numbers, levels, itemsize = values, 2 if values.dtype == bool else 0, values.dtype.itemsize
    total = numbers.size
    if count is not None:
        total = count * (numbers.size // max(1, numbers.shape[0]))
    return bits.nbytes(total, levels) if levels else total * itemsize


def _most(leaf) -> int:
    """No fewer bytes than a leaf can take. An Elias code has up to 64 bits a number."""
    values, ids = leaf, 0
    if isinstance(leaf, (RowsUpdate, Live)):
        values, ids = leaf.values, 16 + (leaf.size // 8 if isinstance(leaf, RowsUpdate) else 0)
    if isinstance(values, Codes):
        return ids + 8 + bits.nbytes(values.symbols.size, values.levels)
    if isinstance(values, Elias):
        return ids + 8 + 8 * values.values.size
    return ids + 8 + values.size * values.dtype.itemsize


def nbytes_by_shape(packet: PyTree, whole: int) -> int:
    """The bytes of the parts of a packet, given by its outline; `Raw` not counted.

    As many as there can be, of what is chosen to be so many, as by `top_k` and `random_k`. Where it
    takes the numbers, or a draw, to know how many there are, as few as there can be: of `Elias`, of
    `RowsUpdate` without ids, and of `Live` vectors with room for all.

    Args:
        packet: or its outline.
        whole: numbers of the array that it came of.

    Example:
        >>> from fedjax_rec.types import Packet
        >>> wire.nbytes_by_shape(Packet(jnp.zeros(9), ()), whole=9)
        38
    """
    total = 0
    for leaf in nodes((packet.body, packet.side)):
        values, count = leaf, None
        if isinstance(leaf, RowsUpdate):
            values, count = leaf.values, 0 if leaf.ids is None else leaf.live.shape[0]
            total += _binary(indices.most(count, leaf.size))
        elif isinstance(leaf, Live):
            values, count = leaf.values, leaf.live.shape[0]
            count = 0 if len(values.shape) == 1 and count >= whole else count
            total += _integer(count)
        if isinstance(values, Elias):
            values = Codes(values.values, 2)
        if not isinstance(leaf, Raw):
            total += _binary(_content(values, None, count))
    return total


def nbytes(packet: PyTree) -> UInt32[Array, ""]:
    """uint32[]: the bytes of `packet` on the wire, without range coding.

    Args:
        packet: of one client; it may be traced.

    Raises:
        ValueError: where they may be 4 GiB or more, which a uint32 does not count.

    Example:
        >>> int(wire.nbytes(jnp.zeros(9))) == len(wire.to_bytes(jnp.zeros(9)))
        True
    """
    total = jnp.uint32(0)
    leaves = _leaves(packet)
    most = sum(map(_most, leaves))
    if most >= 2**32:
        raise ValueError(
            f"nbytes(packet): a client may send {most / 2**30:.1f} GiB, and the ledger counts to "
            "4 GiB; train fewer parameters (adapters, a smaller width) or send fewer."
        )
    for leaf in leaves:
        if isinstance(leaf, RowsUpdate):
            count = jnp.asarray(leaf.live).sum(dtype=jnp.uint32)
            if leaf.ids is None:
                ids = indices.nbytes_of_mask(count, leaf.size)
            else:
                ids = indices.nbytes_of_list(leaf.ids, leaf.live, leaf.size)
            size = _binary(ids) + _binary(_content(leaf.values, leaf.live, count))
        elif isinstance(leaf, Live):
            count = jnp.asarray(leaf.live).sum(dtype=jnp.uint32)
            size = _integer(count) + _binary(_content(leaf.values, leaf.live, count))
        else:
            size = _binary(_content(leaf))
        total += jnp.asarray(size, jnp.uint32)
    return total + jnp.uint32(_header(sum(map(_parts, leaves))))


def to_bytes(packet: PyTree, entropy: bool = False) -> bytes:
    """The message of a packet.

    Args:
        packet: a `Packet`, or a pytree of arrays and nodes, of one client.
        entropy: range coding of `Codes`, which needs `pip install constriction`.

    Example:
        >>> sent = wire.to_bytes(wire.Codes(jnp.uint8([0, 1, 2, 1]), levels=3))
    """
    leaves = _leaves(packet)
    layouts = (leaf.ids is not None for leaf in leaves if isinstance(leaf, RowsUpdate))
    return _written(leaves, entropy, layouts)


def _written(leaves: list, entropy: bool, layouts: Iterator[bool]) -> bytes:
    """The message of nodes and arrays; layouts: of each table whether its rows came with ids."""
    # Where there is nothing to code, both coders would write the same.
    inner = (x.values if isinstance(x, (RowsUpdate, Live)) else x for x in leaves)
    coder = RANGE if entropy and any(isinstance(x, Codes) for x in inner) else FIXED
    message: list = [VERSION, coder]
    for leaf in leaves:
        if isinstance(leaf, RowsUpdate):
            leaf = leaf if isinstance(leaf.values, (Codes, Elias)) else leaf.delta()
            live = np.asarray(leaf.live)
            ids = np.arange(leaf.size) if leaf.ids is None else np.asarray(leaf.ids)
            message.append(indices.pack(ids[live], leaf.size, gaps=next(layouts)))
            message.append(_packed(leaf.values, entropy, live))
        elif isinstance(leaf, Live):
            live = np.asarray(leaf.live)
            message += [int(live.sum()), _packed(leaf.values, entropy, live)]
        else:
            message.append(_packed(leaf, entropy))
    return bytes(msgpack.packb(message, use_bin_type=True) or b"")


def from_bytes(data: bytes, like: PyTree, finite: bool = False) -> PyTree:
    """The packet in `data`, structured as `like`; rows come back as `RowsUpdate` with ids.

    There is one message of a packet: what `to_bytes` would not have written is refused, so that
    equal packets have equal bytes. Takes memory in proportion to `data` and `like`.

    Args:
        data: a message, of whoever.
        like: the structure, shapes and dtypes that were sent, with room for what may come.
        finite: refuse NaN and infinities.

    Raises:
        ValueError: where the bytes are not the message of this version of a packet like `like`.

    Example:
        >>> packet = {"bias": np.float32([1, 2]), "codes": wire.Codes(np.uint8([0, 1, 2]), 3)}
        >>> wire.from_bytes(wire.to_bytes(packet), packet)["codes"].symbols.tolist()
        [0, 1, 2]
    """
    limits = dict(max_map_len=0, max_str_len=0, max_ext_len=0)
    try:
        message = msgpack.unpackb(data, max_bin_len=len(data), max_array_len=len(data), **limits)
    except Exception as error:
        raise ValueError(f"from_bytes(data={len(data)} bytes) is no message: {error}.") from None
    known = isinstance(message, list) and len(message) > 1 and message[0] == VERSION
    if not known or isinstance(message[1], bool) or message[1] not in (FIXED, RANGE):
        raise ValueError(
            f"from_bytes(data={len(data)} bytes) is no message of version {VERSION}; "
            "send and receive with the same fedjax_rec."
        )
    wanted = (like.body, like.side) if isinstance(like, Packet) else like
    found, structure = flatten(wanted)
    leaves = [_bare(leaf) for _, leaf in found]
    if len(message) - 2 != sum(map(_parts, leaves)):
        raise ValueError(
            f"from_bytes(data) holds {len(message) - 2} parts, which is not what `like` has; "
            "give the structure that was sent."
        )
    parts, ranged = iter(message[2:]), message[1] == RANGE
    read = []
    for leaf in leaves:
        if isinstance(leaf, RowsUpdate):
            ids, most = indices.unpack(_bytes(next(parts)), leaf.size), leaf.live.shape[0]
            if len(ids) > most:
                raise ValueError(f"from_bytes(data) counts {len(ids)} rows of {most}.")
            values = _unpacked(_bytes(next(parts)), leaf.values, ranged, len(ids))
            read.append(RowsUpdate(values, ids, np.ones(len(ids), bool), None, leaf.size))
        elif isinstance(leaf, Live):
            count, most = next(parts), leaf.live.shape[0]
            if type(count) is not int or not 0 <= count <= most:
                raise ValueError(f"from_bytes(data) counts {count} entries of {most}.")
            values = _unpacked(_bytes(next(parts)), leaf.values, ranged, count)
            read.append(Live(values, np.ones(count, bool)))
        else:
            read.append(_unpacked(_bytes(next(parts)), leaf, ranged))
    tree = structure.unflatten(
        Raw(x) if isinstance(leaf, Raw) else x for x, (_, leaf) in zip(read, found, strict=True)
    )
    layouts = (leaf.ids is not None for leaf in leaves if isinstance(leaf, RowsUpdate))
    if _written(read, ranged, layouts) != data:
        raise ValueError(
            f"from_bytes(data={len(data)} bytes) is not how these numbers are written; "
            "send what to_bytes returns."
        )
    if finite and not all(map(_is_finite, jax.tree.leaves(tree))):
        raise ValueError(
            f"from_bytes(data={len(data)} bytes) holds numbers that are not finite; reject what "
            "its client sent."
        )
    if not isinstance(like, Packet):
        return tree
    body, side = tree
    return Packet(body, side, like.known)


def _is_finite(x) -> bool:
    return not jnp.issubdtype(x.dtype, jnp.inexact) or bool(
        np.isfinite(np.asarray(x, np.float32)).all()
    )


def _bytes(part) -> bytes:
    if not isinstance(part, bytes):
        raise ValueError(f"from_bytes(data) has a {type(part).__name__} where bytes belong.")
    return part


def _packed(values, ranged: bool, live=None) -> bytes:
    chosen = lambda x: np.asarray(x) if live is None else np.asarray(x)[live]
    if isinstance(values, Elias):
        return elias.pack(chosen(values.values))
    if isinstance(values, Codes):
        coder = entropy.pack if ranged else bits.pack
        return coder(chosen(values.symbols).reshape(-1), values.levels)
    array = chosen(values)
    if array.dtype == bool:
        return bits.pack(array.reshape(-1).astype(np.uint8), 2)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).tobytes()


def _unpacked(part: bytes, like, ranged: bool, count: int | None = None):
    """An array, `Codes` or `Elias` as `like`, with `count` entries or those of `like`."""
    shape = tuple(like.shape) if count is None else (count, *like.shape[1:])
    size = int(np.prod(shape, dtype=np.int64))
    if isinstance(like, Elias):
        return Elias(elias.unpack(part, size).reshape(shape))
    if isinstance(like, Codes):
        decoder = entropy.unpack if ranged else bits.unpack
        symbols = decoder(part, size, like.levels).astype(like.symbols.dtype)
        return Codes(symbols.reshape(shape), like.levels)
    if like.dtype == bool:
        return bits.unpack(part, size, 2).astype(bool).reshape(shape)
    if len(part) != size * like.dtype.itemsize:
        raise ValueError(
            f"from_bytes(data) has a part of {len(part)} bytes where "
            f"{size * like.dtype.itemsize} are expected."
        )
    return np.frombuffer(part, like.dtype).reshape(shape)
