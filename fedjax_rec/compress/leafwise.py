"""Nodes of an update, and compressors made of functions on one of them.

A *node* of an update is an array, a `RowsUpdate` (touched rows), or `Live` (the entries of an
array that count). `real` marks the coordinates of it that exist: everything of an array, the live
rows of the others. What is not real is zero, is never sent, and must not enter norms or scales.

- `leafwise`   from two functions on an array: casts, quantizers
- `nodewise`   from functions on a node, with memory: top-k, rotations, low rank
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..rows import RowsUpdate
from ..types import Compressor, Packet
from ..wire import Live, is_node


def numbers(node) -> tuple[jax.Array, jax.Array]:
    """(x, real) of a node: its array, and a bool mask that broadcasts against it. x is 0 where it
    is not real."""
    if not is_node(node):
        return node, jnp.ones((1,) * node.ndim, bool)
    real = node.live.reshape(-1, *[1] * (node.values.ndim - 1))
    return jnp.where(real, node.values, 0), real


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


def nodewise(init_node: Callable, encode_node: Callable, decode_node: Callable) -> Compressor:
    """A compressor that treats every node of an update on its own.

    init_node(node) -> memory of that node. encode_node(key, memory, node) -> (memory, body, side).
    decode_node(body, side, node) -> node, in the layout of `node`: rows of the whole table where
        its `ids` are None, else rows with sorted ids, padding last.
    What arrives may hold fewer rows than `node`: exactly those that were sent.
    """

    def split(update):
        leaves, structure = jax.tree.flatten(update, is_leaf=is_node)
        return leaves, structure

    def init(update):
        return [init_node(x) if is_compressible(x) else () for x in split(update)[0]]

    def encode(key, memory, update):
        leaves, structure = split(update)
        memories, bodies, sides = [], [], []
        for i, (kept, node) in enumerate(zip(memory, leaves, strict=True)):
            if is_compressible(node):
                kept, body, side = encode_node(jax.random.fold_in(key, i), kept, node)
            else:
                body, side = node, ()
            memories.append(kept)
            bodies.append(body)
            sides.append(side)
        return memories, Packet(structure.unflatten(bodies), sides)

    def decode(packet, like):
        leaves, structure = split(like)
        bodies = structure.flatten_up_to(packet.body)
        return structure.unflatten(
            decode_node(body, side, node) if is_compressible(node) else body
            for body, side, node in zip(bodies, packet.side, leaves, strict=True)
        )

    return Compressor(init, encode, decode)


def leafwise(encode_leaf: Callable, decode_leaf: Callable) -> Compressor:
    """A memoryless compressor that treats the array of every node on its own.

    encode_leaf(key, x, real) -> (body, side): `real` is a bool mask that broadcasts against x, of
        the coordinates that exist; the others are 0. `body` is an array or `wire.Codes` with the
        leading axis of x; `side` a pytree of arrays, e.g. a scale.
    decode_leaf(body, side, like) -> x: of the body's shape and the dtype of `like`.
    Rows that were not touched are zero before and after, and are never sent.
    """

    def encode_node(key, memory, node):
        body, side = encode_leaf(key, *numbers(node))
        return memory, with_numbers(node, body), side

    def decode_node(body, side, node):
        if not is_node(node):
            return decode_leaf(body, side, node)
        values = decode_leaf(body.values, side, node.values)
        real = jnp.asarray(body.live).reshape(-1, *[1] * (values.ndim - 1))
        return replace(body, values=jnp.where(real, values, 0))

    return nodewise(lambda node: (), encode_node, decode_node)
