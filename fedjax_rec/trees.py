"""Pytree arithmetic, `Frozen`, the node around leaves that are never trained, and `Told`, the node
around numbers of a state that are for the metrics of a round."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from .types import PyTree, record

# Numbers a client below which leaving clients out of a sum costs less than asking whether to.
SMALL = 1024


@record
class Frozen:
    """Leaves that live once, are broadcast into the `vmap`, and travel to a client only once."""

    value: Any


@record
class Told:
    """Numbers that a part of a strategy tells of the last round, in its state: float32[] by the
    names that they have in the metrics of a run. NaN for what was not there to be told."""

    numbers: Any


def told(tree: PyTree) -> dict[str, Any]:
    """The numbers of all `Told` nodes of `tree`; a name that several have is numbered, `name_2`."""
    found: dict[str, Any] = {}
    for node in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Told)):
        for name, x in node.numbers.items() if isinstance(node, Told) else ():
            names = itertools.chain([name], (f"{name}_{i}" for i in itertools.count(2)))
            found[next(free for free in names if free not in found)] = x
    return found


def is_frozen(node) -> bool:
    return isinstance(node, Frozen)


def trainable(tree: PyTree) -> PyTree:
    """`tree` with every frozen value left out; the same structure otherwise."""
    return jax.tree.map(lambda x: Frozen(None) if is_frozen(x) else x, tree, is_leaf=is_frozen)


def frozen(tree: PyTree) -> list[Frozen]:
    """The frozen nodes of `tree`, in order."""
    return [x for x in jax.tree.leaves(tree, is_leaf=is_frozen) if is_frozen(x)]


def with_frozen(tree: PyTree, source: PyTree) -> PyTree:
    """`tree`, from `trainable`, with the frozen values of `source` put back."""
    values = iter(frozen(source))
    return jax.tree.map(lambda x: next(values) if is_frozen(x) else x, tree, is_leaf=is_frozen)


def unshared(tree: PyTree) -> PyTree:
    """`tree`, in which an array that stands in several places is copied for all but the first: one
    buffer cannot be donated twice."""
    seen = set()

    def one(x):
        if not isinstance(x, jax.Array):
            return x
        try:
            place = x.unsafe_buffer_pointer()
        except Exception:  # of keys, and of arrays on several devices
            place = id(x)
        if place in seen:
            return x.copy()
        seen.add(place)
        return x

    return jax.tree.map(one, tree)


def add(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, a, b)


def subtract(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, a, b)


def scale(tree: PyTree, factor) -> PyTree:
    return jax.tree.map(lambda x: x * factor, tree)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros of every leaf's shape and dtype; outlines (`ShapeDtypeStruct`) become arrays."""
    return jax.tree.map(jnp.zeros_like, tree)


def typed_as(tree: PyTree, like: PyTree) -> PyTree:
    """`tree` with its floats in the types of `like`: a traced number is float32, and widens what a
    number of the program leaves narrow."""

    def one(x, old):
        floating = jnp.issubdtype(jnp.result_type(old), jnp.floating)
        return jnp.asarray(x, jnp.result_type(old)) if floating else x

    return jax.tree.map(one, tree, like)


def widened(tree: PyTree) -> PyTree:
    """`tree` with its floats in float32 at least."""

    def one(x):
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32)) if floating else x

    return jax.tree.map(one, tree)


def leading(mask: jax.Array, x: jax.Array) -> jax.Array:
    """`mask` [c] in the shape in which it broadcasts against x [c, ...]."""
    return mask.reshape(mask.shape + (1,) * (x.ndim - 1))


def select(condition: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """`a` where the scalar condition holds, else `b`."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def select_each(there: jax.Array, a: PyTree, b: PyTree) -> PyTree:
    """`select` by client: leaves [c, ...] of `a` where `there` [c] holds, else of `b`."""
    return jax.tree.map(lambda x, y: x if x is y else jnp.where(leading(there, x), x, y), a, b)


def weighted_sum(weights: jax.Array, tree: PyTree) -> PyTree:
    """sum_k weights[k] * leaf[k] for leaves [c, ...], in float32 at least.

    What weighs 0 is not looked at: it may be NaN. A matrix product: on CPU a reduction over the
    leading axis took 80% of a round.
    """
    weigh = jnp.asarray(weights, jnp.float32)

    def one(x):
        flat = x.reshape(x.shape[0], -1)
        total = lambda flat: jnp.matmul(weigh, flat, precision="highest")
        some = lambda flat: total(jnp.where(weigh[:, None] != 0, flat, 0))
        if flat.shape[1] < SMALL:
            return some(flat).reshape(x.shape[1:])
        # The copy is made where there is anybody to leave out.
        return jax.lax.cond((weigh != 0).all(), total, some, flat).reshape(x.shape[1:])

    return jax.tree.map(one, tree)


def nbytes(tree: PyTree) -> int:
    """Bytes of all leaves, from shapes alone (arrays or `jax.ShapeDtypeStruct`)."""

    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of `tree` by their key path, such as "['project'].kernel"."""
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def with_values(tree: PyTree, values: Mapping[str, Any]) -> tuple[PyTree, list[str]]:
    """(`tree` with the leaves that `values` has by key path, the names of these).

    A value fits whether one of the two is frozen or not, and whether or not the one or the other
    has more beside a "model". Raises ValueError for a value of another shape.
    """
    plain = {plain_name(name): value for name, value in values.items()}
    taken = []

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        value = plain.get(plain_name(name))
        if value is None:
            return x
        if value.shape != x.shape:
            raise ValueError(
                f"{name} is {list(x.shape)} and its value to start from {list(value.shape)}; give "
                "both models the same sizes, users, items and texts."
            )
        taken.append(name)
        return jnp.array(value, x.dtype)  # a copy: a run is given its state, and takes it up

    return jax.tree_util.tree_map_with_path(leaf, tree), taken


def plain_name(name: str) -> str:
    """A key path, whether what it names is frozen, and within a "model", or not."""
    return name.removeprefix("['model']").removesuffix(".value")
