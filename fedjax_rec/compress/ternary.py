"""Signs and little else: two or three values a node.

- `terngrad`     s sign(x_i) b_i,  b_i Bernoulli with p = |x_i| / s,  s = max |x|
                 (Wen et al., NeurIPS 2017)
- `scaled_sign`  (|x|_1 / d) sign(x_i)
                 (Bernstein et al., ICML 2018; with error feedback, Karimireddy et al., ICML 2019)
"""

from __future__ import annotations

import math

import jax.numpy as jnp

from ..check import positive
from ..types import Compressor
from ..wire import Codes
from .contradictions import no_scale
from .leafwise import count_real, leafwise, numbers
from .quantize import codes, uniform, unit


def terngrad(clip: float | None = None) -> Compressor:
    """Rounds every coordinate to 0 or to the largest magnitude s of the node, with its sign.

    Unbiased; E |C(x) - x|^2 = s |x|_1 - |x|^2 exactly, omega <= (sqrt(d) - 1) / 2.
    Wire: 32 + 8 ceil(d / 5) bits.

    Args:
        clip: None, or cut coordinates to `clip` standard deviations first, 2.5 in the paper, which
            makes s small and the result biased. Deviations are taken about 0, not about the mean,
            so that a node of equal numbers is not cut to nothing. It may be traced.

    Returns:
        A `Compressor` without memory.

    Raises:
        ValueError: for clip <= 0.

    Example:
        >>> uplink = compress.terngrad(clip=2.5)
    """
    if clip is not None:
        positive("terngrad", "clip", clip)

    def encode_leaf(key, x, real):
        y, m = unit(x)
        top = jnp.float32(1)
        if clip is not None:
            deviation = jnp.sqrt((y * y).sum() / jnp.maximum(count_real(x, real), 1.0))
            top = jnp.minimum(deviation * clip, top)
        kept = uniform(key, x) * top < jnp.abs(y)
        sign = jnp.where(y < 0, -1, 1)
        return codes(jnp.where(kept, sign, 0) + 1, 3), m * top

    def decode_leaf(body, scale, like):
        return ((body.symbols.astype(jnp.float32) - 1) * scale).astype(like.dtype)

    omega = None if clip is not None else lambda node: (math.sqrt(numbers(node)[0].size) - 1) / 2
    return leafwise(encode_leaf, decode_leaf, omega=omega, complaint=_no_scale)


def scaled_sign() -> Compressor:
    """Sends the sign of every coordinate, times the mean magnitude of the node; the sign of 0 is +.

    Biased, for use inside `error_feedback`: |C(x) - x|^2 = (1 - |x|_1^2 / (d |x|^2)) |x|^2, a
    contraction by 1 - 1/d at worst, .3634 for normal numbers. Of the multiples of sign(x) it is
    the nearest to x. Wire: d + 32 bits.

    Returns:
        A `Compressor` without memory.

    Example:
        >>> one_bit = compress.error_feedback(compress.scaled_sign())
    """

    def encode_leaf(key, x, real):
        y, m = unit(x)
        mean = jnp.abs(y).sum() / jnp.maximum(count_real(x, real), 1.0)
        return Codes((y >= 0).astype(jnp.uint8), 2), m * mean

    def decode_leaf(body, scale, like):
        return jnp.where(body.symbols > 0, scale, -scale).astype(like.dtype)

    return leafwise(encode_leaf, decode_leaf, complaint=_no_scale)


def _no_scale(body, scale, count):
    return no_scale(scale)
