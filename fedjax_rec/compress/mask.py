"""Parts of a matrix that are sent in place of the whole, both without an index a number.

- `masked`   the coordinates that the model's mask keeps, which both ends know (PruneFL, Jiang et
             al., TNNLS 2022)
- `columns`  the columns of largest norm, and a bit a column (federated dropout, Caldas et al. 2018)
"""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp

from ..rows import RowsUpdate
from ..types import Compressor, Packet
from ..wire import Live, flatten, is_node
from .contradictions import miscounted
from .leafwise import in_place, is_compressible, nodewise, numbers, with_numbers
from .select import check_room


def masked() -> Compressor:
    """Sends what the mask in `shared["mask"]` keeps, in place; of tables the rows touched.

    For models from `models.prunable`, whose updates are zero elsewhere: then nothing is lost. A
    matrix costs 32 bits a kept coordinate, a table besides the ids of its rows. Vectors and
    scalars, nodes without a mask and models without any are sent whole; so is `wire.Live`.
    Dense matrices go on as `Live` vectors, tables as `Live` vectors of their rows' coordinates.
    In a chain it comes first.

    Returns:
        A linear `Compressor` without memory.

    Raises:
        ValueError: in a round, where a mask is of another shape than its node.

    Example:
        >>> eight_bits = compress.chain(compress.masked(), compress.stochastic_uniform(256))
        >>> pruned = models.prunable(model)
        >>> strategy = strategies.prune_fl(pruned, data.pointwise(4), uplink=eight_bits)
    """

    def kept(mask, path, node, rows=None):
        """bool of the shape of the node's numbers: what of it is sent. None for all of it."""
        array = node.values if isinstance(node, RowsUpdate) else node
        if is_node(array) or isinstance(node, Live) or array.ndim < 2 or not is_compressible(node):
            return None
        of_leaf = mask.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        shape = (node.size, *array.shape[1:]) if isinstance(node, RowsUpdate) else array.shape
        if of_leaf is not None and of_leaf.shape != shape:
            raise ValueError(
                f"masked(): a mask of shape {of_leaf.shape} meets an update of shape {shape}; "
                "put masked() first in the chain."
            )
        if rows is None:
            return jnp.ones(shape, bool) if of_leaf is None else of_leaf
        there = rows.live.reshape(-1, *[1] * (len(shape) - 1))
        if of_leaf is None:
            return jnp.broadcast_to(there, (rows.live.shape[0], *shape[1:]))
        return there & (of_leaf if rows.ids is None else of_leaf.at[rows.ids].get(mode="clip"))

    def encode(key, memory, update, now):
        mask, (leaves, structure) = _mask_of(now.shared), flatten(update)
        bodies, sides = [], []
        for path, node in leaves:
            is_rows = isinstance(node, RowsUpdate)
            sent = kept(mask, path, node, node if is_rows else None)
            if sent is None:
                bodies.append(node)
                sides.append(())
                continue
            values = jnp.where(sent, node.values if is_rows else node, 0)
            bodies.append(Live(values.reshape(-1), sent.reshape(-1)))
            nothing = jnp.zeros((sent.shape[0], 0))
            sides.append(replace(node, values=nothing) if is_rows else ())
        return memory, Packet(structure.unflatten(bodies), sides)

    def decode(packet, like, now):
        mask, (leaves, structure) = _mask_of(now.shared), flatten(like)
        found = []
        for (path, node), body, side in zip(
            leaves, structure.flatten_up_to(packet.body), packet.side, strict=True
        ):
            is_rows = isinstance(node, RowsUpdate)
            sent = kept(mask, path, node, side if is_rows else None)
            if sent is None:
                found.append(body)
                continue
            values = in_place(body.values, sent.reshape(-1)).reshape(sent.shape)
            found.append(replace(side, values=values) if is_rows else values)
        return structure.unflatten(found)

    def complaint(packet, like, now):
        mask, (leaves, structure) = _mask_of(now.shared), flatten(like)
        bodies = structure.flatten_up_to(packet.body)
        for (path, node), body, side in zip(leaves, bodies, packet.side, strict=True):
            sent = kept(mask, path, node, side if isinstance(node, RowsUpdate) else None)
            if sent is not None and (told := miscounted("numbers", body.live, sent.sum())):
                return told
        return None

    return Compressor(
        lambda update: (), encode, decode, linear=True, complaint=complaint, takes_raw=True
    )


def _mask_of(shared) -> dict:
    """Path of a leaf -> bool of its shape, of a model from `models.prunable`."""
    return shared["mask"].value if isinstance(shared, dict) and "mask" in shared else {}


def columns(fraction: float) -> Compressor:
    """Sends the k = ceil(fraction * D) columns of largest norm of every matrix and table.

    Contraction: |C(x) - x|^2 <= (1 - k/D) |x|^2, for each node; lossless where no more than k
    columns differ from zero, as after `strategies.submodel`. A matrix [n, D] costs 32 n k + D bits,
    a table that for its touched rows, and their ids. Vectors and scalars are sent whole.

    Args:
        fraction: of the columns. It sets shapes, so it cannot be traced.

    Returns:
        A linear `Compressor` without memory.

    Raises:
        ValueError: outside 0 < fraction <= 1.

    Example:
        >>> uplink = compress.error_feedback(compress.columns(0.25))
    """
    check_room("columns", "fraction", fraction)

    def encode_node(key, memory, node, now):
        x, _ = numbers(node)
        if x.ndim < 2:
            return memory, node, ()
        width = x.shape[-1]
        kept = max(1, math.ceil(fraction * width - 1e-9))
        best = jax.lax.top_k(_square_norms(x.reshape(-1, width)), kept)[1]
        chosen = jnp.zeros(width, bool).at[best].set(True)
        return memory, with_numbers(node, x[..., jnp.sort(best)]), chosen

    def decode_node(body, side, node, now):
        x, _ = numbers(body)
        if x.ndim < 2:
            return body
        place = jnp.clip(jnp.cumsum(side) - 1, 0, x.shape[-1] - 1)
        return with_numbers(body, jnp.where(side, x[..., place], 0))

    def complaint(body, side, node, now):
        x, _ = numbers(body)
        return None if x.ndim < 2 else miscounted("columns", side, x.shape[-1])

    return nodewise(lambda node: (), encode_node, decode_node, linear=True, complaint=complaint)


def _square_norms(x: jax.Array) -> jax.Array:
    """float32[D] of the columns of x [n, D], relative to the largest number of x; not NaN."""
    size = jnp.nan_to_num(jnp.abs(x.astype(jnp.float32)), posinf=jnp.finfo(jnp.float32).max)
    largest = size.max()
    size = size / jnp.where(largest > 0, largest, 1.0)
    # A product, since reductions over a leading axis are slow on a CPU.
    return jnp.matmul(jnp.ones(x.shape[0]), size * size, precision="highest")
