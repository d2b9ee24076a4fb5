"""The run: cohorts drawn, rounds run and models measured, many rounds in one compiled call.

    for each block of `program`:  run it, check that all is finite, and say what was measured

Everything random comes from one key and the round number in the state, so a run that goes on from
a saved state gives the same bits as one that was never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import trees
from ..check import at_least, fraction, shown
from ..made import refuse_uncalled
from ..types import State, Strategy
from .cohorts import Cohorts
from .measure import Measure
from .program import Calls, Parts, block_of, program
from .progress import Callback, Progress, attending, told

# What a round tells of itself, beside the numbers of its clients.
TOLD = {"loss", "clients", "rejected", "repeated", "finite"}


class Diverged(FloatingPointError):
    """The loss, the model, or what too many clients make of it is no longer finite."""


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
    calls: Calls | None = None,
    most_rejected: float = 0.1,
    callbacks: Sequence[Callback] = (),
    records: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Progress]:
    """Runs `strategy` on the clients of `store`, from `state` or the start, to `rounds` rounds.

    Yields a `Progress` a measurement: its `state` is yours to keep, its `running` is what the next
    round takes over. So are the arrays of `state`, where that is given, but those that stand in it
    twice, which are copied.

    Args:
        strategy: what clients and server do.
        store: the clients' data, `dataset.store`.
        rounds: after which it ends, those before `state` included. 0 or more.
        key: of everything that is drawn. A run is a function of its key, on one kind of device.
        cohorts: who takes part in each round; None for everybody.
        measure: what is measured, such as `aggregated(strategy.model, protocol, cases)`; None for
            nothing but the loss and bytes.
        every: rounds between measurements; the last round is measured as well.
        measures_per_call: measurements in one compiled call, for rounds that are shorter than a
            dispatch; progress comes in such steps, all with the state after the last.
        state: to go on from; it is given up. None to begin.
        calls: those of the same run, where its `program` was made before.
        most_rejected: the share of the clients of a round that may be rejected because what they
            sent or would keep is not finite; 1 for any.
        callbacks: functions (Progress) -> None | Stop, called after each measurement. Once one
            says stop, the measurement with its `stop` is the last.
        records: the metrics of measurements before `state`, for `Progress.records`.

    Raises:
        CallbackError: naming a callback that raises.
        Diverged: naming the round, where the loss or the model stops being finite, or what more
            than `most_rejected` of its clients sent.
        ValueError: where the cohort is larger than the clients, or names a client twice; and before
            the first round, where the model's loss counts padding.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(1))
        >>> *_, last = simulate.simulate(strategy, dataset.store, 2, key, simulate.uniform(10))
        >>> last.round, last.metrics["clients"]
        (2, 10)
    """
    _check_given(store, key, strategy=strategy, cohorts=cohorts, measure=measure)
    for name, value in (("every", every), ("measures_per_call", measures_per_call)):
        at_least("simulate", name, value, 1)
    at_least("simulate", "rounds", rounds, 0)
    fraction("simulate", "most_rejected", most_rejected)
    calls = calls or program(lambda _: Parts(strategy, cohorts, measure)).of(key)
    now = calls.start(store) if state is None else trees.unshared(state)
    calls.look(now, store)

    found = _measurements(
        calls, store, now, rounds, measure, every, measures_per_call, most_rejected
    )
    with attending(callbacks):
        for progress in found:
            records = (*records, progress.metrics)
            progress = replace(progress, records=records)
            said = told(callbacks, progress)
            yield progress if said is None else replace(progress, stop=said[1])
            if said is not None:
                return


def _check_given(store, key, **parts) -> None:
    """Raises TypeError for what was mistaken for what `simulate` takes."""
    for name, value in parts.items():
        refuse_uncalled("simulate", name, value)
    if hasattr(store, "store"):
        raise TypeError(
            f"simulate(store={type(store).__name__}) is all of the data; give its training part, "
            "dataset.store."
        )
    kind = getattr(key, "dtype", None)
    raw = kind == np.uint32 and np.ndim(key) == 1
    if kind is None or not (raw or jnp.issubdtype(kind, jax.dtypes.prng_key)):
        raise TypeError(f"simulate(key={shown(key)}) is no key; give jax.random.key(0).")


def _measurements(
    calls: Calls, store, now: State, rounds, measure, every, measures_per_call, most_rejected
) -> Iterator[Progress]:
    """Plays the rounds after `now`."""
    names = measure.protocol.summary_names if measure else ()
    done = int(now.round)
    while done < rounds:
        begin = time.perf_counter()
        times, step = block_of(done, rounds, every, measures_per_call)
        now, out = calls.compiled(now, store, times, step).call(now, store)
        seen, up, down, means, values = jax.device_get(out)
        seconds = (time.perf_counter() - begin) / times
        told = ["loss", *sorted(seen.keys() - TOLD)]
        for i in range(times):
            took_part = seen["clients"][i]
            rejected = _rejected(seen["rejected"][i], took_part, done, most_rejected)
            _check_distinct(seen["repeated"][i], done)
            _check_finite(seen["loss"][i], took_part, bool(seen["finite"][i]), done)
            done += step
            sent, got = int(up[i].sum(dtype=np.int64)), int(down[i].sum(dtype=np.int64))
            metrics = {
                "round": done,
                "seconds": seconds,
                **{name: float(seen[name][i][-1]) for name in told},
                "clients": round(float(took_part.mean())),
                **_count(rejected, took_part),
                "bytes_up": sent,
                "bytes_down": got,
                "bytes_up_per_client": sent / max(1, int(np.count_nonzero(up[i]))),
                "bytes_down_per_client": got / max(1, int(np.count_nonzero(down[i]))),
            }
            for part, mean in means.items():
                prefix = "" if part == "test" else f"{part}_"
                for name, value in zip(names, mean[i], strict=True):
                    metrics[prefix + name] = float(value)
            of_users = {part: v[i] for part, v in values.items()}
            yield Progress(done, now, metrics, of_users, rejected)


def _count(rejected: Mapping[int, list[int]], took_part: np.ndarray) -> dict[str, float]:
    """How many were rejected since the last measurement, and their share of all who were asked."""
    count = sum(map(len, rejected.values()))
    return {"rejected": count, "rejected_share": count / max(1, count + int(took_part.sum()))}


def _rejected(ids: np.ndarray, took_part: np.ndarray, done: int, most: float):
    """{round: clients} of ids int[rounds, C], -1 for who was not rejected."""
    found = {done + i + 1: [int(k) for k in of if k >= 0] for i, of in enumerate(ids)}
    for i, (at, clients) in enumerate(found.items()):
        asked = len(clients) + int(took_part[i])
        if len(clients) > most * asked:
            names = ", ".join(map(str, clients[:5])) + (", ..." if len(clients) > 5 else "")
            raise Diverged(
                f"round {at}: what {len(clients)} of {asked} clients made is not finite ({names}), "
                f"a share of {len(clients) / asked:.2g} and more than most_rejected={most}; lower "
                "the learning rates and run again, or allow more."
            )
    return {at: clients for at, clients in found.items() if clients}


def _check_distinct(repeated: np.ndarray, done: int) -> None:
    if repeated.any():
        raise ValueError(
            f"cohorts: the cohort of round {done + int(np.argmax(repeated)) + 1} names a client "
            "twice, who would count twice; draw clients without replacement."
        )


def _check_finite(losses: np.ndarray, took_part: np.ndarray, finite: bool, done: int) -> None:
    wrong = np.flatnonzero(~np.isfinite(losses) & (took_part > 0))
    if len(wrong) or not finite:
        at = done + int(wrong[0]) + 1 if len(wrong) else done + len(losses)
        what = f"the loss is {losses[wrong[0]]}" if len(wrong) else "the model is not finite"
        raise Diverged(
            f"round {at}: {what}; lower the learning rates, or the server's, and run again."
        )
