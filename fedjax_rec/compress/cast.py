"""Casts: send floats in fewer bits, round to nearest. bfloat16: relative error at most 2^-8."""

from __future__ import annotations

import jax.numpy as jnp

from ..check import one_of
from ..types import Compressor
from .combine import leafwise


def cast(dtype: str = "bfloat16") -> Compressor:
    """Every float leaf as `dtype`, `bfloat16` or `float16` (overflows beyond 65504)."""
    one_of("cast", "dtype", dtype, ("bfloat16", "float16"))
    return leafwise(
        lambda key, x: (x.astype(dtype), ()),
        lambda body, side, like: body.astype(jnp.result_type(like)),
    )
