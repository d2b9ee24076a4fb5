"""PFedRec on MovieLens, every client in every round, evaluation included: seconds a round.

What the command `fedjax-rec run configs/pfedrec_ml100k.yaml` does in a round: fresh negatives, one
local epoch of alternating updates, aggregation, and HR and NDCG of each client's own model on 99
sampled negatives for validation and test.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import jax

from .. import data, evaluate, simulate, strategies
from ..models import pfedrec
from .row import Row
from .timing import Timing, repeat

# Seconds a round, from docs/results.md's sources: what a plain C loop takes on one thread.
C_LOOP = {"ml-100k": 0.045, "ml-1m": 0.53}
GOAL = {"ml-100k": 0.12, "ml-1m": 1.2}


def timed(source: str, rounds: int, threads: int = 1) -> Timing:
    """Medians over `rounds` rounds after the first."""
    simulate.configure(threads, cache=None)
    packed = data.pack(data.leave_one_out()(data.implicit(data.load(source))), negatives="paper")
    protocol = evaluate.sampled(evaluate.metrics(["hr@10", "ndcg@10"]))
    parts = {"validation": packed.validation, "test": packed.test}
    model = pfedrec(packed.num_items)
    probe = evaluate.probe_clients(protocol, parts)
    strategy = strategies.pfedrec(model, data.pointwise(4), probe)
    run = simulate.simulate(
        strategy, packed.store, rounds + 1, jax.random.key(0),
        measure=simulate.personal(protocol, parts),
    )  # fmt: skip
    return repeat(lambda: next(run).values, rounds)


def rounds(source: str) -> Iterator[Row]:
    """Seconds a round on `source`; needs the data."""
    seen = timed(source, 15 if source == "ml-100k" else 5)
    if jax.default_backend() == "cpu":
        yield Row(
            "rounds", f"PFedRec {source}, CPU seconds a round", seen.cpu, "s", f"<= {GOAL[source]}"
        )
        ratio = seen.cpu / C_LOOP[source]
        yield Row("rounds", f"PFedRec {source}, CPU over a C loop's", ratio, "x", "1 (stretch)")
    yield Row("rounds", f"PFedRec {source}, wall seconds a round", seen.wall, "s", "")


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
