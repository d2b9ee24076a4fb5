"""What a round costs when the catalogue grows and the touched rows do not.

FedMF, width 64, 16 to 64 interactions a client, 4 negatives each, one local epoch, `mean` and
`step`. Time as the ratio to the smallest catalogue; memory as the compiled round's temporary bytes
over the bytes of the touched rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from .. import aggregate, data, models, simulate, strategies
from ..data.negatives import exclusion
from ..types import Strategy
from .row import Row
from .timing import Timing, repeat
from .whole_round import whole_round

WIDTH, NEGATIVES = 64, 4


def store(clients: int, items: int, each: int) -> data.Store:
    """`each` uniform interactions for every client."""
    drawn = np.random.default_rng(0).integers(0, items, (clients, each), np.int32).reshape(-1)
    users = np.repeat(np.arange(clients), each)
    return data.Store(
        items=jnp.asarray(drawn), labels=None, owners=None, users=None,
        start=jnp.arange(clients, dtype=jnp.int32) * each,
        length=jnp.full(clients, each, jnp.int32),
        exclusion=exclusion(users, drawn, clients, items, budget=0),
        num_items=items, longest=each,
    )  # fmt: skip


def fedmf_on(clients: int, items: int, each: int) -> tuple[Strategy, data.Store]:
    """What is measured, and its data."""
    model = models.fedmf(items, width=WIDTH)
    strategy = strategies.fedmf(
        model, data.pointwise(NEGATIVES), batch_size=64, aggregator=aggregate.mean()
    )
    return strategy, store(clients, items, each)


def measured(clients: int, items: int, each: int, times: int = 9) -> tuple[Timing, int, int]:
    """(seconds a round, temporary bytes, bytes of the rows that the examples refer to)."""
    call, compiled = whole_round(*fedmf_on(clients, items, each))
    timing, memory = repeat(call, times), compiled.memory_analysis()
    return timing, memory.temp_size_in_bytes, clients * each * (1 + NEGATIVES) * WIDTH * 4


def tables() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    base = None
    for items in (10**4, 10**5, 10**6):
        timing, temporary, touched = measured(256, items, 64)
        base = base or (timing.cpu, temporary)
        what = f"256 clients, {items:,} items"
        time, memory = timing.cpu / base[0], temporary / base[1]
        yield Row("tables", f"{what}: ms a round", timing.cpu * 1e3, "ms", "")
        yield Row("tables", f"{what}: time over 10,000 items", time, "x", "<= 1.3")
        yield Row("tables", f"{what}: temporary bytes over 10,000 items", memory, "x", "<= 1.3")
    timing, temporary, touched = measured(4096, 10**6, 16, times=3)
    what = "4,096 clients, 10^6 x 64"
    yield Row("tables", f"{what}: temporary over touched bytes", temporary / touched, "x", "<= 2")
    yield Row("tables", f"{what}: temporary", temporary / 2**20, "MiB", "")
    yield Row("tables", f"{what}: ms a round", timing.cpu * 1e3, "ms", "")
