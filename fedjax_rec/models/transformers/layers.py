"""The layers that transformers here are made of, so that adapters can find the linear ones.

- `Linear`     y = x W + b, W [in, out]
- `LayerNorm`  (x - mean) / sqrt(var + eps) * scale + bias;  `RMSNorm`  x / rms(x) * scale;
  `UnitRMSNorm`  x / rms(x) * (1 + scale)
- `attention`  softmax(q k^T / sqrt(d) + mask) v, with fewer key heads than query heads if wanted;
  `Scores` are other ones than q k^T / sqrt(d)

A model of many layers alike holds one layer whose variables have a leading axis, and `stacked`
scans it: one layer is compiled, whatever their number, and kept or recomputed (`remat`) as a whole.
Weights keep their stored dtype, sums and norms are float32.

`T` tokens, `D` width, `H` heads, `K` key heads, `d` width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ..roles import Frozen
from .by_heads import way_of
from .products import EVERY, Level, weight

MASKED = -1e9
TINY = 1e-12  # beside squared lengths


class Linear(nnx.Module):
    """kernel: [..., in, out]; bias: [..., out] or None. Leading axes are those of `stacked`."""

    def __init__(self, kernel: jax.Array, bias: jax.Array | None = None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x, of=EVERY):
        """[..., out] of x [..., in], or the outputs `of` int[n] alone; see `by_heads`."""
        way = way_of(self.kernel)
        y = way.times(x, self.kernel, of)
        return y if self.bias is None else y + way.outputs(self.bias[..., of], y).astype(y.dtype)

    def whole(self, of=EVERY):
        """float32[..., in, out]: the weight, of the outputs `of` alone."""
        return weight(self.kernel, jnp.float32)[..., of]


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
        return (over_rms(x, self.eps) * self.scale[...]).astype(x.dtype)


class UnitRMSNorm(nnx.Module):
    """scale: [..., D], of which zero scales by one (Gemma). One is added in float32."""

    def __init__(self, scale: jax.Array, eps: float = 1e-6):
        self.scale, self.eps = nnx.Param(scale), eps

    def __call__(self, x):
        return (over_rms(x, self.eps) * (1 + self.scale[...].astype(jnp.float32))).astype(x.dtype)


def unit(rows: jax.Array) -> jax.Array:
    """Rows [..., D] over their length; zero rows, which have no direction, stay zero."""
    return rows * jax.lax.rsqrt((rows * rows).sum(-1, keepdims=True) + TINY)


def over_rms(x: jax.Array, eps: float) -> jax.Array:
    """float32: x / rms(x) along the last axis."""
    y = x.astype(jnp.float32)
    return y * jax.lax.rsqrt((y * y).mean(-1, keepdims=True) + eps)


@dataclass(frozen=True)
class Scores:
    """What products q k^T, in float32, are worth: cap tanh(scale q k^T / cap); cap None: no end."""

    scale: float
    cap: float | None = None

    def __call__(self, products):
        return capped(products * self.scale, self.cap)


def capped(x: jax.Array, cap: float | None) -> jax.Array:
    """cap tanh(x / cap), which is x where it is small (Gemma 2, 2024); of None, x."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def attention(q, k, v, mask, scores: Callable[[jax.Array], jax.Array] | None = None):
    """[..., T, H, d] of queries [..., T, H, d], keys and values [..., S, K, d], H a multiple of K.

    mask: bool, broadcast to [..., T, S]; False is not attended to. scores(q k^T): float32; None
    divides by sqrt(d).
    """
    repeat = q.shape[-2] // k.shape[-2]
    if repeat > 1:
        k, v = (jnp.repeat(x, repeat, -2) for x in (k, v))
    products = jnp.einsum("...thd,...shd->...hts", q, k, preferred_element_type=jnp.float32)
    scores = scores or Scores(q.shape[-1] ** -0.5)
    worth = jnp.where(mask[..., None, :, :], scores(products), MASKED)
    weights = jax.nn.softmax(worth, -1).astype(v.dtype)
    return jnp.einsum("...hts,...shd->...thd", weights, v)


def attention_after(q, own, read, scores: Callable[[jax.Array], jax.Array] | None = None):
    """[..., T, H, d]: `attention` to two sets of (keys, values, mask): `own` [..., S, K, d] with
    bool[..., T, S], and what was `read` before all texts, [P, K, d] with bool[..., T, P], of which
    none has a copy; with leading axes that fit where devices bring together those of all."""
    scores = scores or Scores(q.shape[-1] ** -0.5)
    (k, v, mask), (keys, values, reached) = own, read
    share = q.shape[-2] // k.shape[-2]
    grouped = q.reshape(*q.shape[:-2], k.shape[-2], share, q.shape[-1])
    product = lambda how, x: jnp.einsum(how, grouped, x, preferred_element_type=jnp.float32)
    hide = lambda worth, mask: jnp.where(mask[..., None, None, :, :], worth, MASKED)
    old = hide(scores(product("...tkgd,...pkd->...kgtp", keys)), reached)
    new = hide(scores(product("...tkgd,...skd->...kgts", k)), mask)
    weights = jax.nn.softmax(jnp.concatenate([old, new], -1), -1).astype(v.dtype)
    of_old, of_new = weights[..., : keys.shape[-3]], weights[..., keys.shape[-3] :]
    mixed = jnp.einsum("...kgtp,...pkd->...tkgd", of_old, values)
    return (mixed + jnp.einsum("...kgts,...skd->...tkgd", of_new, v)).reshape(q.shape)


def stacked(
    layer: nnx.Module, x, *args, each: Any = None, remat: bool = False, first: int | None = None
):
    """x <- layer(x, *args) for the layers along the leading axis of the variables of `layer`.

    each: arrays with a leading axis, of which each layer gets its own behind `args`. remat: keep
    only what goes into each layer, and compute the rest again for the gradient. first: so many
    layers, default all. Random numbers (dropout) differ from layer to layer.
    """
    own = lambda here: () if each is None else (here,)
    call = lambda one, x, here: (one(x, *args, *own(here)), None)
    return scanned(layer, call, x, each, remat, first)[0]


def scanned(
    layer: nnx.Module, call, x, each: Any = None, remat: bool = False, first: int | None = None
):
    """(x, out [L, ...]) of (x, out) <- call(layer, x, its own of `each`); see `stacked`."""
    structure, random, base, variables, rest = nnx.split(
        layer, nnx.RngState, Frozen, nnx.Variable, ...
    )

    def one(x, here):
        number, base_here, variables, each = here
        is_key = lambda r: jnp.issubdtype(r.dtype, jax.dtypes.prng_key)
        own = jax.tree.map(lambda r: jax.random.fold_in(r, number) if is_key(r) else r + 0, random)
        if first is not None:
            base_here = jax.tree.map(lambda stack: Level(stack, number), base)
        return call(nnx.merge(structure, own, base_here, variables, rest), x, each)

    if first is None:
        numbers = jnp.arange(jax.tree.leaves((base, variables))[0].shape[0])
        each_has = numbers, base, variables, each
    else:
        few = jax.tree.map(lambda v: v[:first], (variables, each))
        each_has = jnp.arange(first), None, *few
    return jax.lax.scan(jax.checkpoint(one) if remat else one, x, each_has)
