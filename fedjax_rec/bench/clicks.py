"""What a round of a click model costs when its table grows a hundredfold and the touches do not.

DLRM, width 32, 4,096 clients of 16 examples with 26 ids each, one local epoch, `mean` and `step`,
on power-law ids of `data.clicks`, and on uniform ones, which are all cold. CPU seconds, medians;
the server's table is donated, so that a round changes it in place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from .. import aggregate, clients, data, models, simulate, strategies
from .row import Row
from .timing import Timing, repeat
from .whole_round import whole_round

CLIENTS, EACH, WIDTH = 4096, 16, 32


def found(num_rows: int, uniform: bool) -> data.Examples:
    """The examples, all of them for training."""
    made = data.clicks(CLIENTS, EACH, num_rows, spread=0.0)
    fields = dict(made.fields)
    if uniform:
        shape, draw = fields["ids"].shape, np.random.default_rng(0)
        fields["ids"] = draw.integers(0, num_rows, shape, np.int32)
    return replace(made, fields=fields, part=np.zeros_like(made.part))


def measured(num_rows: int, uniform: bool = False, times: int = 5) -> tuple[Timing, Any, int]:
    """(seconds a round, XLA's memory analysis of it, different rows that it touches)."""
    given = found(num_rows, uniform)
    store = data.pack_examples(given).store
    model = models.dlrm(num_rows, width=WIDTH)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=clients.sgd(0.1), batch_size=EACH,
        aggregator=aggregate.mean(),
    )  # fmt: skip
    call, compiled = whole_round(strategy, store)
    memory = compiled.memory_analysis()
    return repeat(call, times), memory, len(np.unique(given.fields["ids"]))


def clicks() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    for uniform in (False, True):
        base = None
        for rows in (10**5, 10**7):
            timing, memory, touched = measured(rows, uniform)
            base = base or timing.cpu
            kind = "uniform" if uniform else "power-law"
            what = f"{CLIENTS:,} clients, {rows:,} x {WIDTH}, {kind} ids"
            table = rows * WIDTH * 4
            goal = "" if uniform else "<= 1.5"
            yield Row("clicks", f"{what}: ms a round", timing.cpu * 1e3, "ms", "")
            yield Row("clicks", f"{what}: time over 100,000 rows", timing.cpu / base, "x", goal)
            yield Row("clicks", f"{what}: different rows touched", touched, "", "")
            yield Row("clicks", f"{what}: the table", table / 2**20, "MiB", "")
            copied = memory.output_size_in_bytes - memory.alias_size_in_bytes
            yield Row("clicks", f"{what}: outputs not in place", copied / 2**20, "MiB", "")
            temporary = memory.temp_size_in_bytes
            yield Row("clicks", f"{what}: temporary", temporary / 2**20, "MiB", "")
