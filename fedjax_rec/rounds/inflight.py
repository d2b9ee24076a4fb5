"""Uploads in flight: sent by their clients, and not there yet.

A buffer of M places holds, of each upload, who sent it, the seconds until it arrives, the version
of the model that it started from, its weight, bytes and steps, and what it holds of the model:

- `changes`  u_k = x_k - x_start, the change itself (FedBuff)
- `models`   x_k on the rows that the client touched; on arrival u_k = x_k - x_now (FedAsync)

and what the update counts on arrival, tau server steps after its start: `constant`, `polynomial` or
`hinge` (Xie, Koyejo & Gupta, 2019, section 5).

Seconds are counted down, not dated, so that they stay exact in the millionth round. Which place an
upload takes depends on the ids alone, not on the order of the cohort.

`N` clients, `C` cohort, `M` places, `I` items, `D` width, `L` rows of a local table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees
from ..check import at_least
from ..made import part
from ..types import Aggregator, Cohort, Compressor, Now, PyTree, Upload
from .chunks import at
from .cohort import vmapped
from .summaries import with_its_ids


@part
class Held:
    """What is held of an upload: hold(model, update) -> held, when its client has trained from
    `model`, and release(model, held) -> update, when it arrives at what `model` is by then.
    model: the trainable part of `shared`. Tables of updates are without origin and factor.
    """

    hold: Callable[..., PyTree]
    release: Callable[..., PyTree]


def changes() -> Held:
    """The change from the model that the client started from."""
    return Held(lambda model, update: update, lambda model, held: held)


def models() -> Held:
    """The client's model: its dense leaves and the rows that it touched.

    Rows that it did not touch it never had, so they stay what the server made of them meanwhile.
    """

    def hold(model, update):
        return rows.with_values(update, trees.add(rows.here(model, update), rows.dense(update)))

    def release(model, held):
        change = trees.subtract(rows.dense(held), rows.here(model, held))
        return rows.as_update(change, held, model)

    return Held(hold, release)


@part
class Staleness:
    """weight(tau float[...]) -> float[...]: what an update counts that is tau server steps old."""

    weight: Callable[[jax.Array], jax.Array]


def constant() -> Staleness:
    """s(tau) = 1."""
    return Staleness(jnp.ones_like)


def polynomial(a: float = 0.5) -> Staleness:
    """s(tau) = (1 + tau)^-a. Raises ValueError for a < 0."""
    at_least("polynomial", "a", a, 0)
    return Staleness(lambda tau: (1.0 + tau) ** -a)


def hinge(a: float = 10.0, b: float = 4.0) -> Staleness:
    """s(tau) = 1 up to tau = b, then 1 / (a (tau - b) + 1). Raises ValueError for a or b < 0."""
    for name, value in (("a", a), ("b", b)):
        at_least("hinge", name, value, 0)
    return Staleness(lambda tau: 1.0 / (a * jnp.maximum(tau - b, 0.0) + 1.0))


def empty(key, shared, uplink: Compressor | None, held: Held, places: int, room, nobody) -> PyTree:
    """A buffer of `places` empty places, of which the client is `nobody`, N.

    uplink: what updates go through, since that may change their structure. room: as `laid_out`.
    """

    def one():
        update = like = rows.zero_update(shared)
        if uplink is not None:
            now = Now(jnp.int32(0), shared, jnp.int32(0))
            packet = uplink.encode(key, uplink.init(like), like, now)[1]
            update = uplink.decode(packet, like, now)
        return held.hold(trees.trainable(shared), rows.blank(update, room))

    outline = jax.eval_shape(one)
    blank = lambda dtype: jnp.zeros(places, dtype)
    return {
        "ids": jnp.full(places, nobody, jnp.int32),
        "seconds": blank(jnp.float32),
        "version": blank(jnp.int32),
        "weight": blank(jnp.float32),
        "bytes": blank(jnp.uint32),
        "steps": blank(jnp.float32),
        "held": jax.tree.map(lambda x: jnp.zeros((places, *x.shape), x.dtype), outline),
    }


def laid_out(update: PyTree, room: int | None) -> PyTree:
    """`update` of one client, tables as whole tables [I, D], or as `room` rows with their ids.

    Raises ValueError where a client may touch more than `room` rows.
    """

    for u in filter(rows.is_table, rows.nodes(update)):
        length = u.live.shape[0]
        if not _whole(u, room) and (u.ids is None or length > room):
            raise ValueError(
                f"asynchronous(held_rows={room}) holds fewer rows than the {length} that a client "
                f"may touch; use held_rows >= {length}, or None for whole tables."
            )
    return rows.spread(update, rows.blank(update, room))


def _whole(update: rows.RowsUpdate, room: int | None) -> bool:
    return room is None or room >= update.size


def starters(key, flight: PyTree, cohort: Cohort) -> jax.Array:
    """int32[C]: the cohort's clients that start, by id, then padding.

    Those that have data and are not in flight; where there are fewer free places, some of them by
    lot.
    """
    ids, nobody = cohort.ids, cohort.data.num_clients
    there = (ids < nobody) & (cohort.data.sizes(ids) > 0)
    there &= ~(ids[:, None] == flight["ids"]).any(1)
    lot = jax.vmap(jax.random.uniform)(keys.for_client(key, ids))
    order = jnp.lexsort((ids, jnp.where(there, lot, 2.0)))
    free = (flight["ids"] == nobody).sum()
    goes = there[order] & (jnp.arange(ids.size) < free)
    return jnp.sort(jnp.where(goes, ids[order], nobody).astype(jnp.int32))


def reserved(flight: PyTree, ids: jax.Array, version, nobody: int) -> PyTree:
    """`flight` with free places for `ids` int32[C], sorted, who start from `version`; what they
    hold is still to come, see `places_of`."""
    size = flight["ids"].shape[0]
    free = jnp.argsort(flight["ids"] != nobody, stable=True)[: ids.shape[0]]
    free = jnp.where(ids < nobody, free, size)
    return {
        **flight,
        "ids": flight["ids"].at[free].set(ids, mode="drop"),
        "version": flight["version"].at[free].set(version, mode="drop"),
    }


def places_of(flight: PyTree, ids: jax.Array, nobody: int) -> jax.Array:
    """int32[c]: where `ids` are in flight; M of padding."""
    found = jnp.argmax(flight["ids"] == ids[:, None], 1)
    return jnp.where(ids < nobody, found, flight["ids"].shape[0])


def arriving(flight: PyTree, count: int, nobody: int) -> tuple[jax.Array, jax.Array]:
    """(places int[count], there bool[count]) of the `count` uploads that arrive next."""
    there = flight["ids"] < nobody
    order = jnp.lexsort((flight["ids"], jnp.where(there, flight["seconds"], jnp.inf)))[:count]
    return order, there[order]


def summary_of(
    aggregator: Aggregator, state, now: Now, release: Callable, flight: PyTree, aux, places,
    weight, share, chunk,
) -> PyTree:  # fmt: skip
    """The aggregator's summary of share[k] * release(held) of the uploads at `places`, all [K].

    In chunks of `chunk`, which stay in cache. weight: float[K], 0 of those that do not count.
    state: of the aggregator. aux: names of what clients send beside their updates, `steps` or none.
    """
    fill = (0, -places.shape[0] % chunk)
    chunks = [jnp.pad(x, fill).reshape(-1, chunk) for x in (places, weight, share)]

    def one(held, share):
        return rows.deltas(rows.scale(release(held), share))

    def add(total, part):
        places, weight, share = part
        come = at({k: flight[k] for k in ("held", "steps", "ids")}, places)
        arrived = vmapped(one, come["held"], share)(come["held"], share)
        uploads = Upload(arrived, weight, {}, {name: come[name] for name in aux})
        of_clients = replace(now, client=come["ids"])
        summary = with_its_ids("reduce", aggregator.reduce(state, uploads, of_clients), uploads)
        adds, stacks = rows.divide(summary, aggregator.additive)
        return rows.combine(total, adds), stacks

    first = [x[0] for x in chunks]
    zero = trees.zeros_like(jax.eval_shape(lambda part: add(None, part)[0], first))
    return rows.join(*jax.lax.scan(add, zero, chunks))


def after_arrival(flight: PyTree, places, there, took, nobody: int) -> PyTree:
    """`flight`, `took` seconds later, without the uploads at `places` where `there`."""
    size = flight["ids"].shape[0]
    ids = flight["ids"].at[jnp.where(there, places, size)].set(nobody, mode="drop")
    seconds = jnp.where(ids < nobody, flight["seconds"] - took, 0.0)
    return {**flight, "ids": ids, "seconds": seconds}
