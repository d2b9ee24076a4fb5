"""Low rank: a matrix M [n, D] as P Q^T, with P [n, r] and Q [D, r], so r (n + D) numbers.

- `truncated_svd`        the best P Q^T there is
- `power_sgd_one_shot`   P = orth(M Q),  Q <- M^T P,  with Q kept for the next round
                         (Vogels et al., NeurIPS 2019, for one client at a time)

The matrix of a table is its touched rows, of a dense array [..., D] all its leading axes by the
last. Vectors and scalars are sent as they are, and so are rows of width at most r and arrays with
at most r rows or columns: their rank is no more than r already.

Both are biased, for use inside `error_feedback`. P and Q are the body of the packet, so that a
next stage may cast or quantize them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..bases import orthonormal, product
from ..check import at_least
from ..types import Compressor
from ..wire import is_node
from .leafwise import nodewise, numbers, with_numbers


def truncated_svd(rank: int) -> Compressor:
    """Sends the nearest matrix of rank `rank`, from the eigenvectors of the smaller Gram matrix.

    Contraction: |C(x) - x|^2 = sum_{i > r} sigma_i^2 <= (1 - r / min(n, D)) |x|^2. Singular values
    below 3e-4 of the largest are lost in the rounding of the Gram matrix. Costs n D min(n, D), and
    min(n, D)^3 for the eigenvectors: meant for widths up to some hundreds.
    Wire: 32 r (n + D) bits, n the touched rows, and the ids of those: more than the rows take
    where n < r D / (D - r).

    Args:
        rank: r.

    Returns:
        A `Compressor` without memory, biased.

    Raises:
        ValueError: for rank < 1.

    Example:
        >>> uplink = compress.error_feedback(compress.truncated_svd(rank=2))
    """
    at_least("truncated_svd", "rank", rank, 1)

    def encode_node(key, memory, node, now):
        if not is_reducible(node, rank):
            return memory, node, ()
        m, scale = matrix(node)
        if rank <= m.shape[0] < m.shape[1]:
            left = _leading(product(m, m.T), rank)
            right = scale * product(m.T, left)
        else:
            right = _leading(product(m.T, m), rank)
            left = scale * product(m, right)
        return memory, factors(node, left, right), ()

    return nodewise(lambda node: (), encode_node, _multiplied(rank))


def power_sgd_one_shot(rank: int, iterations: int = 1) -> Compressor:
    """Iterates a power on each client's own matrix, from where its last round ended.

    Not the PowerSGD of the paper: that one multiplies the *mean* matrix of all clients, in two
    trips up, see `strategies.power_sgd`. Here each client sends a P and Q of its own in one.
    Contraction: C(x) is an orthogonal projection of x, so the error is at most |x|^2; it comes
    near the best of rank r as the client's Q learns.
    Wire: 32 r (n + D) bits, n the touched rows, and the ids of those. Nothing comes down for it: Q
    stays where it is made, with the client (with the server in a downlink), and the first Q comes
    from the shapes.

    Args:
        rank: r.
        iterations: of the power, in a round.

    Returns:
        A `Compressor`, biased, whose memory is Q, D r numbers a matrix.

    Raises:
        ValueError: for rank or iterations < 1.

    Example:
        >>> uplink = compress.error_feedback(compress.power_sgd_one_shot(rank=2))
    """
    at_least("power_sgd_one_shot", "rank", rank, 1)
    at_least("power_sgd_one_shot", "iterations", iterations, 1)

    def init_node(node):
        shape = numbers(node)[0].shape
        return start(shape[-1], rank) if len(shape) > 1 and shape[-1] > rank else ()

    def encode_node(key, warm, node, now):
        if not is_reducible(node, rank):
            return warm, node, ()
        m, scale = matrix(node)
        for _ in range(iterations):
            left = orthonormal(product(m, warm))
            right = product(m.T, left)
            warm = restarted(right, warm)
        return warm, factors(node, left, scale * right), ()

    return nodewise(init_node, encode_node, _multiplied(rank))


def is_reducible(node, rank: int) -> bool:
    """Whether a node is a matrix of which `rank` columns are fewer than it has."""
    x = numbers(node)[0]
    if x.ndim < 2 or x.shape[-1] <= rank:
        return False
    return is_node(node) or math.prod(x.shape[:-1]) > rank


def matrix(node) -> tuple[jax.Array, jax.Array]:
    """(M, scale), M float32[n, D] with entries up to 1: the node is scale * M. Squares of the
    largest floats overflow, and of the smallest vanish."""
    x = numbers(node)[0].astype(jnp.float32)
    largest = jnp.abs(x).max()
    scale = jnp.where(largest >= jnp.finfo(jnp.float32).tiny, largest, 1.0)
    return (x / scale).reshape(-1, x.shape[-1]), scale


def factors(node, left: jax.Array, right: jax.Array):
    """The body of a packet: `node` with the rows of P [n, r], and Q [D, r]."""
    x = numbers(node)[0]
    left = left.reshape(*x.shape[:-1], left.shape[-1]).astype(x.dtype)
    return with_numbers(node, left), right.astype(x.dtype)


def start(width: int, rank: int) -> jax.Array:
    """float32[width, rank]: the Q that every power iteration starts from, normal numbers."""
    return jax.random.normal(jax.random.key(width), (width, rank))


def restarted(right: jax.Array, before: jax.Array) -> jax.Array:
    """Q for the next round: columns of length 1, and those that are 0 as at the start; else a
    column that one matrix had no use for would stay 0 for ever. Q of before where all are 0."""
    size = jnp.linalg.norm(right, axis=0)
    there = size > 0
    fresh = jnp.where(there, right / jnp.where(there, size, 1.0), start(*right.shape))
    return jnp.where(there.any(), fresh, before)


def _leading(gram: jax.Array, rank: int) -> jax.Array:
    """The eigenvectors of the `rank` largest eigenvalues, which `eigh` puts last."""
    return jnp.linalg.eigh(gram)[1][:, -rank:]


def _multiplied(rank: int) -> Callable:
    """Decoding of a node: P Q^T, in the layout of P."""

    def decode_node(body, side, node, now):
        if not is_reducible(node, rank):
            return body
        left, right = body
        x = product(numbers(left)[0].astype(jnp.float32), right.T.astype(jnp.float32))
        return with_numbers(left, x.astype(numbers(node)[0].dtype))

    return decode_node
