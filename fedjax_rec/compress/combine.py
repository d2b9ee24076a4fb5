"""The identity, and `leafwise`, which makes a compressor of two functions on one array.

A compressor maps an update to a packet and back. What ships is the packet, and its bytes are
counted by `wire.nbytes`, so a compressor never reports a size of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax

from ..rows import RowsUpdate
from ..types import Compressor, Packet


def identity() -> Compressor:
    """Sends the update as it is. Lossless; touched rows and dense leaves at full precision."""

    def encode(key, memory, update):
        return memory, Packet(update)

    return Compressor(lambda update: (), encode, lambda packet, like: packet.body)


def leafwise(encode_leaf: Callable, decode_leaf: Callable) -> Compressor:
    """A memoryless compressor that treats every array of an update on its own.

    encode_leaf(key, x) -> (body, side): `body` an array of any dtype with the leading axis of x
        where x is a table's rows [L, D]; `side` a pytree of arrays, e.g. a scale.
    decode_leaf(body, side, like) -> x: back to the shape and dtype of `like`.
    Rows that were not touched are zero before and after, and are never sent.
    """

    def is_rows(node):
        return isinstance(node, RowsUpdate)

    def encode(key, memory, update):
        leaves, structure = jax.tree.flatten(update, is_leaf=is_rows)
        bodies, sides = [], []
        for i, leaf in enumerate(leaves):
            leaf = leaf.delta() if is_rows(leaf) else leaf
            x = leaf.values if is_rows(leaf) else leaf
            body, side = encode_leaf(jax.random.fold_in(key, i), x)
            bodies.append(replace(leaf, values=body) if is_rows(leaf) else body)
            sides.append(side)
        return memory, Packet(structure.unflatten(bodies), sides)

    def decode(packet, like):
        leaves, structure = jax.tree.flatten(like, is_leaf=is_rows)
        bodies = structure.flatten_up_to(packet.body)
        out = []
        for body, side, leaf in zip(bodies, packet.side, leaves, strict=True):
            if is_rows(leaf):
                values = decode_leaf(body.values, side, leaf.values)
                values = jax.numpy.where(body.live[:, None], values, 0)
                out.append(replace(body, values=values))
            else:
                out.append(decode_leaf(body, side, leaf))
        return structure.unflatten(out)

    return Compressor(lambda update: (), encode, decode)
