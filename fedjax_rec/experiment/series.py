"""A series: the runs of a file one after another, each in a process of its own, and then the
section of the page that they make.

What is finished is passed over, so that a series that was stopped goes on where it was.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from ..weights import EXPORTED
from . import config as configuration
from .folder import RunFolder
from .runs import Plan, PlannedRun

Start = Callable[[list[str]], int]  # words of `fedjax-rec`, such as ["run", FILE]; exit status


def run_series(plan: Plan, chosen: Sequence[PlannedRun], start: Start | None = None) -> int:
    """Runs what is `chosen` of a plan, in order, and writes its section.

    Args:
        plan: a file of runs, see `runs.read_runs`.
        chosen: those of its runs that are wanted, `plan.only(...)`.
        start: what a command is given to; by default another process.

    Returns:
        0, or the exit status of the first run that failed, which ends the series.

    Raises:
        ConfigError: a configuration cannot be read; nothing has run then.
        ValueError: a folder holds a run of another configuration.
    """
    start = start or _process
    for name in plan.fetch:
        if status := start(["data", "get", name]):
            return status
    # What is wrong in the last of a seed is said before the first of it runs.
    for place, run in enumerate(chosen):
        if run.seed == chosen[0].seed:
            _check(run, chosen[:place])
    for place, run in enumerate(chosen, start=1):
        done = is_finished(run)
        print(f"[{place}/{len(chosen)}] {run.out}{': finished' if done else ''}", flush=True)
        if not done and (status := start(["run", *run.words(), "--quiet"])):
            return status
        written = done and (Path(run.out) / EXPORTED).is_file()
        if run.export and not written and (status := start(run.written())):
            return status
    return _section(plan, start)


def _check(run: PlannedRun, before: Sequence[PlannedRun]) -> None:
    """Raises ConfigError for a run that cannot be, unless it lacks what one before it leaves."""
    try:
        configuration.read(run.config, run.options())
    except configuration.ConfigError as error:
        if not any(one.out in str(error) and not is_finished(one) for one in before):
            raise


def is_finished(run: PlannedRun) -> bool:
    """Whether the folder of a run holds it, up to its last round.

    Raises ValueError where it holds a run of another configuration.
    """
    if not (Path(run.out) / "summary.json").is_file():
        return False
    config = configuration.read(run.config, run.options())
    folder = RunFolder(run.out, config.plain)
    held = yaml.safe_load((folder.path / "config.yaml").read_text(encoding="utf-8"))
    return held["rounds"] == config.rounds


def _section(plan: Plan, start: Start) -> int:
    """Writes the section of the page, where all that it is made of is there."""
    if plan.section is None:
        return 0
    missing = [run.out for run in plan.runs if not (Path(run.out) / "summary.json").is_file()]
    missing += [folder for folder in plan.folders if not any(Path(folder).rglob("summary.json"))]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        print(f"{plan.page}: section {plan.section!r} stays as it is; it lacks {missing[0]}{more}.")
        return 0
    targets = ["--targets", plan.targets] if plan.targets else []
    page = ["--results", plan.page, "--section", plan.section]
    return start(["report", *plan.folders, *page, *targets])


def _process(words: list[str]) -> int:
    """The exit status of `fedjax-rec WORDS`. Ctrl-C is left to it: it saves its state, and its
    status says that it was stopped."""
    main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda number, frame: None) if main_thread else None
    try:
        command = [sys.executable, "-m", "fedjax_rec.experiment.main", *words]
        return subprocess.run(command, check=False).returncode
    finally:
        if main_thread:
            signal.signal(signal.SIGINT, before)
