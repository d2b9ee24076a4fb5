"""Adapter factors in a pytree: where the pairs A, B of `models.lora` lie, and their components.

A layer with an adapter is a dict with the entries `kernel` [..., in, out], `lora_a` [..., in, r],
`lora_b` [..., r, out] and `lora_scale` [...], and means W + s A B. Component i of it is column i of
A and row i of B. Leading axes are those of layers that are stacked.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .rows import RowsUpdate, is_table, map_nodes_with_path
from .trees import Frozen, is_frozen
from .types import PyTree

A, B, CORE, KERNEL, SCALE = "lora_a", "lora_b", "lora_core", "kernel", "lora_scale"
# Where the components of each factor lie.
AXES = {A: -1, B: -2}


def is_pair(node) -> bool:
    """Whether `node` is a layer, or the update of one, of which A and B are both trained."""
    if not isinstance(node, dict) or A not in node or B not in node:
        return False
    return not is_frozen(node[A]) and not is_frozen(node[B])


def map_pairs(one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one(layer, *layers)` in place of each layer with a pair; everything else as it is."""
    return map_layers(is_pair, one, tree, *rest)


def map_layers(chosen: Callable, one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one(layer, *layers)` in place of each node that is `chosen`; everything else as it is."""
    return jax.tree.map(
        lambda x, *r: one(x, *r) if chosen(x) else x,
        tree,
        *rest,
        is_leaf=lambda x: chosen(x) or is_table(x) or is_frozen(x),
    )


def pairs(tree: PyTree) -> list[dict]:
    """The layers of `tree` with a pair, in order."""
    return [x for x in jax.tree.leaves(tree, is_leaf=is_pair) if is_pair(x)]


def rank(tree: PyTree) -> int:
    """The largest rank of the pairs; 0 without any."""
    return max((layer[A].shape[-1] for layer in pairs(tree)), default=0)


def first_a(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """A [..., in, r] as it begins: uniform within 1 / sqrt(in), as PEFT draws it (Kaiming's bound
    for a = sqrt 5)."""
    bound = shape[-2] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """[..., in, out]."""
    return jnp.matmul(a, b, precision="highest")


def squared_norm(a: jax.Array, b: jax.Array) -> jax.Array:
    """float[]: |A B|_F^2 over all layers, from the r x r Gram matrices of the factors."""
    left = jnp.einsum("...ir,...is->...rs", a, a, precision="highest")
    right = jnp.einsum("...ro,...so->...rs", b, b, precision="highest")
    return (left * right).sum()


def cut(layer: dict, held: jax.Array) -> dict:
    """`layer` of which the components below `held`, int32[], are kept and the others are zero.

    Those have no gradient, since each factor's is a product with the other: they stay zero.
    """
    keep = jnp.arange(layer[A].shape[-1]) < held
    a = jnp.where(keep, layer[A], 0)
    return {**layer, A: a, B: jnp.where(keep[:, None], layer[B], 0)}


def as_rows(tree: PyTree, live: Callable[[jax.Array], jax.Array]) -> PyTree:
    """`tree` with every factor as a `RowsUpdate` of one row a component.

    live(rows [r, n]) -> bool[r]: the components that there are.
    """

    def one(path, x):
        axis = _axis(path, x)
        if axis is None:
            return x
        rows = jnp.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
        return RowsUpdate(rows, None, live(rows), None, rows.shape[0])

    return map_nodes_with_path(one, tree)


def from_rows(tree: PyTree, like: PyTree) -> PyTree:
    """`tree`, from `as_rows`, with its factors in the shapes that they have in `like`."""

    def one(path, x, rows):
        axis = _axis(path, x)
        if axis is None:
            return rows
        shape = (x.shape[axis], *jnp.moveaxis(x, axis, 0).shape[1:])
        values = rows.values
        if rows.ids is not None:
            ids = jnp.where(rows.live, rows.ids, rows.size)
            values = jnp.zeros((rows.size, values.shape[-1]), values.dtype)
            values = values.at[ids].set(rows.values, mode="drop")
        return jnp.moveaxis(values.reshape(shape), 0, axis)

    return map_nodes_with_path(one, like, tree)


def with_product(layer: dict, value: PyTree) -> dict:
    """The update `layer` that says something of the frozen kernel as well."""
    return {**layer, KERNEL: Frozen(value)}


def _axis(path, x) -> int | None:
    """Where the components of the leaf at `path` lie; None of what is no factor."""
    last = getattr(path[-1], "key", None) if path else None
    return None if is_table(x) else AXES.get(str(last))
