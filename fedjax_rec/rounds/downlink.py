"""Downlink compression: the server broadcasts compressed changes of its model.

    send C(x - y);   y <- y + C(x - y)

`x` is the server's model and `y` what the clients hold of it; they train from y. What a packet
leaves out stays in x - y and is sent later: error feedback of the server (as in DoubleSqueeze,
Tang et al., ICML 2019, and EF21, Richtarik et al., NeurIPS 2021).

A client that was away has to catch up: it gets all packets that it missed or the whole model,
whichever is smaller (STC, Sattler et al., TNNLS 2019); on its first round the whole model.
Broadcasts hold whole tables, not only the rows that one client touches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from .. import rows, trees, wire
from ..compress.cheaper import cheaper
from ..compress.feedback import refuse_expanding
from ..compress.remembered import remembers_updates
from ..types import Compressor, Now, Packet, PyTree


@dataclass(frozen=True)
class Broadcast:
    """init(shared, num_clients) -> state. known(state) -> the model that clients hold, trainable
    part. received(state, ids) -> uint32[C], bytes that get these clients up to date.
    send(key, state, shared, round, ids) -> state, after the clients `ids` were brought up to date
    and the server moved to `shared`.
    """

    init: Callable[..., PyTree]
    known: Callable[..., PyTree]
    received: Callable[..., jax.Array]
    send: Callable[..., PyTree]


def broadcasting(compressor: Compressor) -> Broadcast:
    """Broadcasts of the server's changes by `compressor`.

    Raises ValueError, when the state is made, for a compressor with error memory: x - y already
    holds what was left out, which would count twice and grow without end; and for one whose omega
    is 1 or more, see `types.Compressor`, by which x - y would grow. Small dense leaves are sent as
    `compress.cheaper` has it.
    """

    def init(shared, num_clients):
        memory = cheaper(compressor, shared).init(rows.zero_update(shared))
        if remembers_updates(memory):
            raise ValueError(
                "downlink: the server already remembers what was left out; give the compressor "
                "itself, without error_feedback, ef21, diana or momentum_correction around it."
            )
        refuse_expanding("downlink", compressor, rows.zero_update(shared))
        # owed: bytes that bring a client up to date, at most those of the whole model.
        return {
            "known": trees.trainable(shared),
            "memory": memory,
            "owed": jnp.full(num_clients, whole_model(shared)),
        }

    def received(state, ids):
        return state["owed"].at[ids].get(mode="fill", fill_value=0)

    def send(key, state, shared, round, ids):
        now = Now(round, shared)
        change = rows.difference(trees.trainable(shared), state["known"])
        sender = cheaper(compressor, shared)
        memory, packet = sender.encode(key, state["memory"], change, now)
        back = sender.decode(packet, change, now)
        whole = whole_model(shared)
        owed = state["owed"].at[ids].set(jnp.uint32(0), mode="drop")
        after = {
            "known": rows.apply(state["known"], back),
            "memory": memory,
            "owed": owed + jnp.minimum(wire.nbytes(packet), whole - owed),
        }
        return trees.typed_as(after, state)  # sums are wider than what is kept

    return Broadcast(init, lambda state: state["known"], received, send)


def downloaded(shared: PyTree, update: PyTree) -> Packet:
    """The packet of what a client got: rows where it touched a table, the rest whole."""
    one = lambda u, x: _as_stored(u, x) if rows.is_table(u) else x
    return Packet(rows.map_nodes(one, update, shared))


def _as_stored(u: rows.RowsUpdate, table: rows.Table) -> rows.RowsUpdate:
    return replace(u, origin=None, values=u.values.astype(table.values.dtype))


def live_where_it_moves(update: PyTree) -> PyTree:
    """`update` of whole tables, of which the rows that change are live."""
    mark = lambda u: replace(u, live=(u.values != 0).any(-1))
    return rows.map_tables(mark, update)


def whole_model(shared: PyTree) -> jax.Array:
    """uint32[]: the bytes of the whole model."""
    return wire.nbytes(Packet(rows.dense(trees.trainable(shared))))
