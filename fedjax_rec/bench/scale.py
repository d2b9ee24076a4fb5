"""Cores at work: rounds dealt to two devices, and many runs at once.

Each bench has a process of its own, since the devices of a CPU are told before anything is
computed. What is compared alternates in one process, and medians are taken.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

from .. import data, models, simulate, strategies
from ..data.sources import sources
from .fresh import in_fresh_process
from .row import Row

RATES = [10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 100.0, 120.0]
SEEDS, ROUNDS = 4, 100
CONFIG = {
    "data": {"source": "ml-100k", "negatives": "paper"},
    "model": "fedjax_rec.models.fedmf",
    "strategy": {"init_args": {"user_learning_rate": 20.0, "item_learning_rate": 60.0}},
    "evaluation": {"candidates": "sampled", "metrics": ["hr@10", "ndcg@10"], "every": 10},
    "rounds": ROUNDS,
}


def devices() -> Iterator[Row]:
    """Wall time of a round on two devices over that on one, without evaluation; needs the data."""
    for source, goal in (("ml-100k", ""), ("ml-1m", "<= 0.6")):
        for name in ("fedmf", "pfedrec"):
            one, two = in_fresh_process("scale", f"on_devices({source!r}, {name!r})")
            what = f"{name} {source}, a round on two devices: wall over one's"
            yield Row("devices", what, two / one, "x", goal)


def on_devices(source: str, name: str, times: int = 5, rounds: int = 5) -> tuple[float, float]:
    """Median wall seconds of a round on one device and on two."""
    simulate.configure(1, cache=None, devices=2)
    packed = data.pack(data.leave_one_out()(data.implicit(data.load(source))), negatives="paper")
    model = getattr(models, name)(packed.num_items)
    strategy = getattr(strategies, name)(model, data.pointwise(4))
    key, calls = jax.random.key(0), []
    for count in (1, 2):
        program = simulate.program(lambda _: simulate.Parts(strategy), simulate.clients_mesh(count))
        of_run = program.of(key)
        state = of_run.start(packed.store)
        call = of_run.compiled(state, packed.store, 1, rounds).call
        calls.append([call, jax.block_until_ready(call(state, packed.store)[0]), []])
    for _ in range(times):
        for one in calls:
            begin = time.perf_counter()
            one[1] = jax.block_until_ready(one[0](one[1], packed.store)[0])
            one[2].append((time.perf_counter() - begin) / rounds)
    first, second = (statistics.median(one[2]) for one in calls)
    return first, second


def sweep() -> Iterator[Row]:
    """32 runs of FedMF on MovieLens-100K, eight rates by four seeds, with all that a run writes, by
    the command: one a core, over one after another in one process, and over a command for each."""
    many = len(RATES) * SEEDS
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        (file := out / "run.yaml").write_text(json.dumps(CONFIG))
        axes = [f"--sweep.strategy.item_learning_rate={RATES}", f"--sweep.seed=range({SEEDS})"]
        swept = lambda workers: _wall(
            ["sweep", str(file), *axes, "--quiet", f"--workers={workers}", "--out"], out
        )
        together, alone = swept(os.cpu_count()), swept(1)
        command = statistics.median(
            _wall(["run", str(file), "--quiet", "--out"], out) for _ in "123"
        )
    what = f"{many} runs of FedMF ml-100k, {ROUNDS} rounds, {os.cpu_count()} at a time"
    yield Row("sweep", f"{what}: wall", together, "s", "")
    yield Row("sweep", f"{what}: over one at a time", together / alone, "x", "<= 0.55")
    yield Row("sweep", f"{what}: over {many} commands", together / (many * command), "x", "<= 0.2")


def _wall(words: list[str], place: Path) -> float:
    """Seconds of `fedjax-rec WORDS OUT`, in a new folder and with no program compiled before."""
    out = Path(tempfile.mkdtemp(dir=place))
    cache = out / "cache" / "fedjax_rec"
    cache.mkdir(parents=True)
    for found in sources.cache().glob("ml-*"):  # the data alone
        (cache / found.name).symlink_to(found)
    command = [sys.executable, "-m", "fedjax_rec.experiment.main", *words, str(out / "runs")]
    env = {**os.environ, "XDG_CACHE_HOME": str(out / "cache")}
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return time.perf_counter() - begin
