"""A frozen base that several devices hold together, a piece of each large array on each of them.

Of K devices along an axis of a mesh, device k has columns, or rows, k n / K to (k + 1) n / K of an
array. Inside `jax.shard_map` an array of which a device has a piece stands as a `Piece`; what needs
all of it collects it where it is used, and lets it go again:

    W = all_gather(W_k),   y = x W            (`Piece.whole`; FSDP, Zhao et al., VLDB 2023)
    ids -> all devices -> their columns       (`Piece[ids]`, which no device needs the table for)

so that beside its pieces a device has one linear layer of the base at a time. Nothing of a base has
a gradient: the backward pass collects again, and keeps no layer from the forward one
(`models.transformers.products.times`).

Or a `Share` stands there, of a linear layer whose weight stays where it lies: what goes into it
comes to the weight, and what comes out goes home (`models.transformers.by_heads`; Shoeybi et al.,
"Megatron-LM", 2019). Which of the two is said by the name of the axis, `AXIS` or `HEADS`, and how
an array is cut by a function of its name and shape, `by_layers` or `by_heads`. Devices wait for
each other wherever they collect.

`K` devices of the axis, `D` the last axis of an array.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .trees import Frozen, is_frozen
from .types import PyTree

AXIS, HEADS = "base", "heads"
ALONE, BY_LAYERS = "use base_devices=1", "use base_by=layers"
# Names of frozen variables that models read by pieces, and the axes along which they may be cut, in
# order of choice: linear layers so that what is collected lies as it is used, tables by columns.
CUT = {"kernel": (-2, -1), "tokens": (-1,), "words": (-1,), "states": (-1,)}
# Linear layers of a block, and along which axis those that stay where they lie are cut: by what
# comes out of them, which is heads and inner numbers, or by what of these goes in.
SHARED = {
    "query": -1, "key": -1, "value": -1, "gate": -1, "up": -1, "output": -2, "out": -2, "down": -2,
}  # fmt: skip
# Bytes of an array that is no trip worth.
SMALL = 2**10
_mesh: ContextVar[Mesh | None] = ContextVar("mesh of the base", default=None)


@jax.tree_util.register_pytree_node_class
class Piece:
    """Stands where a model has an array, inside `jax.shard_map` on a mesh with `AXIS`.

    block: what this device has of it. along: the axis that is cut, counted from the end, so that it
    is the same of one layer of a stack. over: the axis of the mesh. What takes it for an array
    collects it."""

    def __init__(self, block: jax.Array, along: int, over: str = AXIS):
        self.block, self.along, self.over = block, along, over

    def tree_flatten(self):
        return (self.block,), (self.along, self.over)

    @classmethod
    def tree_unflatten(cls, told, children):
        (block,) = children
        return cls(block, *told)

    shape = property(lambda self: _whole_shape(self.block, self.along, self.over))
    dtype = property(lambda self: self.block.dtype)
    ndim = property(lambda self: self.block.ndim)

    def whole(self) -> jax.Array:
        """All of it, on every device."""
        axis = self.block.ndim + self.along
        return jax.lax.all_gather(jnp.asarray(self.block), self.over, axis=axis, tiled=True)

    def outputs(self, of) -> jax.Array:
        """[..., in, n]: all of the outputs `of` int[n]."""
        if self.along == -1:
            return self.whole()[..., of]
        return Piece(self.block[..., of], self.along, self.over).whole()

    def __getitem__(self, key) -> Any:
        if key is Ellipsis:
            return self
        keys = key if isinstance(key, tuple) else (key,)
        by_ids = all(hasattr(k, "dtype") and jnp.issubdtype(k.dtype, jnp.integer) for k in keys)
        if not by_ids or self.along != -1 or len(keys) >= self.ndim:
            return self.whole()[key]
        asked = [jax.lax.all_gather(k, self.over) for k in jnp.broadcast_arrays(*keys)]
        mine = self.block[tuple(asked)]  # [K, ..., D / K]
        return jax.lax.all_to_all(mine, self.over, 0, mine.ndim - 1, tiled=True)[0]

    def astype(self, dtype) -> jax.Array:
        return self.whole().astype(dtype)

    def __jax_array__(self) -> jax.Array:
        return self.whole()


@jax.tree_util.register_pytree_node_class
class Share:
    """Stands where a model has the weight of a linear layer, inside `jax.shard_map` on a mesh with
    `HEADS`, of which each device works on what it has, `block`, as in `Piece`. What takes it for an
    array is refused."""

    def __init__(self, block: jax.Array, along: int):
        self.block, self.along = block, along

    def tree_flatten(self):
        return (self.block,), self.along

    @classmethod
    def tree_unflatten(cls, along, children):
        (block,) = children
        return cls(block, along)

    shape = property(lambda self: _whole_shape(self.block, self.along, HEADS))
    dtype = property(lambda self: self.block.dtype)
    ndim = property(lambda self: self.block.ndim)

    def __getitem__(self, key) -> Any:
        return self if key is Ellipsis else refuse_whole()

    def astype(self, dtype) -> Any:
        return refuse_whole()

    def __jax_array__(self) -> Any:
        return refuse_whole()


def refuse_whole() -> Any:
    """Raises ValueError, of a layer that needs a weight or an input that is on no device alone."""
    raise ValueError(
        "base_by=heads: the model reads a linear layer of the base in a way that is not divided by "
        "heads; those of decoders and of encoders like BERT are, alone or with LoRA beside them; "
        f"{BY_LAYERS}."
    )


def _whole_shape(block: jax.Array, along: int, over: str) -> tuple[int, ...]:
    size = list(block.shape)
    size[along] *= jax.lax.axis_size(over)
    return tuple(size)


def is_piece(x) -> bool:
    return isinstance(x, Piece)


def is_share(x) -> bool:
    return isinstance(x, Share)


def lie_apart(value: PyTree) -> bool:
    """Whether something of `value` is a `Piece`."""
    return any(is_piece(x) for x in jax.tree.leaves(value, is_leaf=is_piece))


def shares(value: PyTree) -> list[Share]:
    """Those in `value`."""
    return [x for x in jax.tree.leaves(value, is_leaf=is_share) if is_share(x)]


def collected(value: PyTree) -> PyTree:
    """`value` with all of each `Piece`."""
    return jax.tree.map(lambda x: x.whole() if is_piece(x) else x, value, is_leaf=is_piece)


def here(value: PyTree) -> PyTree:
    """`value` with what this device has of each `Share`."""
    return jax.tree.map(lambda x: x.block if is_share(x) else x, value, is_leaf=is_share)


@dataclass(frozen=True)
class Cut:
    """How an array lies on several devices. along: its axis that is cut, counted from the end.
    over: that of the mesh. stands(block, along): what a model has in its place."""

    along: int
    over: str
    stands: Callable[[Any, int], Any]


def over(mesh: Any) -> str | None:
    """The axis of a mesh along which devices hold a base together; None where each has all."""
    return None if mesh is None else next((axis for axis in LAYOUTS if axis in mesh.shape), None)


def count(mesh: Any) -> int:
    """K: how many devices of a mesh hold a base together; 1 where each has all of it."""
    axis = over(mesh)
    return 1 if axis is None else mesh.shape[axis]


def leaves(shared: PyTree) -> list[Any]:
    """Of the frozen values of a model, in order."""
    return jax.tree.leaves([x for _, x in _frozen(shared)])


def cuts(shared: PyTree, mesh: Any) -> list[Cut | None]:
    """How each of `leaves(shared)` lies on a mesh, None for those of which every device has all."""
    return [
        cut(tuple(str(getattr(part, "key", "")) for part in path), x, mesh)
        for path, node in _frozen(shared)
        for x in jax.tree.leaves(node.value)
    ]


def cut(names: tuple[str, ...], x, mesh: Any) -> Cut | None:
    """How an array lies whose place in a model is `names`."""
    axis = over(mesh)
    return None if axis is None or not names else LAYOUTS[axis](names, x, count(mesh))


def by_layers(names: tuple[str, ...], x, devices: int, over: str = AXIS) -> Cut | None:
    """What is collected where it is used; None for what is small, what nothing reads by pieces, and
    where K divides no axis."""
    name, large = names[-1], math.prod(x.shape) * x.dtype.itemsize >= SMALL
    if name not in CUT or x.ndim < 2 or not large:
        return None
    along = next((a for a in CUT[name] if x.shape[a] % devices == 0), None)
    return None if along is None else Cut(along, over, partial(Piece, over=over))


def by_heads(names: tuple[str, ...], x, devices: int) -> Cut | None:
    """Linear layers of blocks stay where they lie, and the rest is as in `by_layers`. Raises
    ValueError where K does not divide what comes out of one, or goes in."""
    *_, layer, name = ("", *names)
    if name != "kernel" or layer not in SHARED:
        return by_layers(names, x, devices, HEADS)
    along = SHARED[layer]
    if x.shape[along] == 1:  # the scale that all inputs of a quantised one share
        return None
    if x.shape[along] % devices:
        what = "outputs" if along == -1 else "inputs, or tiles of them,"
        raise ValueError(
            f"base_devices={devices} does not divide the {x.shape[along]} {what} of {layer}, which "
            f"devices would hold by heads; use fewer base devices, or base_by=layers."
        )
    return Cut(along, HEADS, Share)


LAYOUTS = {AXIS: by_layers, HEADS: by_heads}


def spec(x, how: Cut | None) -> PartitionSpec:
    """Where an array lies that is cut so."""
    axes: list[str | None] = [None] * x.ndim
    if how is not None:
        axes[how.along] = how.over
    return PartitionSpec(*axes)


def with_pieces(shared: PyTree, blocks: Sequence, cuts: Sequence[Cut | None]) -> PyTree:
    """`shared` with `blocks`, what this device has of the frozen leaves that are cut, in order."""
    given, each = iter(blocks), iter(cuts)

    def one(x):
        how = next(each)
        return x if how is None else how.stands(next(given), how.along)

    put = lambda node: Frozen(jax.tree.map(one, node.value)) if is_frozen(node) else node
    return jax.tree.map(put, shared, is_leaf=is_frozen)


def alike(x: jax.Array) -> jax.Array:
    """The largest `x` of the devices that hold a base together, which then turn as often in loops;
    `x` itself where none do."""
    for axis in LAYOUTS:
        try:
            return jax.lax.pmax(x, axis)
        except NameError:  # no such axis here
            continue
    return x


@contextmanager
def bases_on(mesh: Mesh | None) -> Iterator[None]:
    """Within it, weights are read straight to where they lie on a mesh, see `loaded`."""
    before = _mesh.set(mesh)
    try:
        yield
    finally:
        _mesh.reset(before)


def loaded(names: tuple[str, ...], x: np.ndarray) -> jax.Array:
    """`x`, which was read from a file, on the device, or its pieces on the devices of `bases_on`:
    none of them has all of it, not for a moment. names: its place in a model."""
    mesh = _mesh.get()
    how = cut(names, x, mesh)
    if mesh is None or how is None:
        return jnp.asarray(x)
    return jax.device_put(x, NamedSharding(mesh, spec(x, how)))


def _frozen(shared: PyTree) -> list[tuple[Any, Frozen]]:
    nodes = jax.tree_util.tree_flatten_with_path(shared, is_leaf=is_frozen)[0]
    return [(path, x) for path, x in nodes if is_frozen(x)]
