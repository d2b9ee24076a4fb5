"""A cohort of 10,240 clients in one call, and the share of memory bandwidth that it reaches.

The fewest bytes a FedMF round can move: each example's row read and its update written back,
float32 at width 32 (the table's own reads and writes are far less). Over the seconds of a round,
against the bandwidth of a large copy on the same device.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import aggregate, data, models, simulate, strategies
from ..types import Strategy
from .ceilings import copy_bandwidth
from .row import Row
from .tables import store
from .timing import repeat
from .whole_round import whole_round

CLIENTS, ITEMS, EACH, WIDTH, NEGATIVES = 10_240, 3_416, 100, 32, 4


def fedmf_of(clients: int = CLIENTS, each: int = EACH) -> tuple[Strategy, data.Store]:
    """What is measured, and its data."""
    model = models.fedmf(ITEMS, width=WIDTH)
    strategy = strategies.fedmf(model, data.pointwise(NEGATIVES), aggregator=aggregate.mean())
    return strategy, store(clients, ITEMS, each)


def cohort(
    clients: int = CLIENTS, each: int = EACH, megabytes: int = 512, times: int = 5
) -> Iterator[Row]:
    """clients: of the cohort; each: interactions of one; megabytes: of the copy; times: rounds."""
    simulate.configure(1, cache=None)
    call, _ = whole_round(*fedmf_of(clients, each))
    timing = repeat(call, times)
    bandwidth = copy_bandwidth(megabytes)
    moved = clients * each * (1 + NEGATIVES) * WIDTH * 4 * 2
    what = f"{clients:,} clients in one call"
    yield Row("cohort", f"{what}, ms a round", timing.wall * 1e3, "ms", "")
    passed = f"memory bandwidth of one pass over {megabytes} MiB"
    yield Row("cohort", passed, bandwidth / 1e9, "GB/s", "")
    yield Row(
        "cohort", "share of it that the round's rows reach", 100 * moved / timing.wall / bandwidth,
        "%", "",
    )  # fmt: skip
