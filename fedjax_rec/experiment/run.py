"""One experiment: from a configuration to a finished run folder, resumable at any moment.

The metrics of round r depend on r, the configuration and the run that its `start_from` names, so a
run that was stopped and goes on writes the same records as one that was not (but for `seconds`).
"""

from __future__ import annotations

import functools
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import __version__, data, evaluate, simulate, strategies
from ..report import figures
from ..report.reading import totals_of
from ..types import State
from . import predicted, rung, stopped
from .best import BestState, best_of, chooser_of
from .candidates import few_candidates
from .cold import whose
from .config import Config, ConfigError
from .folder import RunFolder
from .prepare import Experiment, mesh_of, prepare
from .progress import Bar
from .user_groups import by_activity, by_attribute

RECORDS = "records"  # in a checkpoint: the checksums of the records up to it
APART = (
    "not every process sees this folder, so the first gathers all states, which have to fit into "
    "its memory, and writes them; in a folder that all see each writes what it holds."
)
_DRAWING = threading.Lock()  # matplotlib draws in one thread at a time


class Stopped(Exception):
    """The user interrupted the run; its state is saved."""


class AtRung(Stopped):
    """The run was stopped where it was to be compared with others; its state is saved."""


def run(
    config: Config,
    out: Path | str,
    overwrite: bool = False,
    show: bool = True,
    callbacks: Sequence[simulate.Callback] = (),
) -> dict:
    """Runs `config` in the folder `out`, or goes on with what is there; returns the summary.

    callbacks: beside those of the configuration. Of several processes (`simulate.join`) the first
    writes and calls them.

    Raises Stopped after Ctrl-C, with the state saved, and MemoryError, before anything is written,
    where it cannot fit.
    """
    with simulate.folder_of_own(out) as (own, of_all):
        folder = RunFolder(own, config.plain, overwrite, of_all)
        try:
            with strategies.memory_budget(config.memory_budget):
                experiment = prepare(config)
                if (told := few_candidates(config, experiment.dataset)) is not None:
                    print(told, file=sys.stderr)
                key = jax.random.key(config.seed)
                mesh = mesh_of(config)
                calls = simulate.program(experiment.made, mesh).of(key, experiment.inputs())
                show = show and simulate.is_first()
                if of_all is None and jax.process_count() > 1 and simulate.is_first():
                    print(f"fedjax-rec: {out}: {APART}", file=sys.stderr)
                return carry_out(config, folder, experiment, calls, show, callbacks=callbacks)
        finally:
            folder.release()


def carry_out(
    config: Config,
    folder: RunFolder,
    experiment: Experiment,
    calls: simulate.Calls,
    show: bool = False,
    interrupted: Sequence | None = None,
    callbacks: Sequence[simulate.Callback] = (),
    begins: Callable[[State], State] | None = None,
    until: int | None = None,
) -> dict:
    """The run of `config` in its folder, or what is left of it; returns the summary.

    interrupted: what is not empty once somebody asked for a stop; None listens to Ctrl-C.
    callbacks: beside those of the configuration.
    begins: what the run begins from, by the state that it would begin from, which it gives up;
        records are of the rounds after it.
    until: a measured round after which it raises AtRung, see `rung`; None goes on to the end.
    """
    callbacks = (*config.callbacks, *callbacks)
    strategy, store = experiment.strategy, experiment.dataset.store
    key = jax.random.key(config.seed)
    # What the parts say against each other or the memory, they say before anything is written.
    like = experiment.outline
    last = lambda: simulate.last_saved(folder.checkpoints)
    done = 0 if folder.overwrite else simulate.from_first(last)
    if not done:
        folder.keep_finished()
    begin = time.perf_counter()
    if (forecast := foreseen(config, experiment, calls, done)) is not None:
        forecast.refuse()
        if show:
            seconds = time.perf_counter() - begin
            print(f"{forecast.line()}; compiled in {seconds:.1f} s", file=sys.stderr)
    if show and experiment.guarantee is not None:
        print(experiment.guarantee.line(), file=sys.stderr)
    spent = time.perf_counter() - begin
    begun = None
    if not done:
        begun = calls.start(store)
        begun = begun if begins is None else begins(begun)
        calls.look(begun, store)
    folder.hold()
    running = Running(config, folder, experiment, like, done, spent, until)
    if running.stopped is not None:
        if stopped.holds(running.stopped, config, callbacks):
            print(f"fedjax-rec: {folder.path}: {stopped.line_of(running.stopped)}", file=sys.stderr)
            return running.finish()
        running.stopped = None
    running.compare()  # its checkpoint may be there and the word for it not
    if show and (told := running.resumed()) is not None:
        print(f"fedjax-rec: {folder.path}: {told}", file=sys.stderr)
    rounds = simulate.simulate(
        strategy, store, config.rounds, key, config.cohorts, experiment.measure,
        config.evaluation.every, state=running.state if done else begun, calls=calls,
        most_rejected=config.most_rejected,
    )  # fmt: skip
    listening = interruptible() if interrupted is None else nullcontext(interrupted)
    bar = Bar(config, running.records, running.chooser, show)
    called = (bar, *callbacks)
    with listening as stops, simulate.attending(called):
        for progress in rounds:
            running.take(progress, called, stops)
            if running.stopped is not None:
                bar.say(stopped.line_of(running.stopped))
                break
    return running.finish()


class Running:
    """A run under way: its records, its best round, and what its folder holds of them. `take` each
    measured round, and `finish`.

    state: that it goes on from, None at the start; then the last that was taken. stopped: which
    callback ended it, see `stopped`; None where none did.
    """

    def __init__(
        self, config, folder: RunFolder, experiment: Experiment, like, done, spent=0.0, until=None
    ):
        self.config, self.folder, self.experiment = config, folder, experiment
        self.until = until
        self.protocol = experiment.measure.protocol
        self.chooser = chooser_of(experiment.dataset, self.protocol)
        self.held = simulate.gathered if folder.of_all is None else simulate.held
        self.kept = BestState(folder.best, config.keep_best, like)
        self.state: Any = None
        self.best: dict = {}
        self.records: list[dict] = []
        self.stopped: dict | None = None
        opened = lambda: simulate.Checkpoints(
            folder.checkpoints, folder.fingerprint, about=experiment.read.digests, like=like
        )
        if done:
            # All of it is read and checked before any of it is written.
            self.checkpoints = opened()
            found = _resumed(config, folder, self.checkpoints, like)
            self.state, self.best, self.records, self.stopped = found
            folder.begin(self.records)
        else:
            folder.begin(self.records)
            self.checkpoints = opened()
        self.elapsed = spent + (self.records[-1]["seconds"] if self.records else 0.0)

    def resumed(self) -> str | None:
        """What of it was there before, for people; None where it begins."""
        if not self.records:
            return None
        done, rounds = self.records[-1]["round"], self.config.rounds
        if done < rounds:
            return f"goes on after round {done} of {rounds}."
        return f"is finished, {done} rounds; more --rounds go on from there."

    def take(
        self,
        progress: simulate.Progress,
        callbacks: Sequence[simulate.Callback] = (),
        stops: Sequence = (),
    ) -> None:
        """Writes what a round says, and tells `callbacks`. Raises Stopped, with the state saved,
        where `stops` then is not empty and the run is not done."""
        config, records = self.config, self.records
        self.elapsed += progress.metrics["seconds"]
        record = {**progress.metrics, "seconds": self.elapsed}
        if progress.rejected:
            record["rejected_clients"] = {str(r): ids for r, ids in progress.rejected.items()}
        if (guarantee := self.experiment.guarantee) is not None:
            record["epsilon"] = guarantee.after(progress.round)
        records.append(record)
        if best_of(records, self.chooser, self.protocol) is record:
            self.best = predicted.best_of(progress.values)
            self.kept.take(progress.round, self.held(progress.running))
        self.folder.append(record)
        of_run = replace(
            progress, metrics=record, records=tuple(records), config=config.plain,
            folder=self.folder.path,
        )  # fmt: skip
        hear = lambda: (simulate.told(callbacks, of_run), bool(stops))
        said, asked = simulate.from_first(hear)
        if said is not None:
            self.stopped = stopped.mark(progress.round, said[0], said[1], config)
        last = progress.round >= config.rounds or said is not None
        at_rung = self.until is not None and progress.round >= self.until
        stop = (asked or at_rung) and not last
        if last or stop or _due(records, config.checkpoint_every):
            self.kept.write()
            extras = {**self.best, RECORDS: self.folder.sums(records)}
            if self.stopped is not None:
                extras[stopped.KEY] = stopped.packed(self.stopped)
            self.checkpoints.save(progress.round, self.held(progress.running), extras)
        self.state = progress.running
        if stop:
            self.checkpoints.close()
            self.compare()
            raise Stopped(
                f"stopped after round {progress.round}; the same command goes on from there."
            )

    def compare(self) -> None:
        """Where its rung is reached and it is not done: says so in its folder and raises AtRung."""
        done = self.records[-1]["round"] if self.records else 0
        if self.until is None or not self.until <= done < self.config.rounds:
            return
        rung.write(self.folder.path, done, self.chooser)
        raise AtRung(f"stopped at its rung, after round {done}.")

    def finish(self) -> dict:
        """Writes what each user's numbers are, the figures, and at last the summary, by which a run
        is finished."""
        config, experiment, folder = self.config, self.experiment, self.folder
        self.checkpoints.close()
        values = self.best["values"]
        cases = experiment.measure.cases["test"]
        activity = experiment.dataset.activity[np.asarray(cases.clients)]
        summary = _summary(config, experiment, self.records, values, self.chooser)
        names, users = self.protocol.names, np.asarray(cases.users)
        split = experiment.read.split
        features = None if split is None else split.interactions.user_features
        summary["by_activity"] = by_activity(names, values, activity)
        summary["by_attribute"] = by_attribute(names, values, activity, users, features)
        if self.stopped is not None:
            summary[stopped.KEY] = self.stopped
        if (guarantee := experiment.guarantee) is not None:
            summary["privacy"] = guarantee.summary(self.records[-1]["round"])
        if config.audit:
            store, key = experiment.dataset.store, jax.random.key(config.seed)
            state = simulate.gathered(self.state)
            summary["audit"] = simulate.audit(
                experiment.strategy, state, store, key, config.audit, config.cohorts
            )
        folder.write_per_user(
            values=values,
            metrics=np.array(self.protocol.names),
            activity=activity,
            users=users,
        )
        predicted.write(folder, self.best, cases)
        with _DRAWING:
            figures.draw_all(folder.outcome(summary))
        folder.write_summary(summary)
        return summary


def _resumed(
    config: Config, folder: RunFolder, checkpoints: simulate.Checkpoints, like
) -> tuple[Any, dict, list[dict], dict | None]:
    """(state, values of the best round, records, what stopped it) of what was done before."""
    newest = simulate.from_first(lambda: simulate.last_saved(folder.checkpoints))
    done, state, saved = checkpoints.restore(like)
    if done < newest:
        print(
            f"fedjax-rec: {folder.checkpoints}: the checkpoint of round {newest} is damaged; goes "
            f"on from that of round {done}.",
            file=sys.stderr,
        )
    if done > config.rounds:
        raise ConfigError(
            f"rounds={config.rounds} is less than the {done} that are done in {folder.path}; use "
            "at least that many, another --out, or --overwrite true."
        )
    ended = stopped.unpacked(saved.get(stopped.KEY))
    return state, predicted.best_of_saved(saved), folder.records(saved[RECORDS]), ended


def foreseen(config: Config, experiment: Experiment, calls: simulate.Calls, done: int):
    """What the call will hold that a run begins with, which is compiled for it; None where no round
    is left."""
    if done >= config.rounds:
        return None
    block = simulate.block_of(done, config.rounds, config.evaluation.every)
    like = experiment.outline
    return simulate.forecast(calls.compiled(like, experiment.dataset.store, *block), like)


@contextmanager
def interruptible() -> Iterator[list]:
    """A list that Ctrl-C fills, so that the round under way ends first; twice stops at once."""
    seen: list = []

    def note(number, frame):
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # Not the main thread: leave signals to who owns them.
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _due(records: list[dict], every: int) -> bool:
    before = records[-2]["round"] if len(records) > 1 else 0
    return bool(every) and records[-1]["round"] // every > before // every


def _summary(config: Config, experiment: Experiment, records, values, chooser: str) -> dict:
    protocol, dataset = experiment.measure.protocol, experiment.dataset
    negatives = config.data.evaluation_negatives
    drawn = config.data.evaluation_draws or data.uniform_draws()
    label = protocol.label.replace("sampled negatives", f"{drawn.label}-{negatives}")
    distribution = {}
    for i, name in enumerate(protocol.names):
        distribution[name] = {
            **evaluate.mean_and_interval(values[:, i]),
            **evaluate.quantiles(values[:, i]),
            "worst_decile": evaluate.worst_share(values[:, i], 0.1),
        }
    return {
        "name": config.name,
        "seed": config.seed,
        "final": records[-1],
        "best": best_of(records, chooser, protocol),
        "selected_by": chooser,
        "totals": totals_of(records),
        "data": {
            **experiment.read.described,
            "clients": dataset.num_clients,
            "digests": experiment.read.digests,
        },
        "negatives": config.data.negatives,
        "evaluation": label + whose(config.evaluation),
        "model": config.plain["model"]["class_path"],
        "strategy": config.plain["strategy"]["class_path"],
        "versions": {
            "fedjax_rec": __version__,
            "jax": jax.__version__,
            "python": platform.python_version(),
            "commit": _commit(),
        },
        "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "distribution": distribution,
    }


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that the package runs from, if it is one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
