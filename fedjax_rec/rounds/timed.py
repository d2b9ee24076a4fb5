"""Rounds by the clock: how long a round takes, and what a deadline costs.

    on time = {k : seconds_k <= deadline},   round = max of seconds_k on time, or the deadline where
                                             anybody is late

A server that waits for everybody waits for the slowest; with a deadline it leaves out whoever is
late (FedCS, Nishio & Yonetani, ICC 2019; Bonawitz et al., MLSys 2019). A client that is late has
got the model and trained: its private state and its bytes down count. Its upload is broken off:
it weighs nothing, its bytes up count as 0, whatever was on the way already, and its compressor
memory stays as it was, so that error feedback does not take for sent what never came. So does what
must keep step with the server, such as SCAFFOLD's c_k, see `Client.unsent`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from .. import keys
from ..check import positive
from ..types import Cohort, PyTree, RoundInfo, Upload
from .clock import Clock


@dataclass(frozen=True)
class Timing:
    """chunk(key, ids int32[c], uploads, bytes_down, bytes_up) -> (uploads, bytes_up, arrived):
    weight and bytes_up are 0 of those who are late, `metrics` have a name more, and `arrived`
    int32[c] are `ids` with padding in place of the late.
    finish(total, cohort, info) -> (total, info): total is the simulated seconds since the start.
    """

    chunk: Callable[..., tuple[Upload, jax.Array, jax.Array]]
    finish: Callable[..., tuple[PyTree, RoundInfo]]


def timing(clock: Clock, deadline: float | None = None) -> Timing:
    """Rounds by `clock`, each of at most `deadline` seconds. See `federated` for what it reports.

    Raises ValueError for a deadline that is not positive and, in the round, for a clock of other
    clients than there are.
    """
    if deadline is not None:
        positive("federated", "deadline", deadline)
    limit = jnp.inf if deadline is None else deadline

    def chunk(key, ids, uploads, bytes_down, bytes_up):
        took = clock.seconds(keys.stream(key, "clock"), ids, uploads.weight, bytes_down, bytes_up)
        late = (uploads.weight > 0) & (took > limit)
        metrics = {
            **uploads.metrics, "client_seconds": took, "late": late.astype(jnp.float32),
        }  # fmt: skip
        weight = jnp.where(late, 0.0, uploads.weight)
        return (
            replace(uploads, weight=weight, metrics=metrics),
            jnp.where(late, jnp.uint32(0), bytes_up),
            jnp.where(late, jnp.iinfo(jnp.int32).max, ids),
        )

    def finish(total, cohort: Cohort, info: RoundInfo):
        check_clients(clock, cohort)
        real = cohort.ids < cohort.data.num_clients
        counted, late = info.weight > 0, info.metrics["late"]
        took = jnp.where(counted, info.metrics["client_seconds"], 0.0).max()
        took = jnp.where(late.any(), jnp.float32(limit), took)
        total = total + took
        share = late.sum() / jnp.maximum(late.sum() + counted.sum(), 1)
        everybody = {"late": share, "simulated_seconds": took, "simulated_time": total}
        everybody = {name: jnp.where(real, x, 0.0) for name, x in everybody.items()}
        return total, replace(info, metrics={**info.metrics, **everybody})

    return Timing(chunk, finish)


def check_clients(clock: Clock, cohort: Cohort) -> None:
    """Raises ValueError where the clock was made for another number of clients."""
    count = cohort.data.num_clients
    if clock.clients not in (None, count):
        raise ValueError(
            f"the clock describes {clock.clients} clients and there are {count}; "
            "give traced_clock one entry a client."
        )
