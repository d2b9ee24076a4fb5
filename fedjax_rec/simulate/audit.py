"""Audit: the packets of a few clients made into bytes, and held against the ledger of the round.

Inside jit a round counts bytes by arithmetic; here some of its packets become messages, so that a
run can say what it really sent, and how much range coding of the symbols would save on top, which
depends on the data and is known only from the bytes.
"""

from __future__ import annotations

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys, wire
from ..check import at_least
from ..types import Cohort, State, Strategy


def audit(strategy: Strategy, state: State, store, key: jax.Array, clients: int = 8) -> dict:
    """Bytes of the next round's packets of `clients` clients with data, drawn at random.

    Returns the totals `ledger`, what a round would count; `message`, the length of the messages;
    `range_coded`, the same with range coding, None where `constriction` is not installed; and
    `clients`.

    Args:
        key: the key of the run, as given to `simulate`.

    Raises:
        ValueError: where the strategy sends no packets.
        RuntimeError: where a message is not as long as the ledger says, or the round of these
            clients counts what none of the packets has.
        ValueError: where it cannot be read again.
    """
    at_least("audit", "clients", clients, 1)
    if strategy.packets is None:
        raise ValueError("audit(strategy): the strategy sends no packets; audit a federated one.")
    sizes = np.asarray(store.sizes(jnp.arange(store.num_clients)))
    there = np.flatnonzero(sizes > 0)
    draw = np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
    ids = np.sort(draw.choice(there, min(clients, len(there)), replace=False))
    of_round, cohort = keys.stream(key, "round"), Cohort(jnp.asarray(ids, jnp.int32), store)
    packets, ledger = jax.device_get(jax.jit(strategy.packets)(of_round, state, cohort))
    messages = packets if isinstance(packets, tuple) else (packets,)
    message, ranged = 0, 0
    for i, id in enumerate(ids):
        length = 0
        for packet in jax.tree.map(lambda x, i=i: x[i], messages):
            sent = wire.to_bytes(packet)
            wire.from_bytes(sent, packet)
            length += len(sent)
            ranged += len(wire.to_bytes(packet, entropy=True)) if wire.can_range_code() else 0
        if length != int(ledger[i]):
            raise RuntimeError(
                f"audit: client {id} sent {length} bytes where the ledger counts "
                f"{int(ledger[i])}; the compressor or the wire is wrong."
            )
        message += length
    up = np.asarray(jax.jit(strategy.round)(of_round, state, cohort)[1].bytes_up)
    counted = Counter(up[up > 0].tolist())
    if counted - Counter(ledger.tolist()):
        raise RuntimeError(
            f"audit: the round counts {sorted(counted.elements())} bytes up where its packets have "
            f"{sorted(ledger.tolist())}; what a client sends hangs on who is beside it."
        )
    return {
        "clients": len(ids),
        "ledger": int(ledger.sum(dtype=np.int64)),
        "message": message,
        "range_coded": ranged if wire.can_range_code() else None,
    }
