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

Where the mesh has a second axis, `rows.AXIS`, clients are dealt to all of its devices, and the
tables of the model lie in blocks of rows along that axis: what a chunk touches comes from the
owners, see `rows.apart`, and sums of tables are blocks too. Devices along that axis wait for each
other in every chunk, so all of them play as many chunks as the fullest. So it is along
an axis of `pieces`, where devices hold the frozen base together.

Dimensions: `N` clients, `C` cohort, `c` clients a chunk, `n` uploads of all chunks, padding
included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from .. import pieces, rows, trees
from ..types import Cohort, PyTree, record
from .waiting import refuse_alone


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


def in_chunks(
    step: Callable, held: tuple, cohort: Cohort, c: int, shared: PyTree | None = None
) -> Played:
    """step(held, ids int32[c]) -> (held, adds, stack, seen) of each chunk of a cohort.

    held: a tuple of trees, leaves [N, ...], each read by `at` and written by `put` for these ids
    alone. adds: summed over chunks. stack: listed. seen: leaves [c, ...]. shared: the model that
    clients read row by row; where it is given, step(shared) is the step, and its tables may lie in
    blocks of rows. Raises ValueError on a mesh where they do and the step cannot be played.
    """
    if cohort.mesh is None:
        return _in_turn(_once(step if shared is None else step(shared)), held, cohort, c)
    if shared is None and shards(cohort.mesh) > 1:
        raise ValueError(
            "the strategy has each device hold whole tables, which here lie in blocks of rows on "
            f"{shards(cohort.mesh)} devices; {rows.ALONE}, or a strategy that is `federated`."
        )
    if shared is None and pieces.count(cohort.mesh) > 1:
        raise ValueError(
            "the strategy has each device hold the whole base, which here lies in pieces on "
            f"{pieces.count(cohort.mesh)} devices; {pieces.ALONE}, or a strategy that is "
            "`federated`."
        )
    return _dealt(step, held, cohort, c, shared)


def shards(mesh: Any) -> int:
    """R: how many devices of a mesh hold a table together; 1 where each has all of it."""
    return 1 if mesh is None else mesh.shape.get(rows.AXIS, 1)


def _once(step: Callable) -> Callable:
    """`step`, traced once for the outline of sums and for what runs."""
    return jax.jit(step, inline=True)


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


def _dealt(step, held, cohort: Cohort, c: int, shared: PyTree | None) -> Played:
    mesh: Any = cohort.mesh
    axes, nobody, size = mesh.axis_names, cohort.data.num_clients, cohort.ids.shape[0]
    others, parts = tuple(a for a in axes if a != rows.AXIS), shards(mesh)
    block = -(-nobody // mesh.size)
    most = min(size, block)  # clients of the cohort that one device may own
    turns = -(-most // c)
    long = lambda x, fill: jnp.concatenate([x[:most], jnp.full(turns * c - most, fill, x.dtype)])
    own_tables = [] if shared is None or parts == 1 else _values(shared)
    cuts = [] if shared is None else pieces.cuts(shared, mesh)
    base = [(x, how) for x, how in zip(_frozen(shared), cuts, strict=True) if how is not None]

    def own(held, tables, blocks_of_base):
        """What a device makes of its clients."""
        first = jax.lax.axis_index(axes) * block
        mine = (first <= cohort.ids) & (cohort.ids < jnp.minimum(first + block, nobody))
        # Its own ones by size, and after them the others, who are nobody here.
        order = jnp.argsort(jnp.where(mine, -cohort.data.sizes(cohort.ids), 1), stable=True)
        ids = long(jnp.where(mine, cohort.ids, nobody)[order], nobody).reshape(turns, c)
        places = long(jnp.where(mine[order], order, size), size)

        def turn(i, carry):
            blocks, total, stacks, seen = carry
            blocks, adds, stack, sight = play(blocks, ids[i])
            put_in = lambda whole, x: jax.tree.map(lambda w, y: w.at[i].set(y), whole, x)
            total = rows.combine(total, adds, parts)
            return blocks, total, put_in(stacks, stack), put_in(seen, sight)

        blocks, padding = tuple(Block(x, first) for x in held), jnp.full(c, nobody, jnp.int32)
        with rows.row_by_row():
            seen_so = shared if not base else pieces.with_pieces(shared, blocks_of_base, cuts)
            play = _once(step if shared is None else step(_apart(seen_so, tables)))
            _, adds, stack, seen = jax.eval_shape(play, blocks, padding)
        used = -(-mine.sum() // c)
        if tables:
            rows.refuse_waiting(play, blocks, padding)
            used = jax.lax.pmax(used, rows.AXIS)
        if base:
            refuse_alone(play, blocks, padding)
            used = pieces.alike(used)
        if jax.tree.leaves(stack):  # lists know no zero but what padding makes
            stack = play(blocks, padding)[2]
        listed = lambda x: jnp.broadcast_to(x, (turns, *x.shape))
        empty = lambda x: jnp.zeros((turns, *x.shape), x.dtype)
        begin = (
            blocks,
            rows.no_sum(adds, parts),
            jax.tree.map(listed, stack),
            jax.tree.map(empty, seen),
        )
        blocks, total, stacks, seen = jax.lax.fori_loop(0, used, turn, begin)
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        seen = jax.tree.map(lambda x: _placed(flat(x), places, size), seen)
        total, of_rows = rows.parted(total, adds) if tables else (total, None)
        summed = jax.tree.map(lambda x: _over_devices(x, axes), (total, seen))
        of_rows = jax.tree.map(lambda x: _over_devices(x, others), of_rows)
        return tuple(x.held for x in blocks), summed, of_rows, stacks, places

    whole, split = PartitionSpec(), PartitionSpec(axes)
    by_rows = PartitionSpec(rows.AXIS) if own_tables else whole
    fill = lambda x: filled(x, block * mesh.size)
    specs = split, whole, by_rows, split, split
    by_pieces = [pieces.spec(x, how) for x, how in base]
    play = jax.shard_map(
        own, mesh=mesh, in_specs=(split, by_rows, by_pieces), out_specs=specs, check_vma=False
    )
    held, (total, seen), of_rows, stacks, places = play(
        jax.tree.map(fill, held), own_tables, [x for x, _ in base]
    )
    if own_tables:
        total = rows.merge(total, of_rows)
        # What is listed goes to all owners, once and not in the loop that adds it.
        everywhere = NamedSharding(mesh, whole)
        stacks = jax.lax.with_sharding_constraint(stacks, everywhere)
    held = jax.tree.map(lambda x: x[:nobody], held)
    return Played(held, total, stacks, seen, lambda x: _placed(x, places, size))


def filled(x: jax.Array, size: int) -> jax.Array:
    """x [n, ...] as [size, ...], with its first slice in the new places. Written so that where
    devices have a block each, XLA leaves it there, which it does not with a concatenation."""
    if x.shape[0] == size:
        return x
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        of_keys = filled(jax.random.key_data(x), size)
        return jax.random.wrap_key_data(of_keys, impl=jax.random.key_impl(x))
    beyond = [(0, size - x.shape[0], 0), *[(0, 0, 0)] * (x.ndim - 1)]
    long = jax.lax.pad(x, jnp.zeros((), x.dtype), beyond)
    return jnp.where(trees.leading(jnp.arange(size) < x.shape[0], long), long, x[:1])


def _frozen(shared: PyTree | None) -> list:
    return [] if shared is None else pieces.leaves(shared)


def _values(shared: PyTree) -> list:
    """float[I, D] of the tables that are trained."""
    return [table.values for table in rows.tables(trees.trainable(shared))]


def _apart(shared: PyTree, blocks: list) -> PyTree:
    """`shared` with blocks of rows in place of these, or as it is where there are none."""
    if not blocks:
        return shared
    given = iter(blocks)
    laid = lambda table: replace(table, values=rows.Apart(next(given)))
    return trees.with_frozen(rows.map_tables(laid, trees.trainable(shared)), shared)


def _placed(x: jax.Array, places: jax.Array, size: int) -> jax.Array:
    """x [n, ...] at `places` of [size, ...], and 0 elsewhere."""
    return jnp.zeros((size, *x.shape[1:]), x.dtype).at[places].set(x, mode="drop")


def _over_devices(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    """What `rows.combine` makes of all devices."""
    if x.dtype == bool:
        return jax.lax.psum(x.astype(jnp.int32), axes) > 0
    return jax.lax.psum(x, axes)


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
