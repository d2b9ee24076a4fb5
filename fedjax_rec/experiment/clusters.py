"""The runs of a sweep on many machines, by the engines that clusters have: Slurm and Ray.

Runs that share a program are dealt into jobs; a job plays its runs as a process of one machine does
(`workers.played`), in folders that all machines see. Who began the sweep submits, looks which jobs
have ended and writes the table; it computes nothing, and may die: the same command finds what was
finished and submits the rest. A job that is lost costs its runs another job, which goes on from
their checkpoints; runs whose jobs are lost twice without one that ended in between have failed, and
the others go on.

`submitit` (Meta, MIT licence) speaks to Slurm, and plays jobs as processes of this machine where
there is none; `ray` to a Ray cluster. Both are extras.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..check import at_least, one_of
from .playing import STOPPED, groups
from .run import Stopped
from .swept import Ended
from .trials import Trial
from .workers import GROUPS, of_job, spelled

LOGS = ".jobs"  # in the folder of a sweep: what submitit writes
ENGINES = ("slurm", "local", "ray")


@dataclass(frozen=True)
class Jobs:
    """Where jobs go.

    submit(job) -> handle; poll(handle) -> None while it goes, how its runs ended, or the line of
    what lost it; cancel(handle). size: runs a job, at most. pause: seconds between two looks.
    """

    submit: Callable[[dict], Any]
    poll: Callable[[Any], list[dict] | str | None]
    cancel: Callable[[Any], Any]
    size: int = 8
    pause: float = 2.0


def jobs_of(engine: str, out: Path, options: Mapping[str, Any]) -> Jobs:
    """The jobs of an engine.

    Args:
        engine: "slurm"; "local", submitit's processes on this machine; or "ray".
        out: The folder of the sweep, on a disk that all machines see.
        options: `runs_per_job` (default 8); of Slurm and local what submitit takes, such as
            `timeout_min` and `slurm_partition`; of Ray `address` (default: the cluster that is
            there, else one of this machine) and what a task takes, such as `num_cpus`.

    Raises:
        ValueError: For an engine that is unknown or not installed, or an option that it lacks.
    """
    one_of("sweep", "--cluster", engine, ENGINES)
    given = dict(options)
    size = given.pop("runs_per_job", 8)
    at_least("sweep", "--cluster.runs_per_job", size, 1)
    return (by_ray if engine == "ray" else by_submitit)(engine, out, given, size)


def by_submitit(engine: str, out: Path, options: dict[str, Any], size: int) -> Jobs:
    """Jobs of Slurm, or processes of this machine."""
    submitit = _imported("submitit", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=out / LOGS, cluster=engine)
        executor.update_parameters(**({"timeout_min": 24 * 60, "name": out.name} | options))
    except Exception as error:  # submitit has no error of its own for them
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"sweep --cluster {engine}: {first.rstrip('.')}; see docs/clusters.md."
        ) from None

    def poll(job) -> list[dict] | str | None:
        if not job.done():
            return None
        error = job.exception()
        return job.result() if error is None else f"job {job.job_id}: {_line(error)}"

    return Jobs(lambda job: executor.submit(Again(), job), poll, lambda job: job.cancel(), size)


class Again:
    """A job that Slurm ends before its time, or at its limit, is submitted once more by submitit,
    which asks for this."""

    def __call__(self, job: dict) -> list[dict]:
        return of_job(job)

    def checkpoint(self, job: dict):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


def by_ray(engine: str, out: Path, options: dict[str, Any], size: int) -> Jobs:
    """Tasks of a Ray cluster."""
    ray = _imported("ray", "ray")
    address = options.pop("address", None)
    try:
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, logging_level="error")
        # Whether a task is begun anew is decided here, where it is known what ended.
        task = ray.remote(max_retries=0, **options)(of_job)
    except Exception as error:
        raise ValueError(f"sweep --cluster ray: {_line(error)}") from None

    def poll(handle) -> list[dict] | str | None:
        done, _ = ray.wait([handle], timeout=0)
        if not done:
            return None
        try:
            return ray.get(handle)
        except ray.exceptions.RayError as error:
            return _line(error)

    return Jobs(task.remote, poll, lambda handle: ray.cancel(handle, force=True), size)


def in_jobs(
    runs: Sequence[Trial],
    out: Path,
    jobs: Jobs,
    workers: int | None,
    searched: Sequence[str],
    stops: list,
    there: Callable[[Trial], Ended | None],
) -> Generator[Ended]:
    """Plays runs, and gives how each ended once its job has; see `playing.in_threads`.

    workers: runs at a time in a job; None for one a core of its machine. there: how a run
    ended whose folder holds all that was wanted of it, else None.
    """
    going: list[tuple[Any, list[Trial], int]] = []

    def begin(some: list[Trial], lost: int) -> None:
        mark = hashlib.sha256(str([str(x.out) for x in some]).encode()).hexdigest()[:16]
        lock = (out / GROUPS / f"{mark}.lock").resolve()
        job = {
            "runs": [spelled(trial) for trial in some], "searched": list(searched),
            "workers": workers, "out": str(out.resolve()), "lock": str(lock),
        }  # fmt: skip
        going.append((jobs.submit(job), some, lost))

    for of_group in groups(runs).values():
        for first in range(0, len(of_group), jobs.size):
            begin(list(of_group[first : first + jobs.size]), 0)
    try:
        while going:
            if stops:
                raise Stopped(STOPPED)
            for one in list(going):
                handle, some, lost = one
                told = jobs.poll(handle)
                if told is None:
                    continue
                going.remove(one)
                if isinstance(told, str):
                    found_there = {trial.out: there(trial) for trial in some}
                    yield from (one for one in found_there.values() if one is not None)
                    left = [trial for trial in some if found_there[trial.out] is None]
                    lost = lost + 1 if len(left) == len(some) else 1
                    if left and lost < 2:
                        begin(left, lost)
                    elif left:
                        error = f"its job was lost twice ({told}); the same command tries again."
                        yield from (Ended(x.point, x.out, "failed", error) for x in left)
                    continue
                ended = {found["out"]: found for found in told}
                for trial in some:
                    found = ended[str(trial.out.resolve())]
                    yield Ended(trial.point, trial.out, found["status"], found["error"])
            time.sleep(jobs.pause if going else 0)
    finally:
        for handle, *_ in going:
            jobs.cancel(handle)


def _imported(name: str, extra: str):
    try:
        return __import__(name)
    except ImportError:
        raise ValueError(
            f"sweep --cluster: {name} is not installed; use pip install '.[{extra}]' in the "
            "checkout."
        ) from None


def _line(error: BaseException) -> str:
    """The last line of a message that may hold a whole traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
