"""The run: cohorts drawn, rounds run and models measured, many rounds in one compiled call.

    for each block of `program`:  run it, check that all is finite, and say what was measured

Everything random comes from one key and the round number in the state, so a run that goes on from
a saved state gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np

from .. import keys
from ..check import at_least
from ..types import State, Strategy
from .cohorts import Cohorts
from .measure import Measure
from .program import Program, block_of, program


class Diverged(FloatingPointError):
    """The loss or the model is no longer finite."""


@dataclass(frozen=True)
class Progress:
    """What one measured round hands to the caller.

    round: how many rounds are done. state: after it. metrics: what goes to `metrics.jsonl`: means
    over users (plain names are the test part, others are prefixed, `validation_hr@10`), `loss` and
    the client's other numbers, weighted by examples, `clients` in a round, bytes since the last
    measured round, and of them the mean of one client in one round. values: part -> float32[U, M],
    per user.
    state is donated to the next round: copy what you want to keep.
    """

    round: int
    state: State
    metrics: dict[str, float | int]
    values: dict[str, np.ndarray]


def simulate(
    strategy: Strategy,
    store,
    rounds: int,
    key: jax.Array,
    cohorts: Cohorts | None = None,
    measure: Measure | None = None,
    every: int = 1,
    measures_per_call: int = 1,
    state: State | None = None,
    calls: Program | None = None,
) -> Iterator[Progress]:
    """Runs `strategy` on the clients of `store`, from `state` or the start, to `rounds` rounds.

    Yields a `Progress` a measurement.

    Args:
        every: rounds between measurements; the last round is measured as well.
        measures_per_call: measurements in one compiled call, for rounds that are shorter than a
            dispatch; progress comes in such steps.
        calls: the `program` of the same arguments, where it was made before.

    Raises:
        Diverged: naming the round, where the loss or the model stops being finite.
        ValueError: where the cohort is larger than the clients.
    """
    for name, value in (("every", every), ("measures_per_call", measures_per_call)):
        at_least("simulate", name, value, 1)
    at_least("simulate", "rounds", rounds, 0)
    calls = calls or program(strategy, store, key, cohorts, measure)
    now = strategy.init(keys.stream(key, "init"), store.num_clients) if state is None else state

    names = measure.protocol.summary_names if measure else ()
    done = int(now.round)
    while done < rounds:
        begin = time.perf_counter()
        times, step = block_of(done, rounds, every, measures_per_call)
        now, out = calls.compiled(now, store, times, step).call(now, store)
        seen, up, down, means, values = jax.device_get(out)
        seconds = (time.perf_counter() - begin) / times
        told = ["loss", *sorted(seen.keys() - {"loss", "clients", "finite"})]
        for i in range(times):
            _check_finite(seen["loss"][i], bool(seen["finite"][i]), done)
            done += step
            sent, got = int(up[i].sum(dtype=np.int64)), int(down[i].sum(dtype=np.int64))
            visits = max(1, int(seen["clients"][i].sum()))
            metrics = {
                "round": done,
                "seconds": seconds,
                **{name: float(seen[name][i][-1]) for name in told},
                "clients": round(float(seen["clients"][i].mean())),
                "bytes_up": sent,
                "bytes_down": got,
                "bytes_up_per_client": sent / visits,
                "bytes_down_per_client": got / visits,
            }
            for part, mean in means.items():
                prefix = "" if part == "test" else f"{part}_"
                for name, value in zip(names, mean[i], strict=True):
                    metrics[prefix + name] = float(value)
            yield Progress(done, now, metrics, {part: v[i] for part, v in values.items()})


def _check_finite(losses: np.ndarray, finite: bool, done: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(losses))
    if len(wrong) or not finite:
        at = done + int(wrong[0]) + 1 if len(wrong) else done + len(losses)
        what = f"the loss is {losses[wrong[0]]}" if len(wrong) else "the model is not finite"
        raise Diverged(
            f"round {at}: {what}; lower the learning rates, or the server's, and run again."
        )
