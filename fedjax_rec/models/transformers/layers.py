"""The layers that transformers here are made of, so that adapters can find the linear ones.

- `Linear`     y = x W + b, W [in, out]
- `LayerNorm`  (x - mean) / sqrt(var + eps) * scale + bias;  `RMSNorm`  x / rms(x) * scale
- `attention`  softmax(q k^T / sqrt(d) + mask) v, with fewer key heads than query heads if wanted

A model of many layers alike holds one layer whose variables have a leading axis, and `stacked`
scans it: one layer is compiled, whatever their number, and kept or recomputed (`remat`) as a whole.
Weights keep their stored dtype, sums and norms are float32.

`T` tokens, `D` width, `H` heads, `K` key heads, `d` width of a head.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive

MASKED = -1e9


def weight(kernel: nnx.Variable, dtype) -> jax.Array:
    """The numbers of a kernel in `dtype`, of a quantised one (`models.quantised`) made anew."""
    value: Any = kernel.get_value()
    if hasattr(value, "qvalue"):
        import qwix

        value = qwix.dequantize(value)
    return value.astype(dtype)


class Linear(nnx.Module):
    """kernel: [..., in, out]; bias: [..., out] or None. Leading axes are those of `stacked`."""

    def __init__(self, kernel: jax.Array, bias: jax.Array | None = None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x):
        y = x @ weight(self.kernel, x.dtype)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


def linear(rngs, inputs: int, outputs: int, bias: bool = True, scale: float | None = None, lead=()):
    """A `Linear` with a normal kernel of deviation `scale`, default 1 / sqrt(inputs)."""
    positive("linear", "inputs", inputs)
    kernel = (scale or inputs**-0.5) * jax.random.normal(rngs.params(), (*lead, inputs, outputs))
    return Linear(kernel, jnp.zeros((*lead, outputs)) if bias else None)


class LayerNorm(nnx.Module):
    """scale, bias: [..., D]."""

    def __init__(self, scale: jax.Array, bias: jax.Array, eps: float = 1e-12):
        self.scale, self.bias, self.eps = nnx.Param(scale), nnx.Param(bias), eps

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """scale: [..., D]."""

    def __init__(self, scale: jax.Array, eps: float = 1e-5):
        self.scale, self.eps = nnx.Param(scale), eps

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + self.eps)
        return (y * self.scale[...]).astype(x.dtype)


def attention(q, k, v, mask):
    """[..., T, H, d] of queries [..., T, H, d], keys and values [..., S, K, d], H a multiple of K.

    mask: bool, broadcast to [..., T, S]; False is not attended to.
    """
    repeat = q.shape[-2] // k.shape[-2]
    if repeat > 1:
        k, v = (jnp.repeat(x, repeat, -2) for x in (k, v))
    scores = jnp.einsum("...thd,...shd->...hts", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[..., None, :, :], scores * q.shape[-1] ** -0.5, MASKED)
    weights = jax.nn.softmax(scores, -1).astype(v.dtype)
    return jnp.einsum("...hts,...shd->...thd", weights, v)


def stacked(layer: nnx.Module, x, *args, remat: bool = False):
    """x <- layer(x, *args) for the layers along the leading axis of the variables of `layer`.

    remat: keep only what goes into each layer, and compute the rest again for the gradient.
    Random numbers (dropout) differ from layer to layer.
    """
    structure, random, variables, rest = nnx.split(layer, nnx.RngState, nnx.Variable, ...)

    def one(x, here):
        number, variables = here
        is_key = lambda r: jnp.issubdtype(r.dtype, jax.dtypes.prng_key)
        own = jax.tree.map(lambda r: jax.random.fold_in(r, number) if is_key(r) else r + 0, random)
        return nnx.merge(structure, own, variables, rest)(x, *args), None

    numbers = jnp.arange(jax.tree.leaves(variables)[0].shape[0])
    return jax.lax.scan(jax.checkpoint(one) if remat else one, x, (numbers, variables))[0]
