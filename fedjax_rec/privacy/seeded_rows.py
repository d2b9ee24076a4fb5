"""A few rows of each table, drawn for all clients alike; which they are is known from a seed.

    C(x)_i = x_i I / k  if i in S_t,  else 0,     |S_t| = k = ceil(fraction I)

S_t is uniform among the sets of k rows, another in every round. No index travels and none hangs on
what a client touched, so that bodies of all clients add up, and secure aggregation can hide them:
the rows that are sent say nothing. A structured update (Konecny et al., 2016) of whole rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check, keys
from ..compress.leafwise import nodewise
from ..compress.select import capacity, check_room
from ..rows import RowsUpdate
from ..types import Compressor


def seeded_rows(fraction: float, seed: int = 0, scaled: bool = True) -> Compressor:
    """Sends k = ceil(fraction * I) rows of each table, the same ones of all clients, times I / k.

    Unbiased over rounds, or seeds, with omega = I/k - 1. What is no table is sent as it is.
    Of whole tables, as they are under `secure_aggregation`: b k D bits of a table [I, D], touched
    or not, where b are those of the modulus.

    Args:
        fraction: of the rows. It sets shapes, so it cannot be traced.
        seed: of all sets of rows.
        scaled: False sends them as they are, for use inside `error_feedback`: biased, and over
            rounds E|C(x) - x|^2 = (1 - k/I) |x|^2.

    Returns:
        A linear `Compressor` without memory.

    Raises:
        ValueError: outside 0 < fraction <= 1, for no seed of 32 bits and, when a round is traced,
            where the touched rows travel.

    Example:
        >>> from fedjax_rec import privacy
        >>> hidden = privacy.secure_aggregation(bound=10.0, clients=64)
        >>> uplink = privacy.seeded_rows(0.1)
        >>> strategy = strategies.fedavg(
        ...     model, data.pointwise(4), uplink=uplink, aggregator=hidden
        ... )
    """
    check_room("seeded_rows", "fraction", fraction)
    check.seed("seeded_rows", seed)

    def chosen(size: int, now) -> jax.Array:
        """int32[k], sorted."""
        key = jax.random.fold_in(keys.of_round(seed, now.round, now.trip), size)
        most = capacity(fraction, size)
        return jnp.sort(jax.random.permutation(key, size)[:most]).astype(jnp.int32)

    def times(size: int) -> float:
        return size / capacity(fraction, size) if scaled else 1.0

    def encode_node(key, memory, node, now):
        if not isinstance(node, RowsUpdate):
            return memory, node, ()
        if node.ids is not None:
            raise ValueError(
                "seeded_rows: the rows are drawn of whole tables, and here touched ones travel; "
                "use it under privacy.secure_aggregation, or compress.random_k."
            )
        real = jnp.asarray(node.live)[:, None]
        rows = jnp.where(real, node.values, 0)[chosen(node.size, now)]
        return memory, rows * jnp.asarray(times(node.size), rows.dtype), ()

    def decode_node(body, side, node, now):
        if not isinstance(node, RowsUpdate):
            return body
        ids, body = chosen(node.size, now), jnp.asarray(body)
        values = jnp.zeros((node.size, *body.shape[1:]), body.dtype).at[ids].set(body)
        live = jnp.zeros(node.size, bool).at[ids].set(True)
        return RowsUpdate(values, None, live, None, node.size)

    def omega(node):
        if not isinstance(node, RowsUpdate):
            return 0.0
        share = node.size / capacity(fraction, node.size)
        return share - 1 if scaled else 1 - 1 / share

    return nodewise(lambda node: (), encode_node, decode_node, True, omega)
