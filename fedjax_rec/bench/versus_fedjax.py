"""The same federated averaging as FedJAX's, side by side: CPU and wall seconds a round.

The item table of `peers.workloads`, on MovieLens-100K and on MovieLens-1M: no evaluation and no
fresh negatives on either side. How the two are compared, and that their losses must agree, is in
`peers.compared`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .peers import workloads
from .peers.compared import PEERS, compared
from .row import Row

GOAL = {"ml-100k": 15, "ml-1m": 30}
ROUNDS = {"ml-100k": 6, "ml-1m": 3}


def versus_fedjax(source: str) -> Iterator[Row]:
    """Figures of both on `source`; needs the data, and FedJAX from a package index."""
    (peer,) = (peer for peer in PEERS if peer.name == "fedjax")
    work = workloads.items(source)
    found = compared(work, [replace(peer, rounds={work.name: ROUNDS[source]})])
    (line,) = found.lines
    name = f"FedAvg {source}"
    yield Row("fedjax", f"{name}: this library, CPU seconds a round", found.cpu, "s", "")
    ratio, goal = found.ratio(line), f">= {GOAL[source]}"
    if line.answer is None or ratio is None:
        goal = f"{goal} ({line.why})"
        yield Row("fedjax", f"{name}: FedJAX's CPU time over ours", None, "x", goal)
        return
    theirs = line.answer
    yield Row("fedjax", f"{name}: {line.title}, CPU seconds a round", theirs.cpu, "s", "")
    yield Row("fedjax", f"{name}: FedJAX's CPU time over ours", ratio, "x", goal)
    yield Row("fedjax", f"{name}: FedJAX's wall time over ours", theirs.wall / found.wall, "x", "")
    own = found.ours[0].losses[theirs.rounds - 1]
    yield Row("fedjax", f"{name}: our loss after {theirs.rounds} rounds", own, "", "")
    yield Row("fedjax", f"{name}: FedJAX's loss after them", theirs.losses[-1], "", "")
