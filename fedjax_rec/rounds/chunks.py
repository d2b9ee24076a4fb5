"""A cohort in chunks: on one device one after another, or dealt to the devices of a mesh.

    sort the cohort by size;  for each chunk of c clients:  one step;  put back in its order

What a chunk needs is small and is used again by the next, which on a CPU keeps it in cache. Clients
of like length share a chunk, so the loop inside it runs as long as its longest client and pads
almost nothing, and one compiled loop serves them all. Where summaries add, chunked and unchunked
rounds are equal.

On a mesh of P devices, device p owns the clients p B to (p + 1) B - 1, B = ceil(N / P), and what
they keep. It plays those of the cohort that are its own, in as many chunks as they fill: no device
waits for another before all are done. Then sums are added over devices, lists joined, and what is
seen of clients put in the order of the cohort. Devices differ in how many of a drawn cohort they
own, and the fullest sets the time; of full participation each has its share.

Dimensions: `N` clients, `C` cohort, `c` clients a chunk, `n` uploads of all chunks, padding
included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from .. import rows, trees
from ..types import Cohort, PyTree, record


@record
class Block:
    """What the clients from `first` on keep, leaves [B, ...]: those that a device owns."""

    held: PyTree
    first: jax.Array


class Played(NamedTuple):
    """Of all chunks. held: leaves [N, ...]. total: what adds up. stacks: leaves [chunks, c, ...].
    seen: leaves [C, ...], in the order of `cohort.ids`; of padded clients 0. in_order([n, ...]) ->
    [C, ...] does the same."""

    held: PyTree
    total: PyTree
    stacks: PyTree
    seen: PyTree
    in_order: Callable


def in_chunks(step: Callable, held: tuple, cohort: Cohort, c: int) -> Played:
    """step(held, ids int32[c]) -> (held, adds, stack, seen) of each chunk of a cohort.

    held: a tuple of trees, leaves [N, ...], each read by `at` and written by `put` for these ids
    alone. adds: summed over chunks. stack: listed. seen: leaves [c, ...].
    """
    once = jax.jit(step, inline=True)  # traced once, for the outline of sums and for what runs
    return _dealt(once, held, cohort, c) if cohort.mesh else _in_turn(once, held, cohort, c)


def _in_turn(step, held, cohort: Cohort, c: int) -> Played:
    size, store = cohort.ids.shape[0], cohort.data
    order = jnp.argsort(-store.sizes(cohort.ids), stable=True)
    fill = jnp.full(-size % c, store.num_clients, jnp.int32)
    ids = jnp.concatenate([cohort.ids[order], fill])

    def in_order(x):
        x = x[:size]
        real = trees.leading(cohort.ids < store.num_clients, x)
        return jnp.where(real, jnp.zeros_like(x).at[order].set(x), jnp.zeros_like(x))

    def turn(carry, ids):
        held, total = carry
        held, adds, stack, seen = step(held, ids)
        return (held, rows.combine(total, adds)), (stack, seen)

    zero = rows.no_sum(jax.eval_shape(step, held, ids[:c])[1])
    (held, total), (stacks, seen) = jax.lax.scan(turn, (held, zero), ids.reshape(-1, c))
    flat = lambda x: in_order(x.reshape(-1, *x.shape[2:]))
    return Played(held, total, stacks, jax.tree.map(flat, seen), in_order)


def _dealt(step, held, cohort: Cohort, c: int) -> Played:
    mesh: Any = cohort.mesh
    (axis,), nobody, size = mesh.axis_names, cohort.data.num_clients, cohort.ids.shape[0]
    block = -(-nobody // mesh.size)
    most = min(size, block)  # clients of the cohort that one device may own
    turns = -(-most // c)
    long = lambda x, fill: jnp.concatenate([x[:most], jnp.full(turns * c - most, fill, x.dtype)])

    def own(held):
        """What a device makes of its clients."""
        first = jax.lax.axis_index(axis) * block
        mine = (first <= cohort.ids) & (cohort.ids < jnp.minimum(first + block, nobody))
        # Its own ones by size, and after them the others, who are nobody here.
        order = jnp.argsort(jnp.where(mine, -cohort.data.sizes(cohort.ids), 1), stable=True)
        ids = long(jnp.where(mine, cohort.ids, nobody)[order], nobody).reshape(turns, c)
        places = long(jnp.where(mine[order], order, size), size)

        def turn(i, carry):
            blocks, total, stacks, seen = carry
            blocks, adds, stack, sight = step(blocks, ids[i])
            put_in = lambda whole, x: jax.tree.map(lambda w, y: w.at[i].set(y), whole, x)
            return blocks, rows.combine(total, adds), put_in(stacks, stack), put_in(seen, sight)

        blocks, padding = tuple(Block(x, first) for x in held), jnp.full(c, nobody, jnp.int32)
        _, adds, stack, seen = jax.eval_shape(step, blocks, padding)
        if jax.tree.leaves(stack):  # lists know no zero but what padding makes
            stack = step(blocks, padding)[2]
        listed = lambda x: jnp.broadcast_to(x, (turns, *x.shape))
        empty = lambda x: jnp.zeros((turns, *x.shape), x.dtype)
        begin = (
            blocks,
            rows.no_sum(adds),
            jax.tree.map(listed, stack),
            jax.tree.map(empty, seen),
        )
        used = -(-mine.sum() // c)
        blocks, total, stacks, seen = jax.lax.fori_loop(0, used, turn, begin)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        seen = jax.tree.map(lambda x: _placed(flat(x), places, size), seen)
        summed = jax.tree.map(lambda x: _over_devices(x, axis), (total, seen))
        return tuple(x.held for x in blocks), summed, stacks, places

    whole, split = PartitionSpec(), PartitionSpec(axis)
    beyond = jnp.zeros(block * mesh.size - nobody, jnp.int32)  # whoever fills it, nobody reads it
    fill = lambda x: jnp.concatenate([x, x[beyond]])  # keys too, which cannot be padded by zeros
    specs = split, whole, split, split
    play = jax.shard_map(own, mesh=mesh, in_specs=split, out_specs=specs, check_vma=False)
    held, (total, seen), stacks, places = play(jax.tree.map(fill, held))
    held = jax.tree.map(lambda x: x[:nobody], held)
    return Played(held, total, stacks, seen, lambda x: _placed(x, places, size))


def _placed(x: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """x [n, ...] at `places` of [size, ...], and 0 elsewhere."""
    return jnp.zeros((size, *x.shape[1:]), x.dtype).at[places].set(x, mode="drop")


def _over_devices(x: jax.Array, axis: str) -> jax.Array:
    """What `rows.combine` makes of all devices."""
    if x.dtype == bool:
        return jax.lax.psum(x.astype(jnp.int32), axis) > 0
    return jax.lax.psum(x, axis)


def at(tree: PyTree, ids: jax.Array) -> PyTree:
    """The slices `ids` of leaves [N, ...], or of blocks; of padding any."""
    if isinstance(tree, Block):
        return at(tree.held, ids - tree.first)
    if type(tree) is tuple:
        return tuple(at(one, ids) for one in tree)
    return jax.tree.map(lambda x: x.at[ids].get(mode="clip"), tree)


def put(tree: PyTree, ids: jax.Array, new: PyTree) -> PyTree:
    """`tree` with the slices `ids` replaced, in its types; padding vanishes."""
    if isinstance(tree, Block):
        return Block(put(tree.held, _inside(tree, ids), new), tree.first)
    if type(tree) is tuple:
        return tuple(put(one, ids, its) for one, its in zip(tree, new, strict=True))
    return jax.tree.map(lambda x, y: x.at[ids].set(y.astype(x.dtype), mode="drop"), tree, new)


def _inside(block: Block, ids: jax.Array) -> jax.Array:
    """Places of `ids` in a block; beyond its end for those of other blocks."""
    if not (leaves := jax.tree.leaves(block.held)):
        return ids
    size, place = leaves[0].shape[0], ids - block.first
    return jnp.where((place >= 0) & (place < size), place, size)
