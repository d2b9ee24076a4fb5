"""Opening a message: the packet in it, if some client can have sent it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import wire
from ..types import Compressor, Now, Packet, PyTree


def opener(
    compressor: Compressor, like: PyTree, now: Now, finite: bool = True
) -> Callable[[bytes], Packet]:
    """Opens the messages that `compressor` can have made of updates like `like`.

    `wire.from_bytes` refuses what is not how a packet is written, and with it all but one message
    of each packet. Here the rest is held against what the compressor knows, its `complaint`: more
    entries than it keeps, parts that do not agree how many they speak of, places that are not in
    order, scales below 0.

    Args:
        compressor: of both ends.
        like: the outline of an update, with room for what may come.
        now: what both ends know of the round.
        finite: refuse NaN and infinities.

    Returns:
        open(data) -> `Packet`, for `compressor.decode(packet, like, now)`.

    Raises:
        ValueError: from `open`, in one line, for bytes that no client sends.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_rec import compress, wire
        >>> from fedjax_rec.types import Now
        >>> part, update, now = compress.qsgd(7), jnp.arange(9.0), Now(jnp.int32(0), ())
        >>> key, encode = jax.random.key(0), jax.jit(part.encode)
        >>> packet = encode(key, part.init(update), update, now)[1]
        >>> received = compress.opener(part, update, now)(wire.to_bytes(packet))
        >>> bool((received.body.symbols == packet.body.symbols).all())
        True
    """

    def encoded(key, x):
        return compressor.encode(key, compressor.init(x), x, now)[1]

    outline = jax.eval_shape(encoded, jax.random.key(0), like)

    def opened(data: bytes) -> Packet:
        packet = wire.from_bytes(data, outline, finite)
        if compressor.complaint is not None:
            body, side = jax.tree.map(jnp.asarray, (packet.body, packet.side))
            arrived = Packet(body, side, packet.known)
            if told := compressor.complaint(arrived, like, now):
                raise ValueError(
                    f"opened(data={len(data)} bytes): {told}; reject what its client sent."
                )
        return packet

    return opened
