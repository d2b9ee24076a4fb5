"""The cheaper of two ways to send a small dense leaf: by a compressor, or as it is.

A bias of three numbers is 12 bytes. Its quantized form has a scale, its rotated one a seed and
padding, its largest coordinates their places: more than the numbers. So a dense leaf of up to
`SMALL` numbers of which a compressor would send as many bytes or more is kept from it and sent as
it is, exactly. This hangs on shapes alone: both ends come to it without a word, in every round.

Rows of a table are left alone: what they cost depends on how many are touched.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from ..types import Compressor, Now, Packet, PyTree
from ..wire import Raw, flatten, is_node, map_nodes, nbytes_by_shape
from .leafwise import is_compressible

SMALL = 256


def cheaper(compressor: Compressor, shared: PyTree = ()) -> Compressor:
    """`compressor`, of which dense leaves that it would not make smaller are sent as they are.

    `rounds` puts this around every uplink and downlink. What has error 0 keeps all claims: a part
    that is unbiased stays so, a contraction and omega are of the leaves that are compressed.
    How many numbers `random_mask`, `masked` and `qsgd_elias` send depends on a draw, the model or
    the numbers: they keep a leaf that they may make smaller. Nothing is remembered of raw leaves.

    Args:
        compressor: of whole updates. One that does not say `takes_raw` is left as it is.
        shared: the server's model, which compressors find in `Now`.

    Returns:
        A `Compressor`, with the claims of `compressor`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from fedjax_rec import compress, wire
        >>> from fedjax_rec.types import Now
        >>> update, now = {"bias": jnp.ones(1)}, Now(jnp.int32(0), ())
        >>> key, encode = jax.random.key(0), lambda c: jax.jit(c.encode)
        >>> sent = lambda c: encode(c)(key, c.init(update), update, now)[1]
        >>> eden = compress.eden(4)
        >>> [int(wire.nbytes(sent(c))) for c in (eden, compress.cheaper(eden))]
        [19, 9]
    """
    if not compressor.takes_raw:
        return compressor
    known: dict = {}

    def hidden(update):
        """`update`, of which what is sent raw is inside `Raw`."""
        found, structure = flatten(update)
        small = tuple((_is_small(x) and (x.shape, x.dtype)) for _, x in found)
        case = structure, small
        if case not in known:
            leaves = [x for _, x in found]
            known[case] = [
                _is_small(x) and not _pays(compressor, structure, leaves, i, shared)
                for i, x in enumerate(leaves)
            ]
        return structure.unflatten(
            Raw(x) if raw else x for raw, (_, x) in zip(known[case], found, strict=True)
        )

    def encode(key, memory, update, now):
        return compressor.encode(key, memory, hidden(update), now)

    def decode(packet, like, now):
        back = compressor.decode(packet, hidden(like), now)
        return map_nodes(lambda x: x.values if isinstance(x, Raw) else x, back)

    claim, told = compressor.omega, compressor.complaint
    return replace(
        compressor,
        init=lambda update: compressor.init(hidden(update)),
        encode=encode,
        decode=decode,
        complaint=told and (lambda packet, like, now: told(packet, hidden(like), now)),
        omega=claim and (lambda update: claim(hidden(update))),
    )


def _is_small(node) -> bool:
    return not is_node(node) and is_compressible(node) and node.size <= SMALL


def _pays(compressor: Compressor, structure, leaves: list, i: int, shared: PyTree) -> bool:
    """Whether leaf i costs less by `compressor` than as it is, or is sent as it is by itself."""
    leaf = leaves[i]
    now = Now(jnp.int32(0), shared, jnp.int32(0))

    def encoded(key, x):
        alone = structure.unflatten(x if j == i else Raw(y) for j, y in enumerate(leaves))
        return compressor.encode(key, compressor.init(alone), alone, now)[1]

    packet = jax.eval_shape(encoded, jax.random.key(0), leaf)
    sent = [x for _, x in flatten((packet.body, packet.side))[0] if not isinstance(x, Raw)]
    of = lambda x: None if is_node(x) else (x.shape, x.dtype)
    as_it_is = [of(x) for x in sent] == [(leaf.shape, leaf.dtype)]
    return as_it_is or nbytes_by_shape(packet, leaf.size) < nbytes_by_shape(Packet(leaf), leaf.size)
