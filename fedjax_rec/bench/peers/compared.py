"""Who is compared, over which rounds, by which goals, and whether the two have done the same work.

Each peer plays the rounds that its time allows; ours are played before, between and after, of which
the median counts. After as many rounds from the same parameters on the same samples the losses must
agree to 1%, else there is no ratio. The first round of each, which compiles and starts, is not
counted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..row import Row
from .environments import FEDJAX, TORCH
from .played import OWN_JAX, Answer, Script, play
from .workloads import Workload

ALIKE = 0.01
OWN_ROUNDS = 20  # of a twentieth of a second
MIB = 2**20
ONE = ("",)

OURS = Script("ours", "fedjax_rec", ("ours_workload.py",), threads=ONE)
PEERS = (
    Script(
        "torch", "PyTorch by hand", ("torch_workload.py", "torch_models.py"), (TORCH, "numpy"),
        rounds={"items": 8, "dense": 8},
    ),
    Script(
        "autograd", "PyTorch, autograd", ("torch_workload.py", "torch_models.py"),
        (TORCH, "numpy"), flags=("--autograd",), shares="torch", rounds={"items": 6, "dense": 6},
    ),
    Script(
        "vmap", "dense vmap", ("vmap_workload.py",), rounds={"items": 4, "dense": 4},
    ),
    Script(
        "fedjax", "FedJAX", ("fedjax_workload.py",), (FEDJAX, OWN_JAX),
        rounds={"items": 6, "dense": 6},
    ),
    Script(
        "pfl", "pfl", ("pfl_workload.py", "torch_models.py"), ("pfl==0.6.0", TORCH),
        rounds={"items": 4, "dense": 4},
    ),
    Script(
        "fluke", "fluke", ("fluke_workload.py", "torch_models.py"), ("fluke-fl==0.8.1", TORCH),
        without=("torchvision",), rounds={"items": 4, "dense": 4},
    ),
    Script(
        "flower", "Flower", ("flower_workload.py", "torch_models.py"),
        ("flwr[simulation]==1.42.0", TORCH), threads=ONE, rounds={"items": 2, "dense": 2},
    ),
)  # fmt: skip
# CPU time over ours.
GOALS = {
    "items": {"torch": 10, "fedjax": 30, "pfl": 50, "fluke": 100, "flower": 500},
    "dense": {"fedjax": 3, "pfl": 3, "flower": 3, "fluke": 3},
}


@dataclass(frozen=True)
class Line:
    """A peer on a workload. why: it has no answer, or none that counts; "" where it has."""

    script: Script
    answer: Answer | None
    why: str = ""
    goal: int | None = None

    @property
    def title(self) -> str:
        told = f" {self.answer.version.partition('+')[0]}" if self.answer else ""
        return self.script.title + told


@dataclass(frozen=True)
class Compared:
    """A workload, our answers in the order of their turns, and the peers'."""

    work: Workload
    ours: tuple[Answer, ...]
    lines: tuple[Line, ...]

    @property
    def cpu(self) -> float:
        return statistics.median(answer.cpu for answer in self.ours)

    @property
    def wall(self) -> float:
        return statistics.median(answer.wall for answer in self.ours)

    def ratio(self, line: Line) -> float | None:
        """CPU time of a peer over ours; None where it does not count."""
        return None if line.why or line.answer is None else line.answer.cpu / self.cpu

    def rows(self) -> Iterator[Row]:
        """Figures, with goals."""
        row = lambda what, *rest: Row("peers", f"{self.work.title}: {what}", *rest)
        yield row(f"{OURS.title}, CPU seconds a round", self.cpu, "s", "")
        yield row(f"{OURS.title}, wall seconds a round", self.wall, "s", "")
        for line in self.lines:
            goal = f">= {line.goal}" if line.goal else ""
            if line.answer and not line.why:
                yield row(f"{line.title}, CPU seconds a round", line.answer.cpu, "s", "")
                yield row(f"{line.title}, wall seconds a round", line.answer.wall, "s", "")
                yield row(f"{line.title}, peak memory", line.answer.peak_bytes / MIB, "MiB", "")
            else:
                goal = f"{goal} ({line.why})".strip()
            yield row(f"CPU time of {line.title} over ours", self.ratio(line), "x", goal)


def compared(
    work: Workload,
    peers: Sequence[Script] = PEERS,
    say: Callable[[str], object] = lambda told: None,
    playing: Callable[[Script, Workload, int], Answer] = play,
) -> Compared:
    """All of `peers` on `work`, one after another; arguments and errors are those of `turns`."""
    *_, last = turns(work, peers, say, playing)
    return last


def turns(
    work: Workload,
    peers: Sequence[Script] = PEERS,
    say: Callable[[str], object] = lambda told: None,
    playing: Callable[[Script, Workload, int], Answer] = play,
) -> Iterator[Compared]:
    """What is known after each turn: ours, each of `peers`, ours between and after them.

    Args:
        work: what is done.
        peers: who does it beside us.
        say: is called with what happens.
        playing: plays a script, as `play` does.

    Raises:
        RuntimeError: where ours fails; of a peer that fails only its line says so.
    """
    most = max([OWN_ROUNDS, *(rounds_of(peer, work) for peer in peers)])
    ours, found = [], []

    def own() -> Compared:
        ours.append(playing(OURS, work, most))
        say(f"{OURS.title}: {ours[-1].cpu:.3g} CPU seconds a round")
        return Compared(work, tuple(ours), tuple(found))

    yield own()
    for n, peer in enumerate(peers):
        goal = GOALS.get(work.name, {}).get(peer.name)
        try:
            answer = playing(peer, work, rounds_of(peer, work))
        except (RuntimeError, ValueError) as error:
            line = Line(peer, None, " ".join(str(error).split()), goal)
        else:
            line = Line(peer, answer, refusal(answer, ours[0]), goal)
        found.append(line)
        took = f": {line.answer.cpu:.3g} CPU seconds a round" if line.answer else ""
        say(line.title + took + (f" ({line.why})" if line.why else ""))
        yield Compared(work, tuple(ours), tuple(found))
        if n == len(peers) // 2 - 1:
            yield own()
    yield own()


def rounds_of(peer: Script, work: Workload) -> int:
    return peer.rounds.get(work.name, 2)


def refusal(theirs: Answer, ours: Answer) -> str:
    """Why the two are not the same work, by the losses after as many rounds; "" if they are."""
    own, other = ours.losses[theirs.rounds - 1], theirs.losses[-1]
    if math.isfinite(other) and abs(other / own - 1) <= ALIKE:
        return ""
    return f"refused: loss {other:.4g} after {theirs.rounds} rounds, ours is {own:.4g}"
