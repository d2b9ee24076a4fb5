"""The batches of one client's round, by the number of the turn, and the rows that they touch.

Batches are computed from a counter inside the loop, whose number of turns is that of the longest
client of the chunk, so one compiled loop serves clients of every length; a shorter client's last
turns are batches of padding, which change nothing. Where all examples of every client of the chunk
fit a smaller batch than was asked for, batches are of that size: it holds the same examples with
less padding, which is most of the work where batches are as long as the longest client.

Dimensions: `B` batch, `S` most examples of any client times ids per example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from .. import keys, rows, trees
from ..check import at_least
from ..rows.fields import ids_of, name_of, times
from ..types import Array, PyTree

# A table that a client could touch a quarter of is copied whole. To gather its rows, ids have to be
# sorted, which costs as much as to copy 4 to 20 rows, the fewer the wider they are.
CLOSE = 4
# Batches are not made smaller than that.
SMALLEST = 128


@dataclass(frozen=True)
class Passes:
    """How much a client does in a round: `epochs` over its examples, or `steps` batches whatever
    its size, in batches of `batch_size`. Raises ValueError for numbers below 1."""

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 256

    def __post_init__(self):
        at_least("local_training", "epochs", self.epochs, 1)
        at_least("local_training", "batch_size", self.batch_size, 1)
        if self.steps is not None:
            at_least("local_training", "steps", self.steps, 1)


@dataclass(frozen=True)
class Turns:
    """The batches of one client in one round.

    draw(t) -> batch of turn t, with `mask`. turns: int32[], of the longest client of the chunk.
    longest: int32[], its examples.
    count: uint32[], the client's own examples. key(name, t) -> the key of turn `t` in the stream
        `name`, by epoch and batch: the turn depends on the longest client of the chunk.
    most: different examples that any client trains on. ids: how many row ids an example has in
        each id field.
    """

    draw: Callable[..., dict[str, Array]]
    turns: Array
    longest: Array
    count: Array
    key: Callable[..., Array]
    most: int
    ids: dict[str, int]
    batch_size: int

    def loop(self, turn: Callable[..., PyTree], first: PyTree) -> PyTree:
        """`first` after carry <- turn(draw, t, carry) of all turns t, whose batch is draw(t)."""

        def of_size(size: int):
            draw = lambda t: self.draw(t, size)
            return lambda carry: jax.lax.fori_loop(0, self.turns, partial(turn, draw), carry)

        sizes = sizes_of(self.batch_size)
        fits = jnp.searchsorted(jnp.array(sizes[:-1]), self.longest)
        return jax.lax.switch(fits, [of_size(size) for size in sizes], first)


def sizes_of(batch_size: int) -> list[int]:
    """That a batch may have, the whole one last: each the quarter of the next or more, since each
    is a program of its own."""
    sizes, size = [batch_size], SMALLEST
    while 2 * size < batch_size:
        sizes.insert(-1, size)
        size *= 4
    return sizes


def turns_of(batches, passes: Passes, key: jax.Array, data) -> Turns:
    """The turns of the client that holds `data`; the same key gives the same examples."""
    epochs, steps, most = passes.epochs, passes.steps, batches.most(data.store)
    _refuse_too_many(most, passes)
    batch_size = min(passes.batch_size, max(most, 1))
    seed = keys.words(keys.stream(key, "examples"), 4)
    count = batches.count(data).astype(jnp.uint32)
    if batches.longest is None:
        longest = batches.count(replace(data, length=data.longest))
    else:
        longest = batches.longest(data)
    cycle = -(-longest // batch_size)
    turns = epochs * cycle
    if steps is not None:
        # Each client goes round its own batches until it has taken its steps.
        turns = jnp.where(cycle > 0, steps, 0)
        cycle = -(-count.astype(jnp.int32) // batch_size)
    cycle = jnp.maximum(cycle, 1)

    def draw(turn, size=batch_size):
        epoch = (turn // cycle).astype(jnp.uint32)
        place = (turn % cycle).astype(jnp.uint32) * batch_size
        place = place + jnp.arange(size, dtype=jnp.uint32)
        real = place < count
        order = keys.mix(seed[:2] + epoch)
        number = _once(
            lambda: keys.permute(jnp.where(real, place, 0), jnp.maximum(count, 1), order),
            longest,
        )
        batch = _once(lambda: batches.draw(seed[2:], data, jnp.where(real, number, 0)), longest)
        return {**batch, "mask": real.astype(jnp.float32)}

    if steps is not None:
        most = min(most, steps * batch_size)

    def key_of(name, turn):
        of_epoch = jax.random.fold_in(keys.stream(key, name), turn // cycle)
        return jax.random.fold_in(of_epoch, turn % cycle)

    ids = batches.ids_in(data.store)
    return Turns(draw, turns, longest, count, key_of, most, ids, batch_size)


def _refuse_too_many(most: int, passes: Passes) -> None:
    """Raises ValueError where examples or batches of a round are more than an int32 counts."""
    batches = passes.steps or passes.epochs * -(-most // passes.batch_size)
    for what, count, less in (
        ("examples of one client", most + passes.batch_size, "draw fewer negatives"),
        ("batches of one client in a round", batches, "use fewer epochs or steps"),
    ):
        if count >= 2**31:
            raise ValueError(
                f"{count} {what} are more than 2^31 - 1, which a round can count; {less}, or deal "
                "the users to more clients (data.by_hash)."
            )


def _once(compute: Callable[[], PyTree], positive: jax.Array) -> PyTree:
    """`compute()`, stored. positive: any number that is above 0, which XLA must not know.

    XLA on CPU computes a cheap-looking chain again in every fusion that reads it, and drops an
    optimization barrier before it fuses: drawing a batch seven times over was two thirds of a
    round. The result of a loop is computed once, so this is a loop of one turn.
    """
    zeros = trees.zeros_like(jax.eval_shape(compute))
    return jax.lax.fori_loop(0, jnp.minimum(positive, 1), lambda _, __: compute(), zeros)


def localize(shared: PyTree, turns: Turns) -> PyTree:
    """`shared` with each table as a `LocalTable` of what the batches of the round touch.

    All that a client trains on lies in the first ceil(most / B) turns, and in the first `most`
    places of those. Where the batches could name a good part of the rows of a table, it is whole,
    and no ids need to be gathered first: see `mark`.
    """
    ids_per_example, most, batch_size = turns.ids, turns.most, turns.batch_size
    for name in (name_of(field) for table in rows.tables(shared) for field in table.fields):
        if name not in ids_per_example:
            raise ValueError(
                f"A row table is indexed by batch[{name!r}], which the batches do not have; "
                f"they have {', '.join(map(repr, ids_per_example))}."
            )

    def per_example(field):
        return ids_per_example[name_of(field)] * times(field)

    compact = [t for t in rows.tables(shared) if not held_whole(t, most, ids_per_example)]
    if not compact:
        return rows.map_tables(rows.whole, shared)
    fields = list(dict.fromkeys(f for t in compact for f in t.fields))

    def collect(t, buffers):
        batch = turns.draw(t)
        out = []
        for f, buffer in zip(fields, buffers, strict=True):
            named = ids_of(f, batch)
            ids = jnp.where(trees.leading(batch["mask"], named) > 0, named, none).reshape(-1)
            place = t * batch_size * per_example(f)
            out.append(jax.lax.dynamic_update_slice(buffer, ids, (place,)))
        return out

    none = jnp.iinfo(jnp.int32).max
    first_epoch = -(-most // batch_size)
    empty = [jnp.full(first_epoch * batch_size * per_example(f), none) for f in fields]
    touched = jax.lax.fori_loop(0, jnp.minimum(turns.turns, first_epoch), collect, empty)
    touched = dict(zip(fields, touched, strict=True))

    def one(table):
        if held_whole(table, most, ids_per_example):
            return rows.whole(table)
        ids = [touched[f][: most * per_example(f)] for f in table.fields]
        return rows.localize(table, jnp.concatenate(ids))

    return rows.map_tables(one, shared)


def held_whole(table, most: int, ids: dict[str, int]) -> bool:
    """Whether a client that trains on up to `most` examples, with `ids` row ids in each field, has
    a copy of the whole `table` and not of the rows that it touches."""
    touched = most * sum(ids.get(name_of(field), 0) * times(field) for field in table.fields)
    return CLOSE * touched >= table.shape[0]


def mark(local: PyTree, batch: dict) -> PyTree:
    """`local`, from `localize`, with the rows of `batch` live."""

    def one(table):
        for f in table.fields:
            ids = ids_of(f, batch)
            real = jnp.broadcast_to(trees.leading(batch["mask"], ids), ids.shape)
            table = rows.mark(table, ids, real)
        return table

    return rows.map_tables(one, local)
