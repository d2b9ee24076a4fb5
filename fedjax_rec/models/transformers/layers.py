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

from ... import pieces
from ...check import positive
from ..roles import Frozen

MASKED = -1e9
EVERY: Any = slice(None)


def weight(kernel: nnx.Variable, dtype) -> jax.Array:
    """The numbers of a kernel in `dtype`, of a quantised one (`models.quantised`) made anew."""
    return _numbers(kernel.get_value(), dtype)


def _numbers(value: Any, dtype) -> jax.Array:
    value = jax.tree.map(jnp.asarray, pieces.collected(value), is_leaf=_is_level)
    if hasattr(value, "qvalue"):
        import qwix

        value = qwix.dequantize(value)
    return value.astype(dtype)


def times(x: jax.Array, kernel: nnx.Variable, of=EVERY) -> jax.Array:
    """x W, of the outputs `of` alone; a W on several devices, or in a stack, is taken from
    where it lies here, and again for the gradient of x."""
    value: Any = kernel.get_value()
    if not (pieces.lie_apart(value) or _lie_in_stacks(value)):
        return x @ weight(kernel, x.dtype)[..., of]
    if of is EVERY:
        return _collecting(x, value)
    some = value.outputs(of) if pieces.is_piece(value) else weight(kernel, x.dtype)[..., of]
    return x @ some.astype(x.dtype)


@jax.custom_vjp
def _collecting(x: jax.Array, value: Any) -> jax.Array:
    return x @ _numbers(value, x.dtype)


def _back(value: Any, g: jax.Array):
    return g @ _numbers(value, g.dtype).mT, None  # a base has no gradient


_collecting.defvjp(lambda x, value: (_collecting(x, value), value), _back)


def times_rows(x: jax.Array, table: Any) -> jax.Array:
    """float32[..., V]: x T^T of a table T [V, D], in the type of x."""
    if pieces.is_piece(table):
        return _collecting_rows(x, table)
    return jnp.einsum("...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=jnp.float32)


@jax.custom_vjp
def _collecting_rows(x: jax.Array, table: Any) -> jax.Array:
    return times_rows(x, table.whole())


def _forth_rows(x: jax.Array, table: Any):
    return _collecting_rows(x, table), (table, x[..., :0])


def _back_rows(kept, g: jax.Array):
    table, like = kept
    return (g.astype(like.dtype) @ table.whole().astype(like.dtype)), None


_collecting_rows.defvjp(_forth_rows, _back_rows)


class Linear(nnx.Module):
    """kernel: [..., in, out]; bias: [..., out] or None. Leading axes are those of `stacked`."""

    def __init__(self, kernel: jax.Array, bias: jax.Array | None = None):
        self.kernel = nnx.Param(kernel)
        self.bias = None if bias is None else nnx.Param(bias)

    def __call__(self, x, of=EVERY):
        """[..., out] of x [..., in], or the outputs `of` int[n] alone."""
        y = times(x, self.kernel, of)
        return y if self.bias is None else y + self.bias[..., of].astype(x.dtype)

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
    none has a copy."""
    scores = scores or Scores(q.shape[-1] ** -0.5)
    (k, v, mask), (keys, values, reached) = own, read
    share = q.shape[-2] // k.shape[-2]
    grouped = q.reshape(*q.shape[:-2], k.shape[-2], share, q.shape[-1])
    product = lambda how, x: jnp.einsum(how, grouped, x, preferred_element_type=jnp.float32)
    hide = lambda worth, mask: jnp.where(mask[..., None, None, :, :], worth, MASKED)
    old = hide(scores(product("...tkgd,pkd->...kgtp", keys)), reached)
    new = hide(scores(product("...tkgd,...skd->...kgts", k)), mask)
    weights = jax.nn.softmax(jnp.concatenate([old, new], -1), -1).astype(v.dtype)
    of_old, of_new = weights[..., : keys.shape[0]], weights[..., keys.shape[0] :]
    mixed = jnp.einsum("...kgtp,pkd->...tkgd", of_old, values)
    return (mixed + jnp.einsum("...kgts,...skd->...tkgd", of_new, v)).reshape(q.shape)


@jax.tree_util.register_pytree_node_class
class Level:
    """One layer's array of a stack [L, ...], which is cut out of it where it is used: a stack that
    is shortened before it is scanned would be copied."""

    def __init__(self, stack: jax.Array, number: jax.Array):
        self.stack, self.number = stack, number

    def tree_flatten(self):
        return (self.stack, self.number), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)

    shape = property(lambda self: self.stack.shape[1:])
    ndim = property(lambda self: self.stack.ndim - 1)
    dtype = property(lambda self: self.stack.dtype)

    def __jax_array__(self) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(self.stack, self.number, keepdims=False)

    def __getitem__(self, key) -> jax.Array:
        return jnp.asarray(self)[key]

    def astype(self, dtype) -> jax.Array:
        return jnp.asarray(self).astype(dtype)


def _is_level(x) -> bool:
    return isinstance(x, Level)


def _lie_in_stacks(value: Any) -> bool:
    return any(_is_level(x) for x in jax.tree.leaves(value, is_leaf=_is_level))


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
