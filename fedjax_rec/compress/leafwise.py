"""Nodes of an update, and compressors made of functions on one of them.

A *node* of an update is an array, a `RowsUpdate` (touched rows), or `Live` (the entries of an
array that count). `real` marks the coordinates of it that exist: everything of an array, the live
rows of the others. What is not real is zero, is never sent, and must not enter norms or scales.

- `leafwise`   from two functions on an array: casts, quantizers
- `nodewise`   from functions on a node, with memory: top-k, rotations, low rank
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..check import is_traced
from ..rows import RowsUpdate
from ..types import Compressor, Packet
from ..wire import Live, flatten, is_node, nodes

# Coordinates; buffers that are larger may be of the clients of a chunk, see `rounds.uplink`.
SMALLEST_ROOM = 2**13


def numbers(node) -> tuple[jax.Array, jax.Array]:
    """(x, real) of a node: its array, and a bool mask that broadcasts against it. x is 0 where it
    is not real."""
    if not is_node(node):
        return jnp.asarray(node), jnp.ones((1,) * node.ndim, bool)
    real = node.live.reshape(-1, *[1] * (node.values.ndim - 1))
    return jnp.where(real, node.values, 0), real


def room(node) -> int:
    """How many coordinates a node has room for, the same for all clients. Of a table in a buffer
    that other clients of a chunk may have made larger or smaller, it is all of its coordinates:
    what a client sends does not depend on its company."""
    x = numbers(node)[0]
    if x.size < SMALLEST_ROOM or not isinstance(node, RowsUpdate):
        return x.size
    return node.size * (x.size // x.shape[0])


def count_real(x: jax.Array, real: jax.Array) -> jax.Array:
    """uint32[]: how many coordinates of x are real."""
    return real.sum(dtype=jnp.uint32) * jnp.uint32(x.size // max(1, real.size))


def with_numbers(node, x):
    """`node` with `x`, an array or `Codes` with its leading axis, in place of its array."""
    return replace(node, values=x) if is_node(node) else x


def touched(node):
    """Which rows or entries of a node there are, without their numbers; of an array nothing."""
    if not isinstance(node, (RowsUpdate, Live)):
        return ()
    return replace(node, values=jnp.zeros((node.live.shape[0], 0)))


def in_place(values: jax.Array, there: jax.Array) -> jax.Array:
    """[L, ...]: entries at the places where `there` bool[L] is True, zero elsewhere. Of `values` of
    that length they stand there already; what arrived holds these alone, one after another."""
    values = jnp.asarray(values)
    real = there.reshape(-1, *[1] * (values.ndim - 1))
    if values.shape[0] != there.shape[0]:
        values = jnp.pad(values, ((0, 1), *[(0, 0)] * (values.ndim - 1)))
        values = values.at[jnp.cumsum(there) - 1].get(mode="clip")
    return jnp.where(real, values, 0)


def is_compressible(node) -> bool:
    """Whether a node holds floats; codes, integers and empty arrays are sent as they are."""
    values = node.values if isinstance(node, (RowsUpdate, Live)) else node
    numeric = not is_node(values) and jnp.issubdtype(values.dtype, jnp.floating)
    return numeric and values.size > 0


def nodewise(
    init_node: Callable,
    encode_node: Callable,
    decode_node: Callable,
    linear: bool = False,
    omega: Callable | None = None,
    complaint: Callable | None = None,
) -> Compressor:
    """Makes a compressor that treats every node of an update on its own.

    What arrives may hold fewer rows than the node that was encoded: exactly those that were sent.

    Args:
        init_node: init_node(node) -> memory of that node.
        encode_node: encode_node(key, memory, node, now) -> (memory, body, side).
        decode_node: decode_node(body, side, node, now) -> node, in the layout of `node`: rows of
            the whole table where its `ids` are None, else rows with sorted ids, padding last.
        linear: whether decode_node is linear in the body, as of `types.Compressor`.
        omega: omega(node) -> float of one node, as of `types.Compressor`.
        complaint: complaint(body, side, node, now) -> str | None of a node that arrived, likewise.

    Returns:
        A `Compressor` with one entry of memory and side a node.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_rec import compress
        >>> from fedjax_rec.types import Now
        >>> halves = compress.nodewise(
        ...     lambda node: (),
        ...     lambda key, memory, node, now: (memory, node / 2, ()),
        ...     lambda body, side, node, now: body * 2,
        ...     linear=True,
        ... )
        >>> now, update = Now(jnp.int32(0), ()), {"bias": jnp.ones(3)}
        >>> _, packet = halves.encode(jax.random.key(0), halves.init(update), update, now)
        >>> halves.decode(packet, update, now)["bias"].tolist()
        [1.0, 1.0, 1.0]
    """

    def init(update):
        return [init_node(x) if is_compressible(x) else () for x in nodes(update)]

    def encode(key, memory, update, now):
        leaves, structure = flatten(update)
        memories, bodies, sides = [], [], []
        for i, (kept, (_, node)) in enumerate(zip(memory, leaves, strict=True)):
            if is_compressible(node):
                kept, body, side = encode_node(jax.random.fold_in(key, i), kept, node, now)
            else:
                body, side = node, ()
            memories.append(kept)
            bodies.append(body)
            sides.append(side)
        return memories, Packet(structure.unflatten(bodies), sides)

    def decode(packet, like, now):
        leaves, structure = flatten(like)
        bodies = structure.flatten_up_to(packet.body)
        return structure.unflatten(
            decode_node(body, side, node, now) if is_compressible(node) else body
            for body, side, (_, node) in zip(bodies, packet.side, leaves, strict=True)
        )

    def most(update):
        assert omega is not None
        return largest(omega(x) for x in nodes(update) if is_compressible(x))

    def told(packet, like, now):
        leaves, structure = flatten(like)
        bodies = structure.flatten_up_to(packet.body)
        for body, side, (path, node) in zip(bodies, packet.side, leaves, strict=True):
            if is_compressible(node) and (said := complaint and complaint(body, side, node, now)):
                return f"{jax.tree_util.keystr(path, simple=True, separator='/')}: {said}"
        return None

    return Compressor(init, encode, decode, linear, omega and most, told, takes_raw=True)


def largest(omegas: Iterable):
    """The largest omega of some parts, of which each may be traced; None where none is claimed."""
    claimed = [omega for omega in omegas if omega is not None]
    if any(map(is_traced, claimed)):
        return jnp.stack([jnp.float32(omega) for omega in claimed]).max()
    return max(claimed, default=None)


def leafwise(
    encode_leaf: Callable,
    decode_leaf: Callable,
    linear: bool = False,
    omega: Callable | None = None,
    complaint: Callable | None = None,
) -> Compressor:
    """Makes a memoryless compressor that treats the array of every node on its own.

    Rows that were not touched are zero before and after, and are never sent. What depends on the
    round is made with `nodewise`, or with `scheduled` around a factory.

    Args:
        encode_leaf: encode_leaf(key, x, real) -> (body, side). `real` is a bool mask that
            broadcasts against x, of the coordinates that exist; the others are 0. `body` is an
            array or `wire.Codes` with the leading axis of x; `side` a pytree of arrays, such as a
            scale.
        decode_leaf: decode_leaf(body, side, like) -> x, of the body's shape and the dtype of
            `like`.
        linear: whether decode_leaf is linear in the body, as of `types.Compressor`.
        omega: as of `nodewise`.
        complaint: complaint(body, side, count) -> str | None, of the entries that arrived, `count`
            coordinates.

    Returns:
        A `Compressor` without memory.

    Example:
        >>> import jax.numpy as jnp
        >>> from fedjax_rec import compress
        >>> short = compress.leafwise(
        ...     lambda key, x, real: (x.astype(jnp.float16), ()),
        ...     lambda body, side, like: body.astype(like.dtype),
        ... )
    """

    def encode_node(key, memory, node, now):
        body, side = encode_leaf(key, *numbers(node))
        return memory, with_numbers(node, body), side

    def decode_node(body, side, node, now):
        if not is_node(node):
            return decode_leaf(body, side, node)
        values = decode_leaf(body.values, side, node.values)
        real = jnp.asarray(body.live).reshape(-1, *[1] * (values.ndim - 1))
        return replace(body, values=jnp.where(real, values, 0))

    def told(body, side, node, now):
        x = body.values if is_node(node) else body
        return complaint and complaint(x, side, math.prod(x.shape))

    return nodewise(lambda node: (), encode_node, decode_node, linear, omega, told)
