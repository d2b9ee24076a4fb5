"""What the runs of a sweep share: compiled programs, the data that they read, and memory.

Runs of one outline (`numbers.outline_of`) share a program in which the numbers that they differ in
are traced, as far as a round takes them traced.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from .. import simulate
from .config import Config
from .numbers import numbers_of
from .prepare import Experiment, Read, read_data


@dataclass
class Shared:
    """The programs of runs of one outline. varying: keys of the numbers that they differ in."""

    varying: tuple[str, ...]
    lock: threading.Lock = field(default_factory=threading.Lock)
    traceable: tuple[str, ...] | None = None
    programs: list[tuple[tuple, Read, simulate.Program]] = field(default_factory=list)

    def calls(self, config: Config, experiment: Experiment) -> simulate.Calls:
        """Those of a run, of a program that it shares with all that it can."""
        numbers, key = numbers_of(config), jax.random.key(config.seed)
        mine = {name: numbers[name] for name in self.varying}
        with self.lock:
            if self.traceable is None:
                self.traceable = _traceable(experiment, key, mine)
            traced = {name: mine[name] for name in self.traceable}
            fixed = tuple(x for name, x in mine.items() if name not in traced)
            # To what the users of these data are known by, or by how popular their items are.
            if config.evaluation.fit is not None or config.evaluation.groups:
                fixed += (config.seed, json.dumps(config.plain["data"]))
            read = experiment.read
            alike = (p for f, r, p in self.programs if f == fixed and _one_program(r, read))
            if (program := next(alike, None)) is None:
                program = simulate.program(experiment.made)
                self.programs.append((fixed, read, program))
        return program.of(key, experiment.inputs(traced))


def _traceable(experiment: Experiment, key, numbers: Mapping[str, float]) -> tuple[str, ...]:
    """Keys of the numbers that the round of an experiment takes traced: all, or each that does."""
    store = experiment.dataset.store

    def go(traced):
        parts = experiment.made(experiment.inputs(traced))
        state = parts.strategy.init(key, store.num_clients)
        return simulate.blocks(parts, key, state, store, 1, 1, 1)

    def takes(names: Sequence[str]) -> bool:
        try:
            jax.eval_shape(go, {name: numbers[name] for name in names})
        except Exception:  # whatever a part says of numbers that it cannot see
            return False
        return True

    if takes(tuple(numbers)):
        return tuple(numbers)
    alone = tuple(name for name in numbers if takes([name]))
    return alone if takes(alone) else ()


def _one_program(a: Read, b: Read) -> bool:
    """Whether models are told the same of both data. Cases and what clients hold are arguments."""
    if a is b:
        return True
    if a.labelled and a.digests != b.digests:
        return False
    return all(_equal(a.late[name], b.late[name]) for name in a.late)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    return a == b


class Data:
    """What runs read, once for all runs that read the same, as long as one of them is to come."""

    def __init__(self, configs: Sequence[Config]):
        self.lock = threading.Lock()
        self.to_come: dict[str, int] = {}
        self.found: dict[str, Read] = {}
        self.each: dict[str, threading.Lock] = {}
        for config in configs:
            name = self._name(config)
            self.to_come[name] = self.to_come.get(name, 0) + 1
            self.each.setdefault(name, threading.Lock())

    def read(self, config: Config) -> Read:
        name = self._name(config)
        with self.each[name]:
            with self.lock:
                found = self.found.get(name)
            if found is None:
                found = read_data(config)
            with self.lock:
                self.found[name] = found
                self.to_come[name] -= 1
                if not self.to_come[name]:
                    del self.found[name]
        return found

    @staticmethod
    def _name(config: Config) -> str:
        of = config.plain
        parts = [of["data"], of["evaluation"]["candidates"], of["examples"], config.seed]
        return json.dumps(parts, sort_keys=True)


class Memory:
    """Bytes that runs take while they last; who finds too few left waits for another to end."""

    def __init__(self, allowed: int):
        self.left = self.allowed = allowed
        self.freed = threading.Condition()

    @contextmanager
    def taking(self, nbytes: int) -> Iterator[None]:
        nbytes = min(nbytes, self.allowed)  # what can never fit is refused by the run itself
        with self.freed:
            self.freed.wait_for(lambda: nbytes <= self.left)
            self.left -= nbytes
        try:
            yield
        finally:
            with self.freed:
                self.left += nbytes
                self.freed.notify_all()


def varying(configs: Sequence[Config], others: Sequence[str] = ()) -> tuple[str, ...]:
    """Keys of the numbers in which some of these differ, or which are among those of `others`."""
    all_of = [numbers_of(config) for config in configs]
    return tuple(
        name for name in all_of[0] if name in others or len({one[name] for one in all_of}) > 1
    )
