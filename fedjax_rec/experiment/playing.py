"""The runs of a sweep in this process: one on each core, of programs and data that they share."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path

from .. import simulate, strategies
from ..rounds.memory import allowed_bytes
from .config import Config
from .failures import line_of, of_a_sweep
from .folder import RunFolder
from .numbers import outline_of
from .prepare import Experiment, assembled
from .run import AtRung, Stopped, carry_out, foreseen
from .shared import Data, Memory, Shared, varying
from .swept import Ended
from .trials import Trial

FAILED = "failed.log"  # where runs failed, of the last call
STOPPED = "stopped; the same command goes on from there."


def groups(runs: Sequence[Trial]) -> dict[str, list[Trial]]:
    """Runs by the outline of their configurations: those that may share a program."""
    found: dict[str, list[Trial]] = {}
    for trial in runs:
        found.setdefault(outline_of(trial.config), []).append(trial)
    return found


def in_threads(
    runs: Sequence[Trial],
    out: Path,
    workers: int,
    programs: dict[str, Shared],
    searched: Sequence[str],
    stops: list,
) -> Generator[Ended]:
    """Plays runs, and gives how each ended as it does.

    programs: of runs before these, to which those of these are added. searched: see `Plan`. stops:
    what is not empty once somebody asked for a stop; it is filled where nobody listens any more.

    Raises Stopped where it was asked for.
    """
    alike = groups(runs)
    for outline, of_group in alike.items():
        keys = varying([trial.config for trial in of_group], searched)
        if outline not in programs or not set(keys) <= set(programs[outline].varying):
            programs[outline] = Shared(keys)
    outlines = {trial.out: outline for outline, of_group in alike.items() for trial in of_group}
    data, memory = Data([trial.config for trial in runs]), Memory(allowed_bytes())

    def play(trial: Trial) -> Ended:
        if stops:
            raise Stopped(STOPPED)
        config, folder = trial.config, RunFolder(trial.out, trial.config.plain)
        try:
            with strategies.memory_budget(config.memory_budget):
                experiment = assembled(config, data.read(config))
                calls = programs[outlines[trial.out]].calls(config, experiment)
                with memory.taking(_peak(config, experiment, calls, folder)):
                    carry_out(
                        config, folder, experiment, calls, interrupted=stops, until=trial.until
                    )
        except AtRung:
            return Ended(trial.point, trial.out, "stopped")
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

    with ThreadPoolExecutor(workers) as pool:
        going = [pool.submit(play, trial) for trial in runs]
        try:
            for done in as_completed(going):
                yield done.result()
        except BaseException:
            stops.append(None)  # the others stop after their round, and nothing new begins
            for one in going:
                one.cancel()
            raise


def _peak(config: Config, experiment: Experiment, calls: simulate.Calls, folder: RunFolder) -> int:
    done = simulate.last_saved(folder.checkpoints)
    forecast = foreseen(config, experiment, calls, done)
    return 0 if forecast is None else forecast.peak
