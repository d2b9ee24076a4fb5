"""Audit: the packets of a few clients made into bytes, and held against the ledger of the round.

Inside jit a round counts bytes by arithmetic; here some of its packets become messages, so that a
run can say what it really sent, and how much range coding of the symbols would save on top, which
depends on the data and is known only from the bytes.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys, wire
from ..check import at_least
from ..rounds.plan import plan
from ..types import Cohort, State, Strategy
from .cohorts import Cohorts, full


def audit(
    strategy: Strategy,
    state: State,
    store,
    key: jax.Array,
    clients: int = 8,
    cohorts: Cohorts | None = None,
) -> dict:
    """Bytes of the next round's packets of some clients, and what that round counts for them.

    The round is the one that the run would play next, with its whole cohort: what a client sends
    may not hang on who is beside it, unless the strategy says so (`together`). It counts a client's
    messages as often as they are sent: not at all of who is not selected, twice where two
    neighbours get them. Asynchronous rounds count what arrives, and are not held against these
    packets.

    Args:
        strategy: that of the run.
        state: after its last round.
        store: the clients' data.
        key: the key of the run, as given to `simulate`.
        clients: how many, drawn at random from those of the cohort that have data.
        cohorts: those of the run; None for everybody.

    Returns:
        The totals `ledger`, what a round counts of each once; `message`, the length of the
        messages; `range_coded`, the same with range coding, None where `constriction` is not
        installed; and `clients`.

    Raises:
        ValueError: the strategy sends no packets, or a message cannot be read again.
        RuntimeError: a message is not as long as the ledger says, or the round counts something
            else.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(1))
        >>> state = strategy.init(key, dataset.num_clients)
        >>> found = simulate.audit(strategy, state, dataset.store, key, clients=2)
        >>> found["ledger"] == found["message"]
        True
    """
    at_least("audit", "clients", clients, 1)
    if strategy.packets is None:
        raise ValueError("audit(strategy): the strategy sends no packets; audit a federated one.")
    of_cohort = jax.random.fold_in(keys.stream(key, "cohort"), state.round)
    asked = (cohorts or full()).draw(of_cohort, state.round, store.num_clients)
    cohort = Cohort(asked, store)
    there = np.flatnonzero(np.asarray(store.sizes(asked)) > 0)
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    places = np.sort(draw.choice(there, min(clients, len(there)), replace=False))
    ids, of_round = np.asarray(asked)[places], keys.stream(key, "round")
    some = cohort if strategy.together else Cohort(jnp.asarray(ids, jnp.int32), store)
    packets, ledger = jax.device_get(jax.jit(strategy.packets)(of_round, state, some))
    if strategy.together:
        packets, ledger = jax.tree.map(lambda x: x[places], (packets, ledger))
    messages = packets if isinstance(packets, tuple) else (packets,)
    counted = np.zeros(len(ids), np.uint32)
    if not strategy.delayed:
        chunk = plan(strategy, of_round, state, cohort).clients
        info = jax.jit(partial(strategy.round, chunk=chunk))(of_round, state, cohort)[1]
        counted = np.asarray(info.bytes_up)[places]
    message, ranged = 0, 0
    for i, id in enumerate(ids):
        length, coded = 0, 0
        for packet in jax.tree.map(lambda x, i=i: x[i], messages):
            sent = wire.to_bytes(packet)
            wire.from_bytes(sent, packet)
            length += len(sent)
            coded += len(wire.to_bytes(packet, entropy=True)) if wire.can_range_code() else 0
        if length != int(ledger[i]):
            raise RuntimeError(
                f"audit: client {id} sent {length} bytes where the ledger counts "
                f"{int(ledger[i])}; the compressor or the wire is wrong."
            )
        if counted[i] % length:
            raise RuntimeError(
                f"audit: the round counts {int(counted[i])} bytes up of client {id} where its "
                f"packets have {length}; what a client sends hangs on who is beside it."
            )
        message += length
        ranged += coded
    return {
        "clients": len(ids),
        "ledger": int(ledger.sum(dtype=np.int64)),
        "message": message,
        "range_coded": ranged if wire.can_range_code() else None,
    }
