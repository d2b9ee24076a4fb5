"""DRIVE and EDEN: a rotated update at 1 to 4 bits a coordinate, decoded without bias.

    y = R x,   q_i the centroid of y_i sqrt(B) / |y|,   x^ = S R^-1 q,   S = |x|^2 / <q, y>

(DRIVE, Vargaftik et al., NeurIPS 2021, for one bit; EDEN, Vargaftik et al., ICML 2022.) Rotated
coordinates are nearly Gaussian, so the centroids are those of the best quantizer of N(0, 1) (Lloyd
1957; Max 1960), known to both ends. S makes <x^, x> = |x|^2, so that what is not along x is noise
of either sign; S = <q, y> / |q|^2 makes the error least, and x^ too short.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace

import jax.numpy as jnp

from ..types import Compressor
from ..wire import Codes, Live, is_node
from .combine import chain
from .contradictions import miscounted, no_scale
from .leafwise import count_real, nodewise, numbers, with_numbers
from .rotate import rotate


def drive(times: int = 2, block: int = 4096) -> Compressor:
    """Sends the signs of the rotated update, and S = |x|^2 / |Rx|_1 of each block.

    Unbiased and of omega = pi/2 - 1 as B grows, see `eden`, of which it is the case of one bit.
    Wire: D + 32 bits a block of B, D the coordinates padded to whole blocks; a seed of 32 bits,
    and of a table the ids of its touched rows.

    Args:
        times: turns of the rotation, as in `rotate`.
        block: B, a power of two.

    Returns:
        A `Compressor` that remembers nothing.

    Raises:
        ValueError: as `rotate`.

    Example:
        >>> one_bit = compress.drive()
    """
    return eden(1, True, times, block)


def eden(
    bits: int = 4, unbiased: bool = True, times: int = 2, block: int | None = None
) -> Compressor:
    """Sends a few bits a rotated coordinate, and one float32 a block.

    Wire: bits * D + 32 bits a block, D the coordinates padded to whole blocks; a seed of 32 bits,
    and of a table the ids of its touched rows.

    Args:
        bits: 1 to 4.
        unbiased: E C(x) = x as B grows, and <C(x), x> = |x|^2 always; omega = .5708, .1331, .0358,
            .00959 for 1 to 4 bits. In blocks of 128, of three numbers, the bias was .5% of |x|; a
            leaf of two numbers is a block of two, whose bias is .333 of |x| at one bit: small
            leaves are better sent as they are, see `partition`.
            False, for use inside `error_feedback`: the scale of least error, .3634, .1175, .0345,
            .0095 |x|^2 at random and less than |x|^2 always; biased.
        times: turns of the rotation, as in `rotate`.
        block: B; None for the smallest whose scales cost less than 1% of the bits, 4,096 / bits:
            less is then lost to the padding of the last block, which matters for clients with few
            rows.

    Returns:
        A `Compressor` that remembers nothing.

    Raises:
        ValueError: for other `bits`, and as `rotate`.

    Example:
        >>> from fedjax_rec import compress
        >>> uplink = compress.error_feedback(compress.eden(2, unbiased=False))
    """
    _check("eden", bits)
    if block is None:
        block = {1: 4096, 2: 2048, 3: 2048, 4: 1024}[bits]
    return chain(rotate(times, block), lloyd_max(bits, unbiased))


def lloyd_max(bits: int = 4, unbiased: bool = True) -> Compressor:
    """Quantizes as `eden`, nodes that look Gaussian already.

    One float32 scale for each entry of a `Live` node of blocks, such as a rotation leaves; for any
    other node, a table included, one scale in all, since rows are short.
    Deterministic, so biased on what was not rotated at random.
    Wire: bits a coordinate + 32 a scale.

    Args:
        bits: 1 to 4.
        unbiased: keeps <C(x), x> = |x|^2; else |C(x) - x|^2 < |x|^2, (1 - 1/B) |x|^2 at worst for
            one bit.

    Returns:
        A `Compressor` that remembers nothing.

    Raises:
        ValueError: unless 1 <= bits <= 4.

    Example:
        >>> two_bits = compress.chain(compress.rotate(), compress.lloyd_max(2))
    """
    _check("lloyd_max", bits)
    thresholds, centroids = normal_levels(bits)
    half = len(centroids)

    def encode_node(key, memory, node, now):
        x, real = numbers(node)
        x = x.astype(jnp.float32)
        axes = tuple(range(1 if _has_blocks(node) else 0, x.ndim))
        total = lambda values: values.sum(axes, keepdims=True)
        count = x[0].size if _has_blocks(node) else count_real(x, real)
        # The largest first: the square of 1e20 overflows, and that of 1e-20 vanishes.
        largest = jnp.abs(x).max(axes, keepdims=True)
        square = total((x / jnp.where(largest > 0, largest, 1.0)) ** 2)
        deviation = largest * jnp.sqrt(square / jnp.maximum(count, 1))
        z = x / jnp.where(deviation > 0, deviation, 1.0)
        above = ((jnp.abs(z) > t).astype(jnp.uint8) for t in thresholds)
        level = sum(above, jnp.zeros(z.shape, jnp.uint8))
        q = jnp.where(real, _at(level, centroids), 0.0)
        along = total(q * jnp.abs(z))
        part, of = (count, along) if unbiased else (along, total(q * q))
        scale = deviation * part / jnp.where(of > 0, of, 1.0)
        symbols = jnp.where(z < 0, level + jnp.uint8(half), level)
        side = Live(scale.reshape(-1), node.live) if _has_blocks(node) else scale.reshape(())
        return memory, with_numbers(node, Codes(symbols, 2 * half)), side

    def decode_node(body, side, node, now):
        if not is_node(node):
            return _decoded(body, side, centroids).astype(node.dtype)
        each = lambda entries: jnp.asarray(entries).reshape(-1, *[1] * (node.values.ndim - 1))
        scale = each(side.values) if _has_blocks(node) else side
        x = jnp.where(each(body.live), _decoded(body.values, scale, centroids), 0)
        return replace(body, values=x.astype(node.values.dtype))

    def complaint(body, side, node, now):
        if not _has_blocks(node):
            return no_scale(side)
        return no_scale(side.values) or miscounted("scales", side.live, body.live.sum())

    return nodewise(lambda node: (), encode_node, decode_node, complaint=complaint)


@functools.cache
def normal_levels(bits: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(thresholds, centroids) > 0 of the quantizer of N(0, 1) of least error with 2^bits levels,
    which are symmetric: 2^(bits - 1) centroids and the thresholds between them.

    Lloyd's iteration in closed form: thresholds half way between centroids, centroids the mean of
    the density between thresholds.
    """
    density = lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    above = lambda t: math.erfc(t / math.sqrt(2)) / 2
    half = 1 << (bits - 1)
    centroids = [(2 * i + 1) / half for i in range(half)]
    while True:
        thresholds = [(a + b) / 2 for a, b in itertools.pairwise(centroids)]
        edges = [0.0, *thresholds, math.inf]
        means = [
            (density(a) - density(b)) / (above(a) - above(b)) for a, b in itertools.pairwise(edges)
        ]
        if max(abs(a - b) for a, b in zip(means, centroids, strict=True)) < 1e-12:
            return tuple(thresholds), tuple(means)
        centroids = means


def _check(where: str, bits: int) -> None:
    if bits not in (1, 2, 3, 4):
        raise ValueError(f"{where}(bits={bits}) has no levels; use 1, 2, 3 or 4.")


def _has_blocks(node) -> bool:
    """Whether each entry of a node gets a scale of its own: `Live` of more than single numbers."""
    return isinstance(node, Live) and node.values.size > node.values.shape[0]


def _at(level, centroids: tuple[float, ...]):
    """float32: centroids[level], by selects, which run in vector units as look-ups do not."""
    q = jnp.full(level.shape, centroids[0], jnp.float32)
    for i, centroid in enumerate(centroids[1:], 1):
        q = jnp.where(level >= i, centroid, q)
    return q


def _decoded(codes: Codes, scale, centroids: tuple[float, ...]):
    """float32: scale times the signed centroids that `codes` stand for."""
    symbols, half = jnp.asarray(codes.symbols), len(centroids)
    q = _at(symbols & (half - 1), centroids)
    return scale * jnp.where(symbols < half, q, -q)
