"""The runs of a sweep in several processes: each takes a group, the runs that share a program.

Threads of one process (`playing`) compile one program after another where there are many, since
tracing is Python; processes do not wait for each other. A process that is lost (killed, or out of
memory) costs its group another process, which finds what was finished; a group that loses two
without a run ended in between has failed, and the others go on.

A process gets its group as a line on its standard input, says how each run ended on its standard
output, and stops after its rounds where its input is closed: also where who began it has died. A
lock for each group, in `.groups/` of the sweep, makes one that comes later wait for that.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import jax
from filelock import FileLock

from .. import simulate
from ..rounds.memory import VARIABLE, allowed_bytes
from ..simulate.device import cores
from . import config as configuration
from .playing import STOPPED, groups, in_threads
from .run import Stopped
from .swept import Ended
from .trials import Trial

GROUPS = ".groups"  # in the folder of a sweep: a lock for each
SAYS = "ended: "  # begins the lines of a worker that are for who began it


def in_processes(
    runs: Sequence[Trial],
    out: Path,
    processes: int,
    workers: int,
    searched: Sequence[str],
    stops: list,
) -> Generator[Ended]:
    """Plays runs, and gives how each ended as it does; see `playing.in_threads`.

    processes: at a time. workers: runs at a time in each.

    Raises ValueError where the device is no CPU: processes would take it from each other.
    """
    if jax.default_backend() != "cpu":
        raise ValueError(
            f"processes={processes}: an accelerator is of one process; use processes=1."
        )
    memory = str(allowed_bytes() // processes)
    said: queue.Queue[Ended | BaseException | None] = queue.Queue()
    live: set[subprocess.Popen] = set()

    def play(outline: str, of_group: Sequence[Trial]) -> None:
        digest = hashlib.sha256(outline.encode()).hexdigest()[:16]
        left = {str(trial.out.resolve()): trial for trial in of_group}
        lost = 0
        while left and lost < 2 and not stops:
            before = len(left)
            job = {
                "runs": [spelled(trial) for trial in left.values()],
                "searched": list(searched),
                "workers": workers,
                "out": str(out),
                "lock": str(out / GROUPS / f"{digest}.lock"),
            }
            status = _worker(job, memory, live, stops, lambda one: said.put(_heard(one, left)))
            lost = lost + 1 if len(left) == before else 1
        for trial in left.values() if not stops else ():
            error = f"its process ended with status {status}, twice; the same command tries again."
            said.put(Ended(trial.point, trial.out, "failed", error))

    def follow(outline: str, of_group: Sequence[Trial]) -> None:
        try:
            play(outline, of_group)
        except BaseException as error:  # is raised where it is heard
            said.put(error)
        finally:
            said.put(None)

    alike = groups(runs)
    with ThreadPoolExecutor(processes) as pool:
        for outline, of_group in alike.items():
            pool.submit(follow, outline, of_group)
        try:
            waiting = len(alike)
            while waiting:
                if stops:
                    _let_go(live)
                try:
                    one = said.get(timeout=0.2)
                except queue.Empty:
                    continue
                if isinstance(one, BaseException):
                    raise one
                if one is None:
                    waiting -= 1
                else:
                    yield one
        except BaseException:
            stops.append(None)
            _let_go(live)
            raise
    if stops:
        raise Stopped(STOPPED)


def spelled(trial: Trial) -> dict:
    """A run as a job has it, in plain words."""
    c, out = trial.config, trial.out.resolve()
    said = {"plain": c.plain, "name": c.name, "point": trial.point, "out": str(out)}
    return {**said, "until": trial.until}


def _heard(line: str, left: dict[str, Trial]) -> Ended:
    found = json.loads(line)
    trial = left.pop(found["out"])
    return Ended(trial.point, trial.out, found["status"], found["error"])


def _worker(job: dict, memory: str, live: set, stops: list, hear) -> int:
    """Plays a job in a process of its own; the status with which that ended."""
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjax_rec.experiment.workers"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C is for who began it, who closes its input
        env={**os.environ, VARIABLE: memory},
    )  # fmt: skip
    live.add(process)
    assert process.stdin is not None and process.stdout is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        if stops:
            _let_go({process})
        for line in process.stdout:
            if line.startswith(SAYS):
                hear(line.removeprefix(SAYS))
        return process.wait()
    finally:
        _let_go({process})
        process.wait()
        live.discard(process)


def _let_go(processes: set[subprocess.Popen]) -> None:
    """Closes their input, upon which they end."""
    for process in list(processes):
        with suppress(OSError, ValueError):
            if process.stdin is not None:
                process.stdin.close()


def main() -> int:
    """Plays the group on standard input; 130 where it was stopped."""
    held = b""
    while not held.endswith(b"\n"):
        if not (piece := os.read(0, 1 << 16)):
            return 130
        held += piece
    job, stops = json.loads(held), []

    def listen() -> None:
        while os.read(0, 1 << 16):
            pass
        stops.append(None)

    threading.Thread(target=listen, daemon=True).start()
    try:
        for line in played(job, stops):
            print(SAYS + json.dumps(line), flush=True)
    except Stopped:
        return 130
    return 0


def of_job(job: dict) -> list[dict]:
    """How the runs of a job ended, played here."""
    return list(played(job, []))


def played(job: dict, stops: list) -> Generator[dict]:
    """Plays the runs of a job in this process, and gives how each ended in plain words."""
    runs = []
    for one in job["runs"]:
        config = replace(configuration.read(one["plain"]), name=one["name"])
        runs.append(Trial(one["point"], config, Path(one["out"]), one["until"]))
    workers = job["workers"] or cores()
    simulate.configure(runs[0].config.threads)
    lock = Path(job["lock"])
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        for ended in in_threads(runs, Path(job["out"]), workers, {}, job["searched"], stops):
            yield {"out": str(ended.out), "status": ended.status, "error": ended.error}


if __name__ == "__main__":
    sys.exit(main())
