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
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import track

from .. import simulate, strategies
from ..report.reading import read_run
from ..rounds.memory import allowed_bytes
from ..simulate.device import cores
from . import config as configuration
from . import search, stopped
from .config import Config, ConfigError
from .failures import line_of, of_a_sweep
from .folder import LOCK, RunFolder, fingerprint
from .grid import SEED, axes_of, drawn, folder_of, named, points, text
from .numbers import outline_of
from .prepare import Experiment, assembled
from .run import Stopped, carry_out, foreseen, interruptible
from .shared import Data, Memory, Shared, varying
from .swept import Ended, outcome, table, write_table

ENDED = "ended.jsonl"  # of a sweep: runs that did not finish and would not the next time
FAILED = "failed.log"  # where runs failed, of the last call


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. point: the values of its axes, the seed among them."""

    point: dict[str, Any]
    config: Config
    out: Path


@dataclass(frozen=True)
class Plan:
    """What a sweep plays. total: how many runs at the most. more(ended): the next that are played
    together, after all that have ended; none at the end. threads: what the configuration says.
    searched: the axes of a search, whose batches share programs."""

    total: int
    more: Callable[[Sequence[Ended]], list[Trial]]
    threads: int
    searched: tuple[str, ...] = ()


def trials(
    config: str | Path | Mapping | None,
    axes: Mapping[str, Any],
    out: Path | str,
    overrides: Sequence[str] = (),
    stem: str | None = None,
) -> list[Trial]:
    """The runs of a grid, each with its configuration read. stem: what they are called before
    their points; None for the name of the file.

    Without an axis of seeds they have that of the configuration.

    Raises:
        ConfigError: An axis is unknown or empty, or a value of it makes no sense; two points are
            the same run.
    """
    raw, stem = configuration.raw_of(config), stem or configuration.stem(config)
    axes = {**(raw.pop("sweep", None) or {}), **axes}
    found: dict[Path, Trial] = {}
    for point in _followed(points(axes)):
        one = _trial(raw, axes, point, Path(out), overrides, stem)
        if one.out in found:
            raise ConfigError(f"sweep: {one.out.name} stands twice on its axes; leave one out.")
        found[one.out] = one
    return list(found.values())


def _followed(given: list[dict]) -> Iterable[dict]:
    """These, with a bar on a terminal where they are so many that reading them takes seconds."""
    console = Console(stderr=True)
    quiet = len(given) < 200 or not console.is_terminal
    return track(given, "reading points", console=console, transient=True, disable=quiet)


def _trial(raw: Mapping, axes, point: Mapping[str, Any], out: Path, overrides, stem: str) -> Trial:
    words = [f"--{key}={text(value)}" for key, value in point.items() if key in axes]
    read = configuration.read(raw, [*overrides, *words])
    if read.devices > 1:
        raise ConfigError(
            f"devices={read.devices}: a sweep plays a whole run on each core; use devices=1."
        )
    point = {**point, SEED: read.seed}
    title, name = str(read.plain["name"] or stem), named(point)
    read = replace(read, name=",".join(filter(None, [title, name])))
    return Trial(point, read, out / folder_of(name or title, read.seed))


def planned(
    config: str | Path | Mapping | None,
    axes: Mapping[str, Any],
    out: Path | str,
    overrides: Sequence[str] = (),
    stem: str | None = None,
) -> Plan:
    """What is played of a configuration: the grid of its axes, or what its `search` asks for.

    Args are those of `trials`. Raises ConfigError as it does, and where the search makes no sense;
    ValueError where `out` holds another search.
    """
    raw, stem = configuration.raw_of(config), stem or configuration.stem(config)
    section = raw.pop(search.KEY, None)
    if section is None:
        runs = trials(raw, axes, out, overrides, stem)
        return _whole(runs)
    axes, out = {**(raw.pop("sweep", None) or {}), **axes}, Path(out)
    wanted, section = search.search_of(section)
    known, seeds = axes_of(axes)
    if not known:
        raise ConfigError("search: no axis but seeds; write --sweep.KEY 'loguniform(0.1, 10)'.")
    journal = search.Journal(out, section, axes)

    def runs_of(setting: Mapping[str, Any]) -> list[Trial]:
        every = ({**setting, SEED: seed} for seed in seeds)
        return [_trial(raw, axes, point, out, overrides, stem) for point in every]

    def more(ended: Sequence[Ended]) -> list[Trial]:
        """Those asked for, one batch after another; settings that came before are not repeated."""
        by = {one.out: one for one in ended}
        told: list[search.Told] = []
        while len(told) < wanted.trials:
            n = min(wanted.batch, wanted.trials - len(told))
            if len(journal.asked) < len(told) + n:
                known_of = len(journal.asked) - len(told)
                journal.write(wanted.ask(known, [*told], n)[known_of:])
            batch = [runs_of(setting) for setting in journal.asked[len(told) : len(told) + n]]
            new = {one.out: one for runs in batch for one in runs if one.out not in by}
            if new:
                return list(new.values())
            for setting, runs in zip(journal.asked[len(told) :], batch, strict=False):
                told.append(outcome(setting, [by[one.out] for one in runs]))
        return []

    first = runs_of(drawn(known, 0, 0))[0].config  # whose errors are said before anything runs
    return Plan(wanted.trials * len(seeds), more, first.threads, tuple(axes))


def _peak(config: Config, experiment: Experiment, calls: simulate.Calls, folder: RunFolder) -> int:
    done = simulate.last_saved(folder.checkpoints)
    forecast = foreseen(config, experiment, calls, done)
    return 0 if forecast is None else forecast.peak


def threads_of_sweep(asked: int, workers: int | None = None) -> int:
    """Threads that XLA needs for a sweep whose configuration asks for so many: it plays no more
    programs at a time than it has."""
    return asked and max(asked, workers or cores())


def run_sweep(
    runs: Sequence[Trial] | Plan,
    out: Path | str,
    workers: int | None = None,
    told: Callable[[Ended], None] = lambda ended: None,
) -> list[Ended]:
    """Plays what is left of a sweep and writes its table.

    Args:
        runs: See `trials` and `planned`.
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
    plan = runs if isinstance(runs, Plan) else _whole(runs)
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, blocking=False), interruptible() as stops:
            (out / FAILED).unlink(missing_ok=True)
            ended: list[Ended] = []
            programs: dict[str, Shared] = {}
            while batch := plan.more(ended):
                _refuse_others(batch)
                ended = _swept(
                    batch, ended, out, workers or cores(), programs, plan.searched, told, stops
                )
            return ended
    except Timeout:
        raise ValueError(
            f"--out {out}: another process sweeps there; wait for it, or use another folder."
        ) from None


def _whole(runs: Sequence[Trial]) -> Plan:
    """All of these at once."""
    return Plan(len(runs), lambda ended: [] if ended else list(runs), runs[0].config.threads)


def _refuse_others(runs: Sequence[Trial]) -> None:
    for trial in runs:
        try:
            RunFolder(trial.out, trial.config.plain)
        except ValueError as error:
            raise ValueError(of_a_sweep(str(error))) from None


def _swept(
    runs: Sequence[Trial],
    before: list[Ended],
    out: Path,
    workers: int,
    programs,
    searched,
    told,
    stops: list,
) -> list[Ended]:
    """`before` and how each of `runs` ended; the table is of both."""
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
    outlines = [outline_of(trial.config) for _, trial in left]
    alike: dict[str, list[Config]] = {}
    for (_, trial), outline in zip(left, outlines, strict=True):
        alike.setdefault(outline, []).append(trial.config)
    for outline, configs in alike.items():
        keys = varying(configs, searched)
        if outline not in programs or not set(keys) <= set(programs[outline].varying):
            programs[outline] = Shared(keys)
    data, memory = Data([trial.config for _, trial in left]), Memory(allowed_bytes())

    def play(trial: Trial, outline: str) -> Ended:
        if stops:
            raise Stopped("stopped; the same command goes on from there.")
        config, folder = trial.config, RunFolder(trial.out, trial.config.plain)
        try:
            with strategies.memory_budget(config.memory_budget):
                experiment = assembled(config, data.read(config))
                calls = programs[outline].calls(config, experiment)
                with memory.taking(_peak(config, experiment, calls, folder)):
                    carry_out(config, folder, experiment, calls, interrupted=stops)
        except Stopped:
            raise
        except simulate.Diverged as error:
            return Ended(trial.point, trial.out, "diverged", str(error))
        except Exception as error:
            with suppress(OSError), open(out / FAILED, "a", encoding="utf-8") as file:
                file.write(f"{trial.out}\n{traceback.format_exc()}\n")
            line = of_a_sweep(line_of(error, f"{out / FAILED} shows where"))
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
        write_table(table([*before, *(ended[i] for i in sorted(ended))]), out)
    return [*before, *(ended[i] for i in range(len(runs)))]


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
