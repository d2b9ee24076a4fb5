"""One experiment: from a configuration to a finished run folder, resumable at any moment.

The metrics of round r depend on r, the configuration and the run that its `start_from` names, so a
run that was stopped and goes on writes the same records as one that was not (but for `seconds`).
"""

from __future__ import annotations

import dataclasses
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import __version__, data, evaluate, simulate, strategies
from ..report import figures
from ..types import Strategy
from .best import BestState, best_of, chooser_of
from .cold import whose, with_fit
from .config import Config, ConfigError, part
from .folder import RunFolder
from .labelled import prepare_examples, unmeasured
from .progress import Bar
from .start import start_from

RECORDS = "records"  # in a checkpoint: the checksums of the records up to it


class Stopped(Exception):
    """The user interrupted the run; its state is saved."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a configuration names, made for its data. digests: which data they are, see
    `data.digests`. split, partition: of interactions, who is called what, and which client holds
    whom; None of labelled examples."""

    described: dict[str, Any]
    digests: dict[str, str]
    dataset: data.Dataset
    strategy: Strategy
    measure: simulate.Measure
    split: data.Split | None = None
    partition: data.Partition | None = None

    def outline(self, key: jax.Array) -> Any:
        """Shapes of the state that the run begins with."""
        clients = self.dataset.num_clients
        return jax.eval_shape(lambda: self.strategy.init(key, clients))


def prepare(config: Config) -> Experiment:
    """Reads the data and builds model, strategy and measure. Raises ValueError in one line."""
    wanted = config.data
    found = wanted.source
    if isinstance(found, str):
        found = data.load(found)
    elif not isinstance(found, (data.Interactions, data.Examples)):
        found = part(found, "data.source")
    if isinstance(found, data.Examples):
        digests = data.digests_of_examples(found)
        made = prepare_examples(config, found, digests)
        return Experiment(data.describe_examples(found), digests, *made)
    if config.evaluation.candidates == "examples":
        raise ConfigError(
            "evaluation.candidates=examples needs labelled examples and data.source gives "
            "interactions; use full, sampled, both or ratings."
        )
    if wanted.above and found.ratings is None:
        raise ConfigError(
            f"data.above={wanted.above} asks for ratings, and {found.name!r} has none; leave it "
            "out, or use data with a rating column."
        )
    if wanted.implicit:
        found = data.implicit(found, wanted.above)
    else:
        found = data.latest_of_pairs(found)
    if wanted.core:
        found = data.k_core(found, wanted.core, wanted.core)
    split = part(wanted.split, "data.split")(found)
    clients = part(wanted.clients, "data.clients")(split)
    sampled = config.evaluation.candidates in {"sampled", "both"}
    sampled = sampled or wanted.negatives == "symmetric"
    digests = data.digests(split, clients)
    dataset = data.pack(
        split, clients, wanted.negatives, wanted.evaluation_negatives if sampled else 0,
        seed=config.seed, history=config.examples.history,
    )  # fmt: skip
    if not wanted.implicit:
        _check_ratings_are_read(config, dataset.store)
    parts = {"validation": dataset.validation, "test": dataset.test}
    parts = {name: cases for name, cases in parts.items() if cases is not None}
    if "test" not in parts:
        raise ConfigError("data.split leaves nothing to test on; use a split with a test part.")
    protocol = _protocol(config, dataset)
    model = config.make_model(
        num_items=dataset.num_items, members=dataset.members, titles=data.titles(found)
    )
    own = config.evaluation.of == "personal"
    probe = evaluate.probe_clients(protocol, parts) if own else None
    model, started = start_from(config, model, dataset.num_clients, digests)
    strategy = started(config.make_strategy(model, config.examples, probe))
    if strategy.model.ranking is None:
        raise unmeasured(config, model.ranking, "scores no items", "score(items, user) -> scores")
    if own:
        measure = simulate.personal(protocol, parts)
    else:
        measure = simulate.aggregated(
            strategy.model, protocol, parts, config.evaluation.users_per_chunk
        )
        if config.evaluation.fit is not None:
            measure = with_fit(config, measure, strategy, split, clients)
    config.cohorts.size(dataset.num_clients)
    described = data.describe(found)
    if split.ties is not None:
        described |= {"ties": split.ties, "users_with_tied_ends": data.tied_ends(found)}
    return Experiment(described, digests, dataset, strategy, measure, split, clients)


def _check_ratings_are_read(config: Config, store: data.Store) -> None:
    """Raises ConfigError for examples that can be drawn without the ratings which the data keep:
    those of one star would be trained on as if they were liked."""
    if store.labels is None:
        return
    one = store.take(jnp.arange(1))
    alone = jax.tree.map(lambda x: x[0] if x.ndim else x, dataclasses.replace(one, store=None))
    bare = dataclasses.replace(alone, store=dataclasses.replace(store, labels=None))
    seed, first = jnp.zeros(2, jnp.uint32), jnp.zeros(1, jnp.uint32)
    try:
        jax.eval_shape(lambda: config.examples.draw(seed, bare, first))
    except Exception:  # whatever they are made of, they want the ratings
        return
    name = config.plain["examples"]["class_path"]
    raise ConfigError(
        f"data.implicit=false keeps ratings, and examples={name} does not read them: low ones "
        "would count as liked; use examples: fedjax_rec.data.ratings, or data.implicit: true."
    )


def _protocol(config: Config, dataset: data.Dataset) -> evaluate.Protocol:
    wanted = config.evaluation
    if wanted.candidates == "ratings":
        return evaluate.rating_error()
    metrics = evaluate.metrics(wanted.metrics)
    full, sampled = evaluate.full_catalogue(metrics, dataset.num_items), evaluate.sampled(metrics)
    if wanted.candidates == "both":
        return evaluate.beside(full, sampled, "sampled_")
    return full if wanted.candidates == "full" else sampled


def run(config: Config, out: Path | str, overwrite: bool = False, show: bool = True) -> dict:
    """Runs `config` in the folder `out`, or goes on with what is there; returns the summary.

    Raises Stopped after Ctrl-C, with the state saved, and MemoryError, before anything is written,
    where it cannot fit.
    """
    folder = RunFolder(out, config.plain, overwrite)
    try:
        with strategies.memory_budget(config.memory_budget):
            return _run(config, folder, show)
    finally:
        folder.release()


def _run(config: Config, folder: RunFolder, show: bool) -> dict:
    experiment = prepare(config)
    strategy, store = experiment.strategy, experiment.dataset.store
    key = jax.random.key(config.seed)
    # What the parts say against each other or the memory, they say before anything is written.
    like = experiment.outline(key)
    calls = simulate.program(strategy, store, key, config.cohorts, experiment.measure)
    if (told := _few_candidates(config, experiment.dataset)) is not None:
        print(told, file=sys.stderr)
    done = 0 if folder.overwrite else simulate.last_saved(folder.checkpoints)
    spent = _look_ahead(config, calls, like, store, done, show)
    folder.hold()
    protocol = experiment.measure.protocol
    opened = lambda: simulate.Checkpoints(
        folder.checkpoints, folder.fingerprint, about=experiment.digests
    )
    state: Any = None
    best, records = {}, []
    if done:
        # All of it is read and checked before any of it is written.
        checkpoints = opened()
        state, best, records = _resumed(config, folder, checkpoints, like)
        folder.begin(records)
    else:
        folder.begin(records)
        checkpoints = opened()
    chooser = chooser_of(experiment.dataset, protocol)
    kept = BestState(folder.best, config.keep_best)
    rounds = simulate.simulate(
        strategy, store, config.rounds, key, config.cohorts, experiment.measure,
        config.evaluation.every, state=state, calls=calls, most_rejected=config.most_rejected,
    )  # fmt: skip
    elapsed = spent + (records[-1]["seconds"] if records else 0.0)
    with _interruptible() as interrupted, Bar(config, records, chooser, show) as bar:
        for progress in rounds:
            elapsed += progress.metrics["seconds"]
            record = {**progress.metrics, "seconds": elapsed}
            if progress.rejected:
                record["rejected_clients"] = {str(r): ids for r, ids in progress.rejected.items()}
                bar.say(_without(progress.rejected))
            records.append(record)
            if best_of(records, chooser, protocol) is record:
                best = {"values": progress.values["test"]}
                kept.take(progress.round, progress.state)
            folder.append(record)
            bar.update(record)
            last = progress.round >= config.rounds
            stop = bool(interrupted) and not last
            if last or stop or _due(records, config.checkpoint_every):
                kept.write(progress.state)
                extras = {**best, RECORDS: folder.sums(records)}
                checkpoints.save(progress.round, progress.state, extras)
            state = progress.state
            if stop:
                checkpoints.close()
                raise Stopped(
                    f"stopped after round {progress.round}; the same command goes on from there."
                )
    checkpoints.close()
    summary = _summary(config, experiment, records, best["values"], chooser)
    if config.audit:
        summary["audit"] = simulate.audit(strategy, state, store, key, config.audit)
    cases = experiment.measure.cases["test"]
    folder.write_per_user(
        values=best["values"],
        metrics=np.array(protocol.names),
        activity=experiment.dataset.activity[np.asarray(cases.clients)],
        users=np.asarray(cases.users),
    )
    folder.write_summary(summary)
    figures.draw_all(folder.path)
    return summary


def _resumed(
    config: Config, folder: RunFolder, checkpoints: simulate.Checkpoints, like
) -> tuple[Any, dict, list[dict]]:
    """(state, values of the best round, records) of what was done before."""
    newest = simulate.last_saved(folder.checkpoints)
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
    return state, {"values": saved["values"]}, folder.records(saved[RECORDS])


def _few_candidates(config: Config, dataset: data.Dataset) -> str | None:
    """That a metric looks at more places than some users have candidates: then it is high of any
    model."""
    wanted = config.evaluation.candidates
    if wanted not in {"full", "sampled", "both"}:
        return None
    seen = int(dataset.test.seen_count.max())
    fewest = {
        "full": dataset.num_items - seen,
        "sampled": config.data.evaluation_negatives + 1,
    }
    kinds = ("full", "sampled") if wanted == "both" else (wanted,)
    for metric in evaluate.metrics(config.evaluation.metrics):
        for kind in kinds:
            if fewest[kind] < metric.least:
                return (
                    f"fedjax-rec: evaluation.metrics={metric.name} looks at {metric.least} places, "
                    f"and there are users with {fewest[kind]} {kind} candidates: it is high of any "
                    "model; use fewer places."
                )
    return None


def _look_ahead(config: Config, calls: simulate.Program, like, store, done: int, show: bool):
    """Compiles the call that the run begins with, says what it will hold in memory, and refuses
    what cannot fit. Returns the seconds it took."""
    begin = time.perf_counter()
    if done < config.rounds:
        block = simulate.block_of(done, config.rounds, config.evaluation.every)
        forecast = simulate.forecast(calls.compiled(like, store, *block), like)
        forecast.refuse()
        if show:
            print(forecast.line(), file=sys.stderr)
    return time.perf_counter() - begin


@contextmanager
def _interruptible() -> Iterator[list]:
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


def _without(rejected: dict[int, list[int]]) -> str:
    """Who was left out of which rounds, in one line."""
    rounds = (f"round {at}: {', '.join(map(str, ids))}" for at, ids in rejected.items())
    return (
        f"left out clients whose round was not finite ({'; '.join(rounds)}); lower the learning "
        "rates where there are many."
    )


def _due(records: list[dict], every: int) -> bool:
    before = records[-2]["round"] if len(records) > 1 else 0
    return bool(every) and records[-1]["round"] // every > before // every


def _summary(config: Config, experiment: Experiment, records, values, chooser: str) -> dict:
    protocol, dataset = experiment.measure.protocol, experiment.dataset
    negatives = config.data.evaluation_negatives
    label = protocol.label.replace("sampled negatives", f"sampled-{negatives}")
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
        "totals": {
            "rounds": records[-1]["round"],
            "seconds": records[-1]["seconds"],
            "bytes_up": sum(r["bytes_up"] for r in records),
            "bytes_down": sum(r["bytes_down"] for r in records),
        },
        "data": {
            **experiment.described,
            "clients": dataset.num_clients,
            "digests": experiment.digests,
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
