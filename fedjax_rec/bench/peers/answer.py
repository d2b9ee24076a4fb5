"""What a script of a peer is given, how it is timed, and what it answers. Needs numpy alone.

It lies beside the scripts that import it, which run in environments without fedjax_rec:

    python pfl_workload.py --npz work.npz --rounds 4

The file holds samples x [n, ...] and y [n] of all clients back to back, where each begins
(offsets [N + 1]), how the round is played (batch, rate) and the parameters before the first one
(start_NAME), so that all begin with the same bits. Two models, told apart by their parameters:

    items V [I, D], w [D], b []                 score(i) = V[i] . w + b
    w1 [F, H], b1, w2 [H, K], b2, w3 [K], b3    score(x) = relu(relu(x W1 + b1) W2 + b2) . w3 + b3

with loss mean_j BCE(y_j, score(x_j)). A round is one local epoch of SGD at every client, in batches
drawn without replacement, and then p += sum_u n_u (change of p at u) / sum_u n_u (McMahan et al.,
2017, arXiv:1602.05629). The last line of the answer is JSON: version, walls and cpus (seconds of
each round), losses (over all samples in float64, after the last round, or after each), peak_bytes.
"""

import argparse
import itertools
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ITEMS = ("items", "w", "b")
DENSE = ("w1", "b1", "w2", "b2", "w3", "b3")


class Given(NamedTuple):
    """The work. path: of its file; clients: (x, y) of each; start: parameters by name, float32;
    flags: of the script, those that were set."""

    path: str
    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    start: dict[str, np.ndarray]
    batch: int
    rate: float
    rounds: int
    flags: tuple[str, ...] = ()

    @property
    def clients(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [(self.x[a:b], self.y[a:b]) for a, b in itertools.pairwise(self.offsets)]

    @property
    def has_items(self) -> bool:
        return "items" in self.start


def given(*flags: str) -> Given:
    """What the command line names; flags: that it may have besides."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--npz", required=True)
    parser.add_argument("--rounds", type=int, required=True)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    if args.rounds < 2:
        sys.exit(f"error: --rounds {args.rounds} leaves none to time after the first; use 2.")
    return read(args.npz, args.rounds, tuple(f for f in flags if getattr(args, f.strip("-"))))


def read(path: str | Path, rounds: int, flags: tuple[str, ...] = ()) -> Given:
    """The work that lies in a file."""
    with np.load(path) as file:
        found = {name: file[name] for name in file.files}
    names = ITEMS if "start_items" in found else DENSE
    start = {name: found[f"start_{name}"] for name in names}
    rate, batch = float(found["rate"]), int(found["batch"])
    x, y, offsets = (found[name] for name in ("x", "y", "offsets"))
    return Given(str(path), x, y, offsets, start, batch, rate, rounds, flags)


def scores(p: dict, x: np.ndarray) -> np.ndarray:
    """Those of the header, in float64."""
    p = {name: np.asarray(value, np.float64) for name, value in p.items()}
    if "items" in p:
        return (p["items"] @ p["w"] + p["b"])[x]
    hidden = np.maximum(x @ p["w1"] + p["b1"], 0)
    return np.maximum(hidden @ p["w2"] + p["b2"], 0) @ p["w3"] + p["b3"]


def loss(work: Given, parameters: dict) -> float:
    """Mean cross-entropy over all samples."""
    z = scores(parameters, work.x)
    return float(np.mean(np.logaddexp(0.0, z) - work.y * z))


class Clock:
    """Wall and CPU seconds of each round: `with clock:`, or `start` and `stop` from callbacks.

    tree: of all processes that this one has started as well, from /proc, in hundredths of a second.
    """

    def __init__(self, tree: bool = False):
        self.cpu = (lambda: _ticks(_tree())) if tree else time.process_time
        self.memory = _shares if tree else _peak
        self.walls, self.cpus, self.peak = [], [], 0

    def start(self) -> None:
        self.began = time.perf_counter(), self.cpu()

    def stop(self) -> None:
        wall, cpu = time.perf_counter() - self.began[0], self.cpu() - self.began[1]
        self.walls.append(wall)
        self.cpus.append(cpu)
        self.peak = max(self.peak, self.memory())
        print(
            f"round {len(self.walls)}: {wall:.3f} s, {cpu:.3f} CPU-s", file=sys.stderr, flush=True
        )

    def __enter__(self):
        self.start()

    def __exit__(self, *failure):
        if failure == (None, None, None):
            self.stop()


def told(work: Given, clock: Clock, version: str, *parameters: dict) -> None:
    """Prints the answer. parameters: after the last round, or after each."""
    found = {
        "version": version,
        "walls": clock.walls,
        "cpus": clock.cpus,
        "losses": [loss(work, p) for p in parameters],
        "peak_bytes": clock.peak,
    }
    print(json.dumps(found), flush=True)


def _peak() -> int:
    """The most memory that this process had. `ru_maxrss` counts that of its parent before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def _tree() -> list[int]:
    """This process and all below it."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(place.parent.name))
    found, waiting = [], [os.getpid()]
    while waiting:
        found.append(waiting.pop())
        waiting += children.get(found[-1], [])
    return found


def _ticks(processes: list[int]) -> float:
    """CPU seconds of processes, and of those that they have waited for."""
    total = 0
    for process in processes:
        try:
            text = Path(f"/proc/{process}/stat").read_text()
        except OSError:
            continue
        total += sum(int(x) for x in text.rsplit(")", 1)[1].split()[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def _shares() -> int:
    """Memory of all processes of the tree now; of a page that several have, each has its share."""
    total = 0
    for process in _tree():
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
