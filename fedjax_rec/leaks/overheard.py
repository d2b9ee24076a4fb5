"""What the server sees of a round: the messages of clients, read from their bytes, one by one.

    packet -> to_bytes -> from_bytes -> decode

A server that is curious and keeps to the protocol. It knows what it must to serve: the model, the
round, who sent a message, and what the configuration says of training. `Truth` is what it does not
know, and attacks are held against.

`n` rows that a message speaks of, `D` width, `I` items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys, rows, wire
from ..check import at_least
from ..rounds.cohort import vmapped
from ..simulate import Cohorts, full
from ..types import Cohort, Packet, PyTree, State, Strategy

TOGETHER = 32  # clients of one compiled call


@dataclass(frozen=True)
class Message:
    """One client's message. items: int32[n], the rows of the item table that it changes, ascending;
    rows: float32[n, D], by how much. nbytes: its length."""

    client: int
    items: np.ndarray
    rows: np.ndarray
    nbytes: int


@dataclass(frozen=True)
class Overheard:
    """A round's messages. shared: the server's model when they were made. named: whether messages
    speak of some rows and not of others; a sketch decodes to all of them. num_items: `I`."""

    round: int
    shared: PyTree
    messages: list[Message]
    named: bool
    num_items: int


@dataclass(frozen=True)
class Truth:
    """By client. positives: int32[P], the items of its training interactions; touched: of each
    round, the items that it trained on, drawn negatives among them."""

    positives: dict[int, np.ndarray]
    touched: list[dict[int, np.ndarray]]


def overhear(
    strategy: Strategy,
    state: State,
    store,
    key: jax.Array,
    clients: Sequence[int],
    rounds: int = 1,
    cohorts: Cohorts | None = None,
) -> tuple[list[Overheard], Truth]:
    """The messages that `clients` send in the rounds after `state`, and what is true of them.

    Every message is written to bytes and read again, so that nothing is known that was not sent.

    Args:
        strategy: whose rounds they are; one whose messages the server opens one by one.
        state: that the first of them starts from.
        store: what clients train on.
        key: of the run, as given to `simulate`.
        clients: whose messages, as if they took part; those without data send none.
        rounds: how many one after another, which are played in between.
        cohorts: who plays them; None for everybody.

    Returns:
        What is `Overheard`, one a round, and the `Truth`.

    Raises:
        ValueError: where the strategy opens no messages one by one, or they have no item rows.

    Example:
        >>> from fedjax_rec import leaks
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
        >>> key = jax.random.key(0)
        >>> state = strategy.init(key, dataset.num_clients)
        >>> (seen,), truth = leaks.overhear(strategy, state, dataset.store, key, range(4))
        >>> len(seen.messages) <= 4
        True
    """
    at_least("overhear", "clients", len(clients), 1)
    at_least("overhear", "rounds", rounds, 1)
    refuse_closed(strategy)
    there = np.flatnonzero(np.asarray(store.sizes(jnp.arange(store.num_clients))) > 0)
    ids = np.intersect1d(np.asarray(clients, np.int64), there)
    if not len(ids):
        raise ValueError(f"overhear(clients={list(clients)[:5]}): none of them has data.")
    hear, found, touched = _ear(strategy, store), [], []
    play = jax.jit(strategy.round)
    for number in range(rounds):
        seen, truth = hear(state, keys.stream(key, "round"), ids)
        found.append(seen)
        touched.append(truth)
        if number < rounds - 1:
            of_cohort = jax.random.fold_in(keys.stream(key, "cohort"), state.round)
            asked = (cohorts or full()).draw(of_cohort, state.round, store.num_clients)
            state = play(keys.stream(key, "round"), state, Cohort(asked, store))[0]
    return found, Truth(positives(store, ids.tolist()), touched)


def refuse_closed(strategy: Strategy) -> None:
    """Raises ValueError for a strategy whose server opens no messages one by one."""
    if strategy.opened is None or strategy.uploads is None or strategy.packets is None:
        raise ValueError(
            "overhear(strategy): nobody reads messages of single clients (they are sealed, or none "
            "are sent, or a factorization is made of all); attack another, such as fedavg."
        )


def _ear(strategy: Strategy, store) -> Callable:
    """hear(state, key of rounds, ids) -> (Overheard, items trained on by client), in programs that
    are compiled once."""
    uploads, packed, opened = strategy.uploads, strategy.packets, strategy.opened
    assert uploads is not None and packed is not None and opened is not None
    n, num_items = store.num_clients, store.num_items
    send = jax.jit(packed)

    @jax.jit
    def train(*args):
        """bool[C, I]: the items whose rows clients changed."""
        update = uploads(*args)
        return vmapped(lambda one: _live(_of_items(one, num_items)), update)(update)

    @jax.jit
    def open_all(key, state, cohort, packets):
        outline = jax.eval_shape(uploads, key, state, cohort)
        like = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), outline)
        one = lambda packet, id: _of_items(rows.deltas(opened(state, packet, id, like)), num_items)
        return vmapped(one, packets, cohort.ids)(packets, cohort.ids)

    def hear(state: State, key, ids):
        messages, touched = [], {}
        for some in _groups(ids, n):
            cohort = Cohort(jnp.asarray(some, jnp.int32), store)
            live = np.asarray(train(key, state, cohort))
            packets = jax.device_get(send(key, state, cohort)[0])
            listed = _names_rows(packets, num_items)
            read, lengths = [], []
            for k in range(len(some)):
                mine = jax.tree.map(lambda x, k=k: x[k], packets)
                sent = [wire.to_bytes(packet) for packet in _each(mine)]
                got = map(wire.from_bytes, sent, _each(mine))
                laid = tuple(_laid(*pair) for pair in zip(got, _each(mine), strict=True))
                read.append(laid if isinstance(mine, tuple) else laid[0])
                lengths.append(sum(map(len, sent)))
            arrived = jax.tree.map(lambda *xs: np.stack(xs), *read)
            table = jax.device_get(open_all(key, state, cohort, arrived))
            for k, id in enumerate(some):
                if id < n:
                    messages.append(_message(table, k, int(id), lengths[k], listed))
                    touched[int(id)] = np.flatnonzero(live[k]).astype(np.int32)
        named = any(len(m.items) < num_items for m in messages)
        number = int(np.asarray(state.round))
        return Overheard(number, state.shared, messages, named, num_items), touched

    return hear


def _message(table, k: int, client: int, nbytes: int, listed: bool) -> Message:
    said, values = np.asarray(table.live[k]), np.asarray(table.values[k], np.float32)
    if not listed:  # a row of which nothing was said
        said = said & (values != 0).any(-1)
    where = np.arange(len(said)) if table.ids is None else np.asarray(table.ids[k])
    order = np.argsort(where[said], kind="stable")
    return Message(client, where[said][order].astype(np.int32), values[said][order], nbytes)


def positives(store, clients: Sequence[int]) -> dict[int, np.ndarray]:
    """The items of the training interactions of `clients`, ascending.

    Args:
        store: what clients train on.
        clients: whose.

    Returns:
        int32[P] by client, of those that have any.

    Example:
        >>> from fedjax_rec import leaks
        >>> own = leaks.positives(dataset.store, range(4))
    """
    items, start, length = (np.asarray(x) for x in (store.items, store.start, store.length))
    found = {int(c): np.unique(items[start[c] : start[c] + length[c]]) for c in clients}
    return {c: x.astype(np.int32) for c, x in found.items() if len(x)}


def _groups(ids: np.ndarray, padding: int) -> Iterator[np.ndarray]:
    size = min(TOGETHER, len(ids))
    for begin in range(0, len(ids), size):
        some = ids[begin : begin + size]
        yield np.concatenate([some, np.full(size - len(some), padding, some.dtype)])


def _of_items(update: PyTree, num_items: int) -> rows.RowsUpdate:
    """What one client's update says of items: several tables as a whole one, side by side. Arrays
    of a row an item are tables too, of which the rows that change are live."""
    found = []
    for x in rows.nodes(update):
        if rows.is_table(x) and x.size == num_items:
            found.append(x)
        elif not rows.is_table(x) and x.ndim == 2 and len(x) == num_items:
            found.append(rows.RowsUpdate(x, None, (x != 0).any(-1), None, num_items))
    if not found:
        raise ValueError(
            "overhear(strategy): its messages hold no rows of items; attack one that shares an "
            "item table, such as fedavg of fedmf."
        )
    if len(found) == 1:
        return found[0]
    values = jnp.concatenate([rows.to_dense(x) for x in found], -1)
    live = jnp.stack([_live(x) for x in found]).any(0)
    return rows.RowsUpdate(values, None, live, None, num_items)


def _live(table: rows.RowsUpdate) -> jax.Array:
    """bool[I]: the rows that a table's update speaks of."""
    if table.ids is None:
        return jnp.asarray(table.live)
    here = jnp.where(table.live, table.ids, table.size)
    return jnp.zeros(table.size, bool).at[here].set(True, mode="drop")


def _each(packets: Packet | tuple[Packet, ...]) -> tuple[Packet, ...]:
    return packets if isinstance(packets, tuple) else (packets,)


def _names_rows(packets: Packet | tuple[Packet, ...], num_items: int) -> bool:
    found = wire.nodes([(packet.body, packet.side) for packet in _each(packets)])
    found = [x.values if isinstance(x, wire.Raw) else x for x in found]
    return any(isinstance(x, rows.RowsUpdate) and x.size == num_items for x in found)


def _laid(read: Packet, like: Packet) -> Packet:
    """What was read, in the shapes that it was written from: what was not sent is zero."""

    def one(outline, got):
        if isinstance(outline, wire.Raw):
            return wire.Raw(one(outline.values, got.values))
        if not isinstance(outline, (rows.RowsUpdate, wire.Live)):
            return got
        length, count = outline.live.shape[0], len(got.live)
        where: Any = np.arange(count)
        if isinstance(outline, rows.RowsUpdate) and outline.ids is None:
            where = np.asarray(got.ids)

        def put(x, nothing=0):
            x = np.asarray(x)
            out = np.full((length, *x.shape[1:]), nothing, x.dtype)
            out[where] = x
            return out

        laid = replace(got, values=jax.tree.map(put, got.values), live=put(got.live, False))
        if isinstance(outline, rows.RowsUpdate):
            ids = None
            if outline.ids is not None:
                ids = put(got.ids, outline.size).astype(np.asarray(outline.ids).dtype)
            laid = replace(laid, ids=ids)
        return laid

    body, side = wire.map_nodes(one, (like.body, like.side), (read.body, read.side))
    return Packet(body, side, like.known)
