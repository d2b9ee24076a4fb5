"""FLOPs and bytes of a compiled program, of XLA's cost analysis with its loops counted out.

That analysis counts the body of a loop once, however often it runs: of a round, whose clients and
batches are loops, it sees one batch of one chunk. Here each body is analysed by itself,

    cost(program) = sum over computations c that are not fused or called:  runs(c) own(c)
    own(c)        = XLA's cost of c - that of the loops in it, counted once

and runs(c) is the trip count where XLA knows it (`known_trip_count`, of a scan), and what a trace
of the program counted where it depends on the data (`traced_runs`).

XLA's rules: a product of [m, k] and [k, n] is 2 m k n FLOPs, an elementwise operation one an
element, `tanh`, `exp` and the like are transcendentals and not FLOPs. Bytes are those that
operations read and write, each as if nothing were in a cache.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

KEYS = {"flops": "flops", "bytes": "bytes accessed", "transcendentals": "transcendentals"}
HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
NAME = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
REFERS = re.compile(r"(\w+)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}?")
METADATA = re.compile(r', metadata=\{(?:"(?:[^"\\]|\\.)*"|[^{}"])*\}')  # of lines in Python
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Cost:
    """Of one run of a program. unknown: loops whose trips nobody knows, counted once, so that the
    numbers are a lower bound."""

    flops: float
    bytes: float
    transcendentals: float
    unknown: tuple[str, ...] = ()


@dataclass
class Computation:
    """One computation of a module. loops: (body, condition, trips or None) of its own; calls: what
    it fuses, calls or branches to."""

    text: str
    instructions: list[str] = field(default_factory=list)
    loops: list[tuple[str, str, int | None]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)


def cost_of(compiled: Any, runs: Mapping[str, float] | None = None) -> Cost:
    """The cost of a program.

    Args:
        compiled: What `jax.jit(f).lower(...).compile()` returns.
        runs: How often each instruction ran, by name, see `traced_runs`; None knows of none.

    Returns:
        FLOPs, bytes and transcendentals of one run.

    Raises:
        RuntimeError: This jaxlib does not tell what XLA's analysis says of a computation.
    """
    module = Module(compiled.as_text())
    found = dict.fromkeys(KEYS, 0.0)
    unknown: list[str] = []
    for name, times in module.runs(runs or {}, unknown).items():
        own = module.own(name)
        for key in found:
            found[key] += times * own[key]
    return Cost(**found, unknown=tuple(unknown))


class Module:
    """The computations of an optimized module, by name."""

    def __init__(self, text: str):
        self.computations, self.entry = _read(METADATA.sub("", text))
        self.head = text.partition("\n")[0].partition(",")[0]
        self.known: dict[str, dict[str, float]] = {}
        self.analyse = _analysis()

    def runs(self, seen: Mapping[str, float], unknown: list[str]) -> dict[str, float]:
        """How often the entry and each body and condition run; `unknown` gets bodies of which that
        is not known."""
        found: dict[str, float] = {}

        def add(name: str, times: float) -> None:
            found[name] = found.get(name, 0.0) + times
            for body, condition, trips in self.loops_of(name):
                if trips is not None:
                    turns = times * trips
                elif (counted := self._counted(body, seen)) is not None:
                    turns = counted
                else:
                    turns = times
                    unknown.append(body)
                add(body, turns)
                add(condition, turns + times)

        add(self.entry, 1.0)
        return found

    def loops_of(self, name: str) -> list[tuple[str, str, int | None]]:
        """The loops of a computation and of what it calls, not those within their bodies."""
        here = self.computations[name]
        return [*here.loops, *(one for called in here.calls for one in self.loops_of(called))]

    def own(self, name: str) -> dict[str, float]:
        """The cost of a computation without its loops."""
        found = dict(self._once(name))
        for body, condition, _ in self.loops_of(name):
            for part in (body, condition):
                found = {key: x - self._once(part)[key] for key, x in found.items()}
        return found

    def _once(self, name: str) -> dict[str, float]:
        """XLA's cost of a computation, as the entry of a module of its own."""
        if name not in self.known:
            others = [self.computations[one].text for one in self._below(name)]
            entry = "ENTRY " + self.computations[name].text.removeprefix("ENTRY ")
            told = self.analyse("\n\n".join([self.head, *others, entry]) + "\n")
            self.known[name] = {key: told.get(word, 0.0) for key, word in KEYS.items()}
        return self.known[name]

    def _below(self, name: str) -> list[str]:
        """All that a computation needs, each after what it needs itself."""
        found: dict[str, None] = {}

        def visit(one: str) -> None:
            here = self.computations[one]
            for below in (*here.calls, *(c for loop in here.loops for c in loop[:2])):
                if below not in found:
                    visit(below)
                    found[below] = None

        visit(name)
        return list(found)

    def _counted(self, body: str, seen: Mapping[str, float]) -> float | None:
        """How often a body ran: as often as its instruction that a trace saw most often."""
        counts = [seen[one] for one in self.computations[body].instructions if one in seen]
        return max(counts, default=None)


def _read(text: str) -> tuple[dict[str, Computation], str]:
    """(computations, the name of the entry) of a module as XLA prints it."""
    found: dict[str, Computation] = {}
    entry, lines, name = "", [], None
    for line in text.splitlines():
        if name is None and (head := HEAD.match(line)):
            name, lines = head[2], [line]
            entry = name if head[1] else entry
        elif name is not None:
            lines.append(line)
            if line.startswith("}"):
                found[name] = Computation("\n".join(lines))
                name = None
    for here in found.values():
        for line in here.text.splitlines()[1:-1]:
            if told := NAME.match(line):
                here.instructions.append(told[1])
            refers = {key: _names(names) for key, names in REFERS.findall(line)}
            if " while(" in line:
                trips = TRIPS.search(line)
                loop = refers.pop("body")[0], refers.pop("condition")[0]
                here.loops.append((*loop, int(trips[1]) if trips else None))
            here.calls += [one for names in refers.values() for one in names if one in found]
    return found, entry


def _names(told: str) -> list[str]:
    return [one.strip().removeprefix("%") for one in told.split(",")]


def _analysis():
    """text of a module -> what XLA's cost analysis says of it."""
    try:
        of_text = importlib.import_module("jaxlib._hlo").hlo_module_from_text
        of_module = importlib.import_module("jaxlib._jax").hlo_module_cost_analysis
    except (ImportError, AttributeError):
        raise RuntimeError(
            f"profile: jax {jax.__version__} does not say what XLA's cost analysis makes of a part "
            "of a program; use the jax of pyproject.toml."
        ) from None
    client = jax.devices()[0].client
    return lambda text: of_module(client, of_text(text))
