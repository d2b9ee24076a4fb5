"""A cohort of 10,240 clients in one call, and the share of memory bandwidth that it reaches.

The fewest bytes a FedMF round can move: each example's row read and its update written back,
float32 at width 32 (the table's own reads and writes are far less). Over the seconds of a round,
against the bandwidth of a large copy on the same device.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from .. import aggregate, data, models, simulate, strategies
from .row import Row
from .tables import store
from .timing import repeat
from .whole_round import whole_round

CLIENTS, ITEMS, EACH, WIDTH, NEGATIVES = 10_240, 3_416, 100, 32, 4


def copy_bandwidth(megabytes: int = 512) -> float:
    """Bytes a second, read and written, of one pass over a large array."""
    x = jnp.ones(megabytes * 2**18, jnp.float32)
    # In place, so that a CPU's page faults are not measured in its stead.
    pass_over = jax.jit(lambda x: x * 0.5 + 1, donate_argnums=0)
    size = x.nbytes

    def call():
        nonlocal x
        x = pass_over(x)
        return x

    return 2 * size / repeat(call, 9).wall


def cohort(
    clients: int = CLIENTS, each: int = EACH, megabytes: int = 512, times: int = 5
) -> Iterator[Row]:
    """clients: of the cohort; each: interactions of one; megabytes: of the copy; times: rounds."""
    simulate.configure(1, cache=None)
    held = store(clients, ITEMS, each)
    model = models.fedmf(ITEMS, width=WIDTH)
    strategy = strategies.fedmf(model, data.pointwise(NEGATIVES), aggregator=aggregate.mean())
    call, _ = whole_round(strategy, held)
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
