"""A sweep: many runs of one configuration in one process, over all cores.

    points -> configurations;   for each, on the next free core:  the run, in a folder of its own

Runs that differ in numbers and seeds alone share one compiled program, in which those numbers are
traced (`numbers`); what changes shapes or code is compiled once for each of its values. Each core
plays a run of its own: on a CPU, several runs in one `vmap` cost each of them nearly twice its time
alone, since every loop carries all of them to the end of the longest.

A folder holds a run as `fedjax-rec run` would have left it, so a sweep that was stopped or killed
goes on: what is finished is passed over, and what was begun is resumed. A run that diverges or
fails ends by itself; one that failed is tried again by the next call. The table of all runs is
`sweep.csv` and `sweep.parquet`.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from .. import simulate, strategies
from ..report.reading import read_run
from ..rounds.memory import allowed_bytes
from ..simulate.device import cores
from . import config as configuration
from . import stopped
from .config import Config, ConfigError
from .failures import line_of
from .folder import LOCK, RunFolder, fingerprint
from .grid import SEED, folder_of, named, points, text
from .numbers import numbers_of, outline_of
from .prepare import Experiment, Read, assembled, read_data
from .run import Stopped, carry_out, foreseen, interruptible
from .swept import Ended, table, write_table

ENDED = "ended.jsonl"  # of a sweep: runs that did not finish and would not the next time
FAILED = "failed.log"  # where runs failed, of the last call


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. point: the values of its axes, the seed among them."""

    point: dict[str, Any]
    config: Config
    out: Path


def trials(
    config: str | Path | Mapping | None,
    axes: Mapping[str, Any],
    out: Path | str,
    overrides: Sequence[str] = (),
    draws: int | None = None,
    stem: str | None = None,
) -> list[Trial]:
    """The runs of a sweep, each with its configuration read. stem: what they are called before
    their points; None for the name of the file.

    Without an axis of seeds they have that of the configuration.

    Raises:
        ConfigError: An axis is unknown or empty, or a value of it makes no sense; two points are
            the same run.
    """
    raw, stem = configuration.raw_of(config), stem or configuration.stem(config)
    axes = {**(raw.pop("sweep", None) or {}), **axes}
    found: list[Trial] = []
    places: set[Path] = set()
    for point in points(axes, draws):
        words = [f"--{key}={text(value)}" for key, value in point.items() if key in axes]
        read = configuration.read(raw, [*overrides, *words])
        if read.devices > 1:
            raise ConfigError(
                f"devices={read.devices}: a sweep plays a whole run on each core; use devices=1."
            )
        point = {**point, SEED: read.seed}
        title, name = str(read.plain["name"] or stem), named(point)
        place = Path(out) / folder_of(name or title, read.seed)
        if place in places:
            if draws is not None:  # the same values once more
                continue
            raise ConfigError(f"sweep: {place.name} stands twice on its axes; leave one out.")
        places.add(place)
        read = replace(read, name=",".join(filter(None, [title, name])))
        found.append(Trial(point, read, place))
    return found


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
            if config.evaluation.fit is not None:  # to what the users of these data are known by
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


def _peak(config: Config, experiment: Experiment, calls: simulate.Calls, folder: RunFolder) -> int:
    done = simulate.last_saved(folder.checkpoints)
    forecast = foreseen(config, experiment, calls, done)
    return 0 if forecast is None else forecast.peak


def threads_of_sweep(runs: Sequence[Trial], workers: int | None = None) -> int:
    """Threads that XLA needs for this sweep: it plays no more programs at a time than it has."""
    asked = runs[0].config.threads
    return asked and max(asked, workers or cores())


def run_sweep(
    runs: Sequence[Trial],
    out: Path | str,
    workers: int | None = None,
    told: Callable[[Ended], None] = lambda ended: None,
) -> list[Ended]:
    """Plays what is left of a sweep and writes its table.

    Args:
        runs: See `trials`.
        out: The folder of the sweep.
        workers: Runs at a time; None for one a core, as long as memory lasts.
        told: Called of each run once it has ended, of those that had before at once.

    Returns:
        How each run ended, in the order of `runs`.

    Raises:
        ValueError: Another process sweeps in `out`, or a folder in it holds another run.
        Stopped: Ctrl-C was pressed; the same call goes on from there.
    """
    out = Path(out)
    for trial in runs:
        RunFolder(trial.out, trial.config.plain)  # refuses what holds another run
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, blocking=False), interruptible() as stops:
            return _swept(runs, out, workers or cores(), told, stops)
    except Timeout:
        raise ValueError(
            f"--out {out}: another process sweeps there; wait for it, or use another folder."
        ) from None


def _swept(runs: Sequence[Trial], out: Path, workers: int, told, stops: list) -> list[Ended]:
    hopeless = _ended_before(out)
    ended: dict[int, Ended] = {}
    left: list[tuple[int, Trial]] = []
    for i, trial in enumerate(runs):
        if _finished(trial):
            ended[i] = Ended(trial.point, trial.out, "finished")
        elif (error := hopeless.get(_mark(trial))) is not None:
            ended[i] = Ended(trial.point, trial.out, "diverged", error)
        else:
            left.append((i, trial))
    for i in ended:
        told(ended[i])
    (out / FAILED).unlink(missing_ok=True)
    outlines = [outline_of(trial.config) for _, trial in left]
    alike: dict[str, list[Config]] = {}
    for (_, trial), outline in zip(left, outlines, strict=True):
        alike.setdefault(outline, []).append(trial.config)
    shared = {outline: Shared(_varying(configs)) for outline, configs in alike.items()}
    data, memory = Data([trial.config for _, trial in left]), Memory(allowed_bytes())

    def play(trial: Trial, outline: str) -> Ended:
        if stops:
            raise Stopped("stopped; the same command goes on from there.")
        config, folder = trial.config, RunFolder(trial.out, trial.config.plain)
        try:
            with strategies.memory_budget(config.memory_budget):
                experiment = assembled(config, data.read(config))
                calls = shared[outline].calls(config, experiment)
                with memory.taking(_peak(config, experiment, calls, folder)):
                    carry_out(config, folder, experiment, calls, interrupted=stops)
        except Stopped:
            raise
        except simulate.Diverged as error:
            return Ended(trial.point, trial.out, "diverged", str(error))
        except Exception as error:
            with suppress(OSError), open(out / FAILED, "a", encoding="utf-8") as file:
                file.write(f"{trial.out}\n{traceback.format_exc()}\n")
            line = line_of(error, f"{out / FAILED} shows where")
            return Ended(trial.point, trial.out, "failed", line)
        finally:
            folder.release()
        return Ended(trial.point, trial.out, "finished")

    try:
        with ThreadPoolExecutor(workers) as pool:
            going = {
                pool.submit(play, trial, outline): i
                for (i, trial), outline in zip(left, outlines, strict=True)
            }
            try:
                for done in as_completed(going):
                    i = going[done]
                    ended[i] = done.result()
                    if ended[i].status == "diverged":
                        _note(out, runs[i], ended[i])
                    told(ended[i])
            except BaseException:
                stops.append(None)  # the others stop after their round, and nothing new begins
                for one in going:
                    one.cancel()
                raise
    finally:
        write_table(table([ended[i] for i in sorted(ended)]), out)
    return [ended[i] for i in range(len(runs))]


def _varying(configs: Sequence[Config]) -> tuple[str, ...]:
    """Keys of the numbers in which some of these differ."""
    all_of = [numbers_of(config) for config in configs]
    return tuple(name for name in all_of[0] if len({one[name] for one in all_of}) > 1)


def _finished(trial: Trial) -> bool:
    """Whether its folder holds all of the run, of as many rounds."""
    try:
        summary = read_run(trial.out).summary
    except ValueError:
        return False
    ended = summary.get(stopped.KEY)
    if ended is not None and stopped.holds(ended, trial.config, trial.config.callbacks):
        return True
    return summary["totals"].get("rounds") == trial.config.rounds


def _mark(trial: Trial) -> str:
    """Which run it is, whatever folder it is in, and how much it was allowed."""
    c = trial.config
    return f"{trial.out.name} {fingerprint(c.plain)} {c.rounds} {c.most_rejected}"


def _note(out: Path, trial: Trial, ended: Ended) -> None:
    with open(out / ENDED, "a", encoding="utf-8") as file:
        file.write(json.dumps({"run": _mark(trial), "error": ended.error}) + "\n")


def _ended_before(out: Path) -> dict[str, str]:
    file = out / ENDED
    if not file.is_file():
        return {}
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            one = json.loads(line)
        except json.JSONDecodeError:  # half a line of a process that was killed
            continue
        found[one["run"]] = one["error"]
    return found
