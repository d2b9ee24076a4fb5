"""PFedRec on MovieLens, every client in every round, evaluation included: seconds a round.

What the command `fedjax-rec run configs/pfedrec_ml100k.yaml` does in a round: fresh negatives, one
local epoch of alternating updates, aggregation, and HR and NDCG of each client's own model on 99
sampled negatives for validation and test. On a CPU a plain loop in C does the same beside it
(`c_loop`), round by round in turns, so that both see the same pace of the machine. It counts only
where the two learn alike.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax

from .. import data, evaluate, keys, simulate, strategies
from ..data.store import Dataset
from ..models import pfedrec
from ..types import Strategy
from . import c_loop
from .row import Row
from .timing import Timing, repeat

GOAL = {"ml-100k": 0.12, "ml-1m": 1.2}
OVER_C = "<= 0.9"
NEGATIVES, RATE = 4, 0.1
ALIKE = 0.01  # relative difference of losses up to which the two have done the same work


def packed_of(source: str) -> Dataset:
    """What is measured on; needs the data."""
    return data.pack(data.leave_one_out()(data.implicit(data.load(source))), negatives="paper")


class Ours:
    """Rounds of this library on `packed`, one a call. rate: of the scorers; negatives: beside each
    interaction."""

    def __init__(
        self, packed: Dataset, rounds: int, rate: float = RATE, negatives: int = NEGATIVES
    ):
        protocol = evaluate.sampled(evaluate.metrics(["hr@10", "ndcg@10"]))
        parts = {"validation": packed.validation, "test": packed.test}
        self.clients = packed.store.num_clients
        self.item_rate = RATE * packed.num_items * 80
        self.strategy: Strategy = strategies.pfedrec(
            pfedrec(packed.num_items), data.pointwise(negatives),
            evaluate.probe_clients(protocol, parts), learning_rate=rate,
            item_learning_rate=self.item_rate,
        )  # fmt: skip
        self.key = jax.random.key(0)
        measure = simulate.personal(protocol, parts)
        self.run = simulate.simulate(self.strategy, packed.store, rounds, self.key, measure=measure)

    def begin(self):
        """(shared, private) before the first round."""
        state = self.strategy.init(keys.stream(self.key, "init"), self.clients)
        return state.shared, state.private

    def __call__(self) -> dict:
        return next(self.run).metrics


def timed(source: str, rounds: int, threads: int = 1) -> Timing:
    """Medians over `rounds` rounds after the first."""
    simulate.configure(threads, cache=None)
    return repeat(Ours(packed_of(source), rounds + 1), rounds)


def in_turns(packed: Dataset, rounds: int) -> dict[str, list]:
    """Ours and the C loop's after a first round of each: `ours` and `c`, CPU seconds of each round,
    and `losses`, pairs of all rounds, the first included.

    Raises:
        RuntimeError: where there is no C compiler.
    """
    library, ours = c_loop.compiled(), Ours(packed, rounds + 1)
    theirs = c_loop.c_rounds(library, packed, ours.begin(), NEGATIVES, RATE, ours.item_rate)
    seen: dict[str, list] = {"losses": [(ours()["loss"], theirs()[0])], "ours": [], "c": []}
    for _ in range(rounds):
        mine, loss = _cpu(lambda: ours()["loss"])
        other, loss_of_c = _cpu(lambda: theirs()[0])
        seen["ours"].append(mine)
        seen["c"].append(other)
        seen["losses"].append((loss, loss_of_c))
    return seen


def _cpu(call: Callable[[], float]) -> tuple[float, float]:
    """(CPU seconds, what it returns)."""
    begin = time.process_time()
    value = call()
    return time.process_time() - begin, value


def rounds(source: str) -> Iterator[Row]:
    """Seconds a round on `source`; needs the data."""
    many = 15 if source == "ml-100k" else 5
    seen = timed(source, many)
    if jax.default_backend() == "cpu":
        yield Row(
            "rounds", f"PFedRec {source}, CPU seconds a round", seen.cpu, "s", f"<= {GOAL[source]}"
        )
        yield from over_c(source, packed_of(source), many)
    yield Row("rounds", f"PFedRec {source}, wall seconds a round", seen.wall, "s", "")


def over_c(name: str, packed: Dataset, many: int) -> Iterator[Row]:
    """Our CPU seconds over the C loop's, the median of rounds in turns; or why there is none."""
    what = f"PFedRec {name}, CPU over a C loop's"
    try:
        found = in_turns(packed, many)
    except RuntimeError as error:
        yield Row("rounds", what, None, "x", f"{OVER_C} ({error})")
        return
    differ = c_loop.apart(*zip(*found["losses"], strict=True))
    yield Row("rounds", f"PFedRec {name}, a C loop's CPU", statistics.median(found["c"]), "s", "")
    if differ > ALIKE:
        why = f"refused: losses of the two differ by {100 * differ:.2g}%, at most 1% is the same"
        yield Row("rounds", what, None, "x", f"{OVER_C} ({why})")
        return
    pairs = zip(found["ours"], found["c"], strict=True)
    yield Row("rounds", what, statistics.median(a / b for a, b in pairs), "x", OVER_C)
    yield Row("rounds", f"PFedRec {name}, loss over a C loop's, most", 100 * differ, "%", "<= 1")


def first_round() -> Iterator[Row]:
    """Seconds from nothing compiled to the first round done, in fresh processes: with an empty
    compilation cache, and with the one that the first left behind."""
    script = (
        "import time, sys\n"
        "from fedjax_rec import simulate\n"
        "from fedjax_rec.bench import rounds\n"
        "configure = simulate.configure\n"
        "simulate.configure = lambda threads, cache: configure(threads, sys.argv[1])\n"
        "print(rounds.timed('ml-100k', 1).first)\n"
    )
    with tempfile.TemporaryDirectory() as cache:
        for what, goal in (("cold", "< 8"), ("with the persistent cache", "< 3")):
            done = subprocess.run(
                [sys.executable, "-c", script, cache],
                capture_output=True, text=True, check=True, env=os.environ,
            )  # fmt: skip
            value = float(done.stdout.split()[-1])
            yield Row("first", f"first round of PFedRec ml-100k, {what}", value, "s", goal)
