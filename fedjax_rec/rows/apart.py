"""A table whose rows lie on several devices: blocks of rows, each with the device that owns it.

Of R devices along an axis of a mesh, device r owns the rows r B to (r + 1) B - 1, B = I / R. Inside
`jax.shard_map` no device has the table. What its clients ask for comes from the owners, and what
they changed goes home to them, both by all-to-all:

    ids -> owners -> rows            (`Apart.rows`)
    rows -> owners, who add them     (`brought_home`)

Device r sends to each owner room for ceil(n / R) of its n rows at a time, in as many trips as the
fullest owner needs, so that buffers are of n rows and not of R n, whoever owns the popular rows.
Trips are as many on all devices, which wait for each other: no device may ask for rows in a loop or
a branch of its own, see `refuse_waiting`.

Dimensions: `I` rows of the table, `D` width, `R` devices of the axis, `B` rows of a block, `n` ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from jax.extend import core

AXIS = "rows"
ALONE = "use row_devices=1"


class Apart:
    """Stands where a table has its float[I, D], inside `jax.shard_map` on a mesh with `AXIS`.

    It is no pytree and no array: rows are read by their ids alone, as `values.at[ids].get()` or
    `values[ids]`, and whatever else is asked for raises ValueError. block: float[B, D]."""

    def __init__(self, block: jax.Array):
        self.block = block
        self.dtype = block.dtype
        self.shape = (block.shape[0] * jax.lax.axis_size(AXIS), *block.shape[1:])

    ndim = property(lambda self: len(self.shape))
    at = property(lambda self: _At(self))

    def __getitem__(self, ids) -> jax.Array:
        if isinstance(ids, (slice, tuple)):
            self.refuse()
        return self.rows(ids, plainly)

    def astype(self, dtype) -> jax.Array:
        return self.refuse()

    def rows(self, ids, read: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
        """float[..., D] of ids int[...]; zeros for ids that are none. read(block, int32[m]) ->
        float[m, D], places in the block."""
        ids = jnp.asarray(ids)
        found = rows_of_owners(self.block, ids.reshape(-1), read)
        return found.reshape(*ids.shape, *self.shape[1:])

    def refuse(self) -> NoReturn:
        """Raises ValueError: whoever calls it needs every row."""
        raise _whole()


class _At:
    """`values.at[ids].get(...)`, and nothing that writes."""

    def __init__(self, values: Apart):
        self.values = values

    def __getitem__(self, ids) -> _At:
        self.ids = ids
        return self

    def get(self, **_) -> jax.Array:
        return self.values[self.ids]


def brought_home(total: jax.Array, live: jax.Array, more: Any) -> tuple[jax.Array, jax.Array]:
    """(float[B, D], bool[B]) of the block that this device owns, with the rows that all devices
    bring added. more: a `RowsUpdate` with ids, as sums of clients are: an id may stand in it more
    than once.
    """
    size, width = live.shape[0], more.values.shape[1:]
    ids = jnp.where(more.live, more.ids, -1)
    trips, places, room = _trips(ids, size)

    def trip(t, carry):
        total, live = carry
        where = places(t)
        at = _travel(_packed(ids % size, where, room, size)).reshape(-1)
        values = _travel(_packed(more.values, where, room, 0)).reshape(-1, *width)
        return total.at[at].add(values, mode="drop"), live.at[at].set(True, mode="drop")

    return jax.lax.fori_loop(0, trips, trip, (total, live))


@partial(jax.jit, static_argnums=2)
def rows_of_owners(block: jax.Array, ids: jax.Array, read: Callable) -> jax.Array:
    """float[n, D] of ids int[n]: a call of its own, by whose name `refuse_waiting` finds it."""
    size, width = block.shape[0], block.shape[1:]
    trips, places, room = _trips(ids, size)

    def trip(t, found):
        to, at, now = places(t)
        asked = _travel(_packed(ids % size, (to, at, now), room, 0))
        sent = _travel(read(block, asked.reshape(-1)).reshape(*asked.shape, *width))
        got = sent.at[to, at].get(mode="clip")
        return jnp.where(now[:, None], got, found)

    return jax.lax.fori_loop(0, trips, trip, jnp.zeros((ids.shape[0], *width), block.dtype))


def _whole() -> ValueError:
    return ValueError(
        f"a client reads a table whole whose rows lie on {jax.lax.axis_size(AXIS)} devices: what "
        "it trains on may name a good part of the rows, or the strategy or its metrics need them "
        f"all; {ALONE}."
    )


@contextmanager
def row_by_row() -> Iterator[None]:
    """Within it, no table that lies apart may be taken for an array.

    Raises:
        ValueError: where one is.
    """
    try:
        yield
    except (TypeError, AttributeError) as error:
        if Apart.__name__ in str(error):
            raise _whole() from error
        raise


def refuse_waiting(step: Callable, *args: Any) -> None:
    """Refuses a step that would wait for ever, which a device takes in one chunk.

    Args:
        step: what a device does.
        args: its arguments, or their shapes.

    Raises:
        ValueError: where step(*args) asks for rows in a loop, or a branch, that other devices may
            not take.
    """
    if _waits(jax.make_jaxpr(step)(*args).jaxpr, False):
        raise ValueError(
            "clients ask for rows of a table while they train, each as often as it has batches, "
            f"and its rows lie on several devices, which would wait for each other; {ALONE}."
        )


def _waits(jaxpr: core.Jaxpr, apart: bool) -> bool:
    for equation in jaxpr.eqns:
        if equation.params.get("name") == "rows_of_owners":
            if apart:
                return True
            continue
        inside = apart or equation.primitive.name in ("while", "cond")
        if any(_waits(inner, inside) for inner in core.jaxprs_in_params(equation.params)):
            return True
    return False


def _trips(ids: jax.Array, size: int) -> tuple[jax.Array, Callable, int]:
    """(how many trips all devices make, places(t) -> (owner, place, whether) int32[n] of the ids
    that travel in trip t, the room of an owner). size: B. Ids that are none do not travel."""
    devices = jax.lax.axis_size(AXIS)
    room = -(-ids.shape[0] // devices)
    real = (ids >= 0) & (ids < devices * size)
    owner = jnp.where(real, ids // size, devices)
    mine = owner[:, None] == jnp.arange(devices)
    before = jnp.cumsum(mine, 0, dtype=jnp.int32) - mine  # asked of the same owner
    place = jnp.where(mine, before, 0).sum(1)
    trips = -(-mine.sum(0).max(initial=0) // max(room, 1))

    def places(t):
        at = place - t * room
        now = real & (at >= 0) & (at < room)
        return jnp.where(now, owner, devices), jnp.where(now, at, 0), now

    return jax.lax.pmax(trips, AXIS), places, room


def _packed(x: jax.Array, where: tuple, room: int, fill) -> jax.Array:
    """[R, room, ...]: x [n, ...] at its places, and `fill` elsewhere."""
    empty = jnp.full((jax.lax.axis_size(AXIS), room, *x.shape[1:]), fill, x.dtype)
    return empty.at[where[0], where[1]].set(x, mode="drop")


def _travel(x: jax.Array) -> jax.Array:
    """x [R, ...]: slice r goes to device r, and that of device r comes."""
    return jax.lax.all_to_all(x, AXIS, 0, 0)


def plainly(block: jax.Array, at: jax.Array) -> jax.Array:
    return block.at[at].get(mode="promise_in_bounds")
