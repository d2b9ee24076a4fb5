"""A frozen base that several devices hold together, a piece of each large array on each of them.

Of K devices along an axis of a mesh, device k has columns, or rows, k n / K to (k + 1) n / K of an
array. Inside `jax.shard_map` an array of which a device has a piece stands as a `Piece`; what needs
all of it collects it where it is used, and lets it go again:

    W = all_gather(W_k),   y = x W            (`Piece.whole`; FSDP, Zhao et al., VLDB 2023)
    ids -> all devices -> their columns       (`Piece[ids]`, which no device needs the table for)

so that beside its pieces a device has one linear layer of the base at a time. Nothing of a base has
a gradient: the backward pass collects again, and keeps no layer from the forward one
(`models.transformers.layers.times`). Devices wait for each other wherever they collect.

`K` devices of the axis, `D` the last axis of an array.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .trees import Frozen, is_frozen
from .types import PyTree

AXIS = "base"
ALONE = "use base_devices=1"
# Names of frozen variables that models read by pieces, and the axes along which they may be cut, in
# order of choice: linear layers so that what is collected lies as it is used, tables by columns.
CUT = {"kernel": (-2, -1), "tokens": (-1,), "words": (-1,), "states": (-1,)}
# Bytes of an array that is no trip worth.
SMALL = 2**10
_mesh: ContextVar[Mesh | None] = ContextVar("mesh of the base", default=None)


@jax.tree_util.register_pytree_node_class
class Piece:
    """Stands where a model has an array, inside `jax.shard_map` on a mesh with `AXIS`.

    block: what this device has of it. along: the axis that is cut, counted from the end, so that it
    is the same of one layer of a stack. What takes it for an array collects it."""

    def __init__(self, block: jax.Array, along: int):
        self.block, self.along = block, along

    def tree_flatten(self):
        return (self.block,), self.along

    @classmethod
    def tree_unflatten(cls, along, children):
        (block,) = children
        return cls(block, along)

    @property
    def shape(self) -> tuple[int, ...]:
        size = list(self.block.shape)
        size[self.along] *= jax.lax.axis_size(AXIS)
        return tuple(size)

    dtype = property(lambda self: self.block.dtype)
    ndim = property(lambda self: self.block.ndim)

    def whole(self) -> jax.Array:
        """All of it, on every device."""
        axis = self.block.ndim + self.along
        return jax.lax.all_gather(jnp.asarray(self.block), AXIS, axis=axis, tiled=True)

    def outputs(self, of) -> jax.Array:
        """[..., in, n]: all of the outputs `of` int[n]."""
        if self.along == -1:
            return self.whole()[..., of]
        return Piece(self.block[..., of], self.along).whole()

    def __getitem__(self, key) -> Any:
        if key is Ellipsis:
            return self
        keys = key if isinstance(key, tuple) else (key,)
        by_ids = all(hasattr(k, "dtype") and jnp.issubdtype(k.dtype, jnp.integer) for k in keys)
        if not by_ids or self.along != -1 or len(keys) >= self.ndim:
            return self.whole()[key]
        asked = [jax.lax.all_gather(k, AXIS) for k in jnp.broadcast_arrays(*keys)]
        mine = self.block[tuple(asked)]  # [K, ..., D / K]
        return jax.lax.all_to_all(mine, AXIS, 0, mine.ndim - 1, tiled=True)[0]

    def astype(self, dtype) -> jax.Array:
        return self.whole().astype(dtype)

    def __jax_array__(self) -> jax.Array:
        return self.whole()


def is_piece(x) -> bool:
    return isinstance(x, Piece)


def lie_apart(value: PyTree) -> bool:
    """Whether something of `value` is a `Piece`."""
    return any(is_piece(x) for x in jax.tree.leaves(value, is_leaf=is_piece))


def collected(value: PyTree) -> PyTree:
    """`value` with all of each `Piece`."""
    return jax.tree.map(lambda x: x.whole() if is_piece(x) else x, value, is_leaf=is_piece)


def count(mesh: Any) -> int:
    """K: how many devices of a mesh hold a base together; 1 where each has all of it."""
    return 1 if mesh is None else mesh.shape.get(AXIS, 1)


def leaves(shared: PyTree) -> list[Any]:
    """Of the frozen values of a model, in order."""
    return jax.tree.leaves([x for _, x in _frozen(shared)])


def cuts(shared: PyTree, devices: int) -> list[int | None]:
    """Along which axis each of `leaves(shared)` is cut, None for those of which every device has
    all: they are small, nothing reads them by pieces, or K divides none of their axes."""
    return [
        cut(str(getattr(path[-1], "key", "")) if path else "", x, devices)
        for path, node in _frozen(shared)
        for x in jax.tree.leaves(node.value)
    ]


def cut(name: str, x, devices: int) -> int | None:
    """The axis, counted from the end, along which an array `name` is cut."""
    large = math.prod(x.shape) * x.dtype.itemsize >= SMALL
    if name not in CUT or x.ndim < 2 or not large or devices == 1:
        return None
    return next((a for a in CUT[name] if x.shape[a] % devices == 0), None)


def spec(x, along: int | None) -> PartitionSpec:
    """Where an array lies that is cut so."""
    axes: list[str | None] = [None] * x.ndim
    if along is not None:
        axes[along] = AXIS
    return PartitionSpec(*axes)


def with_pieces(shared: PyTree, blocks: Sequence, along: Sequence[int | None]) -> PyTree:
    """`shared` with `blocks`, what this device has of the frozen leaves that are cut, in order."""
    given, axes = iter(blocks), iter(along)

    def one(x):
        axis = next(axes)
        return x if axis is None else Piece(next(given), axis)

    put = lambda node: Frozen(jax.tree.map(one, node.value)) if is_frozen(node) else node
    return jax.tree.map(put, shared, is_leaf=is_frozen)


def alike(x: jax.Array) -> jax.Array:
    """The largest `x` of the devices that hold a base together, which then turn as often in loops;
    `x` itself where none do."""
    try:
        return jax.lax.pmax(x, AXIS)
    except NameError:  # no such axis here
        return x


@contextmanager
def bases_on(mesh: Mesh | None) -> Iterator[None]:
    """Within it, weights are read straight to where they lie on a mesh, see `loaded`."""
    before = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(before)


def loaded(name: str, x: np.ndarray) -> jax.Array:
    """`x`, which was read from a file, on the device, or its pieces on the devices of `bases_on`:
    none of them has all of it, not for a moment."""
    mesh = _mesh.get()
    along = cut(name, x, count(mesh))
    if mesh is None or along is None:
        return jnp.asarray(x)
    return jax.device_put(x, NamedSharding(mesh, spec(x, along)))


def _frozen(shared: PyTree) -> list[tuple[Any, Frozen]]:
    nodes = jax.tree_util.tree_flatten_with_path(shared, is_leaf=is_frozen)[0]
    return [(path, x) for path, x in nodes if is_frozen(x)]
