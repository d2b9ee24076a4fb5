"""Low rank in a space from a seed: M [n, D] as B A, where A [r, D] is known and only B is sent.

- `seeded_projection`   B = M A^T                  unbiased
- `seeded_low_rank`     B = M A^T (A A^T)^-1       the nearest matrix with rows in that space

A depends on seed and round, is the same for all clients and costs nothing on the wire: structured
updates (Konecny et al., 2016) and CoLR (Nguyen et al., WWW 2024), which trains B alone, see
`clients.subspace`. Since A is shared, the mean of the clients' B is the B of their mean.

The matrix of a table is its touched rows, of a dense array [..., D] all its leading axes by the
last. Vectors and scalars are sent as they are, and so is what has a width of at most r.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from .. import check
from ..bases import product, random_rows
from ..check import at_least
from ..types import Compressor
from .leafwise import nodewise, numbers, with_numbers


def seeded_projection(rank: int, seed: int = 0) -> Compressor:
    """Sends B = M A^T, which decodes to M A^T A.

    Unbiased over rounds, or seeds: E[A^T A] = I; omega = D/r - 1 exactly.
    Wire: 32 r n bits, n the touched rows, and the ids of those.

    Args:
        rank: r, the rows of A.
        seed: of all A.

    Returns:
        A linear `Compressor` without memory.

    Raises:
        ValueError: for rank < 1, and for no seed of 32 bits.

    Example:
        >>> uplink = compress.seeded_projection(rank=8, seed=7)
    """
    at_least("seeded_projection", "rank", rank, 1)
    check.seed("seeded_projection", seed)
    return _seeded(rank, seed, lambda width: 1.0, lambda width: width / rank - 1)


def seeded_low_rank(rank: int, seed: int = 0) -> Compressor:
    """Projects every row orthogonally on the row space of A, of dimension r.

    Lossless for what was trained there. Of any other update a contraction in the mean over rounds,
    E|C(x) - x|^2 = (1 - r/D) |x|^2, and never an error of more than |x|^2. Biased: what it loses is
    lost unless inside `error_feedback`.
    Wire: 32 r n bits, n the touched rows, and the ids of those.

    Args:
        rank: r, the rows of A.
        seed: of all A; that of the client.

    Returns:
        A linear `Compressor` without memory.

    Raises:
        ValueError: for rank < 1, and for no seed of 32 bits.

    Example:
        >>> from fedjax_rec import clients, compress
        >>> uplink = compress.seeded_low_rank(8, seed=7)
        >>> optimizer = clients.subspace(clients.sgd(0.5), 8, seed=7)
    """
    at_least("seeded_low_rank", "rank", rank, 1)
    check.seed("seeded_low_rank", seed)
    # Rows of A are orthogonal, of length sqrt(D / r): (A A^T)^-1 is a factor.
    return _seeded(rank, seed, lambda width: rank / width, lambda width: 1 - rank / width)


def _seeded(
    rank: int, seed: int, factor: Callable[[int], float], loses: Callable[[int], float]
) -> Compressor:
    def known(node, now):
        """A of this round, or None where the node is sent as it is."""
        x = numbers(node)[0]
        if x.ndim < 2 or x.shape[-1] <= rank:
            return None
        return random_rows(seed, now.round, x.shape[-1], rank, now.trip)

    def multiplied(x, a, dtype):
        return product(x.astype(jnp.float32), a).astype(dtype)

    def encode_node(key, memory, node, now):
        a = known(node, now)
        if a is None:
            return memory, node, ()
        x = numbers(node)[0]
        return memory, with_numbers(node, multiplied(x, factor(x.shape[-1]) * a.T, x.dtype)), ()

    def decode_node(body, side, node, now):
        a = known(node, now)
        if a is None:
            return body
        return with_numbers(body, multiplied(numbers(body)[0], a, numbers(node)[0].dtype))

    def omega(node):
        width = numbers(node)[0].shape[-1:]
        return loses(max(width[0], rank)) if width else 0.0

    return nodewise(lambda node: (), encode_node, decode_node, True, omega)
