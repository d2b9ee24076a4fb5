"""x W of the frozen weights of linear layers, wherever these lie.

    forth   y = x W        back   g W^T,  with W taken from where it lies once more

A weight may be a whole array, quantised (`models.quantised`), in pieces on several devices
(`pieces.Piece`), or one layer of a stack, a `Level`. A base has no gradient, and nothing that was
made of one for the forward pass is kept for the other.

`V` vocabulary, `D` width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ... import pieces

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
        return kept_out(x, value)
    some = value.outputs(of) if pieces.is_piece(value) else weight(kernel, x.dtype)[..., of]
    return x @ some.astype(x.dtype)


@jax.custom_vjp
def kept_out(x: jax.Array, value: Any) -> jax.Array:
    """x W of the value of a kernel, of which the gradient of x keeps `value` alone."""
    return x @ _numbers(value, x.dtype)


def _back(value: Any, g: jax.Array):
    return g @ _numbers(value, g.dtype).mT, None  # a base has no gradient


kept_out.defvjp(lambda x, value: (kept_out(x, value), value), _back)


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
