"""Arrays of a state that no process has whole, in a run of several processes.

    x [N, ...]  ->  [B P, ...], B = ceil(N / P): a block of B clients on each of P devices

A compiled call takes and gives arrays that devices divide evenly, which N clients seldom are. So
what clients keep is filled up between calls, and cut inside them; outside it stands as `Spread`, in
the shape that it has. Before a checkpoint is written a process takes the `Blocks` that are its own,
and where it reads one, `Filed` reads the rows that its devices ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..rounds.chunks import filled
from ..types import State


@dataclass(frozen=True, eq=False)
class Spread:
    """Stands for an array of `shape` [N, ...] that lies with several processes. array: [B P, ...].
    A leaf of a state, and no array: `simulate.gathered` makes one of it."""

    array: jax.Array
    shape: tuple[int, ...]

    dtype = property(lambda self: self.array.dtype)
    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape)))

    def copy(self) -> Spread:
        return replace(self, array=self.array.copy())


@dataclass(frozen=True, eq=False)
class Blocks:
    """Of an array of `shape`, on the host: the blocks of rows that this process has. spans:
    int64[K, 3], of each block the process that writes it, its first row, and the row after its
    last. own: this process's, by their first row."""

    shape: tuple[int, ...]
    dtype: np.dtype
    spans: np.ndarray
    own: Mapping[int, np.ndarray]

    size = property(lambda self: int(np.prod(self.shape)))

    def copy(self) -> Blocks:
        return replace(self, own={begin: np.array(x) for begin, x in self.own.items()})


@dataclass(frozen=True, eq=False)
class Filed:
    """Stands for an array of `shape` in files. rows(begin, end) reads some of its rows."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray]

    ndim = property(lambda self: len(self.shape))
    size = property(lambda self: int(np.prod(self.shape)))

    def __getitem__(self, at: slice | tuple[slice, ...]) -> np.ndarray:
        first, *rest = at if isinstance(at, tuple) else (at,)
        begin, end, _ = first.indices(self.shape[0])
        return self.rows(begin, end)[(slice(None), *rest)]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.rows(0, self.shape[0]), dtype)


def lengths(state: State, mesh: Mesh | None, num_clients: int) -> list[int | None]:
    """For each leaf of a state, or of its outline, how many rows it is filled up to, B P, or was
    already; None of what is no client's, and where one process has all devices."""
    leaves = jax.tree.leaves(state)
    if mesh is None or jax.process_count() == 1:
        return [None] * len(leaves)
    kept = {id(x) for x in jax.tree.leaves((state.private, state.memory))}
    rows = -(-num_clients // mesh.size) * mesh.size
    of_clients = lambda x: id(x) in kept and x.ndim and x.shape[0] in (num_clients, rows)
    return [rows if of_clients(x) else None for x in leaves]


def by_clients(mesh: Mesh) -> NamedSharding:
    """Where what clients keep lies: a block on each device."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def long(x: Any, size: int | None) -> Any:
    """`x` filled up to so many rows, while a program is traced; or the outline of that."""
    if size is None or x.shape[0] == size:
        return x
    if isinstance(x, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    return filled(x, size)


def long_rows(x: Any, at: tuple[slice, ...], size: int) -> np.ndarray:
    """What `long(x, size)[at]` is, of an array of the host, or in files, which is read there."""
    begin, end, _ = at[0].indices(size)
    there = min(max(x.shape[0] - begin, 0), end - begin)
    found = x[(slice(begin, begin + there), *at[1:])]
    if there == end - begin:
        return found
    first = x[(slice(0, 1), *at[1:])]
    return np.concatenate([found, np.repeat(first, end - begin - there, 0)])


def spread(array: jax.Array, shape: tuple[int, ...]) -> Spread | jax.Array:
    """What a call gave, as it stands outside."""
    return array if array.shape == shape else Spread(array, shape)


def nobodys(x: Any) -> Any:
    """Of what clients keep and no process has whole, a slice that is nobody's, [1, ...] of zeros;
    all else as it is."""
    if (isinstance(x, jax.Array) and x.is_fully_addressable) or not hasattr(x, "dtype"):
        return x
    if isinstance(x, np.ndarray | jax.ShapeDtypeStruct):
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        array = x.array if isinstance(x, Spread) else x
        return jax.random.split(jax.random.key(0, impl=jax.random.key_impl(array)), 1)
    return np.zeros((1, *x.shape[1:]), x.dtype)


def blocks_of(x: Spread | jax.Array) -> Blocks | None:
    """The blocks of rows of an array that lies with several processes; None where it does not lie
    in such."""
    array, shape = (x.array, x.shape) if isinstance(x, Spread) else (x, x.shape)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) or not array.ndim:
        return None
    found: dict[tuple[int, int], Any] = {}
    for device, (rows, *rest) in array.sharding.devices_indices_map(array.shape).items():
        if any(a.indices(n)[:2] != (0, n) for a, n in zip(rest, array.shape[1:], strict=True)):
            return None
        begin, end, _ = rows.indices(array.shape[0])
        if begin < min(end, shape[0]):
            found.setdefault((begin, min(end, shape[0])), device)
    here = {shard.device: shard.data for shard in array.addressable_shards}
    own = {
        begin: np.asarray(here[device])[: end - begin]
        for (begin, end), device in found.items()
        if device in here
    }
    spans = [(device.process_index, *span) for span, device in sorted(found.items())]
    return Blocks(shape, np.dtype(array.dtype), np.array(spans, np.int64), own)
