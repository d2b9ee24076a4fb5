"""A sweep: many runs of one configuration over all cores, in one process (`playing`) or in several
(`workers`).

    trials -> for each, on the next free core:  the run, in a folder of its own

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
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from pathlib import Path

from filelock import FileLock, Timeout

from ..check import at_least
from ..report.reading import read_run
from ..simulate.device import cores
from . import rung, stopped
from .clusters import Jobs, in_jobs
from .failures import of_a_sweep
from .folder import LOCK, RunFolder, fingerprint
from .playing import FAILED, in_threads
from .run import interruptible
from .shared import Shared
from .swept import Ended, table, write_table
from .trials import Plan, Trial, all_of, planned, trials
from .workers import in_processes

__all__ = ["Plan", "Trial", "planned", "run_sweep", "threads_of_sweep", "trials"]
ENDED = "ended.jsonl"  # of a sweep: runs that did not finish and would not the next time


def threads_of_sweep(asked: int, workers: int | None = None) -> int:
    """Threads that XLA needs for a sweep whose configuration asks for so many: it plays no more
    programs at a time than it has."""
    return asked and max(asked, workers or cores())


def run_sweep(
    runs: Sequence[Trial] | Plan,
    out: Path | str,
    workers: int | None = None,
    told: Callable[[Ended], None] = lambda ended: None,
    processes: int = 1,
    jobs: Jobs | None = None,
) -> list[Ended]:
    """Plays what is left of a sweep and writes its table.

    Args:
        runs: See `trials` and `planned`.
        out: The folder of the sweep.
        workers: Runs at a time; None for one a core, as long as memory lasts.
        told: Called of each run once it has ended, of those that had before at once.
        processes: Above 1, runs that share a program are given to processes, so many at a time; see
            `workers`. The cores are dealt to them.
        jobs: Where runs go as jobs of a cluster, see `clusters`; None plays them here.

    Returns:
        How each run ended, in the order of `runs`.

    Raises:
        ValueError: Another process sweeps in `out`, or a folder in it holds another run.
        Stopped: Ctrl-C was pressed; the same call goes on from there.
    """
    out = Path(out)
    at_least("run_sweep", "processes", processes, 1)
    plan = runs if isinstance(runs, Plan) else all_of(runs)
    at_a_time = cores() if workers is None else workers
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / LOCK, blocking=False), interruptible() as stops:
            (out / FAILED).unlink(missing_ok=True)
            ended: list[Ended] = []
            programs: dict[str, Shared] = {}

            def play(left: list[Trial]) -> Generator[Ended]:
                if jobs is not None:
                    return in_jobs(left, out, jobs, workers, plan.searched, stops, _there)
                if processes == 1:
                    return in_threads(left, out, at_a_time, programs, plan.searched, stops)
                each = max(1, at_a_time // processes)
                return in_processes(left, out, processes, each, plan.searched, stops)

            while batch := plan.more(ended):
                _refuse_others(batch)
                ended = _swept(batch, ended, out, play, told)
            return ended
    except Timeout:
        raise ValueError(
            f"--out {out}: another process sweeps there; wait for it, or use another folder."
        ) from None


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
    play: Callable[[list[Trial]], Generator[Ended]],
    told: Callable[[Ended], None],
) -> list[Ended]:
    """`before` and how each of `runs` ended, of which those that are left are played; the table is
    of both."""
    hopeless = _ended_before(out)
    ended: dict[Path, Ended] = {}
    left: list[Trial] = []
    for trial in runs:
        if (there := _there(trial)) is not None:
            ended[trial.out] = there
        elif (error := hopeless.get(_mark(trial))) is not None:
            ended[trial.out] = Ended(trial.point, trial.out, "diverged", error)
        else:
            left.append(trial)
    marks = {trial.out: _mark(trial) for trial in left}
    in_order = lambda: [ended[trial.out] for trial in runs if trial.out in ended]
    for one in in_order():
        told(one)
    try:
        with closing(play(left)) as playing:
            for one in playing:
                ended[one.out] = one
                if one.status == "diverged":
                    _note(out, marks[one.out], one.error)
                told(one)
    finally:
        write_table(table(_with(before, in_order())), out)
    return _with(before, in_order())


def _with(before: list[Ended], more: list[Ended]) -> list[Ended]:
    """Both; what went on from a rung has its place, and how it ended now."""
    return list({one.out: one for one in [*before, *more]}.values())


def _there(trial: Trial) -> Ended | None:
    """How it ended, where its folder holds all that is wanted of it."""
    if _finished(trial):
        return Ended(trial.point, trial.out, "finished")
    if trial.until is not None and rung.reached(trial.out) >= trial.until:
        return Ended(trial.point, trial.out, "stopped")
    return None


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


def _note(out: Path, mark: str, error: str) -> None:
    with open(out / ENDED, "a", encoding="utf-8") as file:
        file.write(json.dumps({"run": mark, "error": error}) + "\n")


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
