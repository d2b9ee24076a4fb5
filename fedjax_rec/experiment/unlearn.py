"""`fedjax-rec unlearn`: users are taken out of a finished run, and what is left is measured.

    retrain   the run again, without them in any cohort: exact
    replay    what those who stay sent, sent again by their logs (`unlearn.replay`): not exact

Each is a run of its own, with a folder that all other commands read.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from .. import leaks, simulate, strategies, unlearn
from ..check import nearest
from ..types import State
from . import config as configuration
from . import private
from .attack import trained
from .config import Config, ConfigError
from .folder import RunFolder
from .ledger import saved
from .loaded import LoadedRun, load_run
from .prepare import mesh_of, prepare
from .recommend import place_of
from .run import carry_out

METHODS = ("retrain", "replay")
WITHOUT, LOG, REPLAY = (
    f"fedjax_rec.{name}" for name in ("simulate.without", "unlearn.update_log", "unlearn.replay")
)
TOLD = "unlearned.json"


@dataclass(frozen=True)
class Wanted:
    """What is to be done. gone, never: clients who are forgotten, and who never took part."""

    done: LoadedRun
    gone: list[int]
    never: list[int]
    rounds: int

    def plain(self, method: str, seed: int | None = None) -> dict[str, Any]:
        """The configuration of the run without them."""
        raw = copy.deepcopy(self.done.config)
        around = {"cohorts": raw["cohorts"], "clients": self.gone}
        raw["cohorts"] = {"class_path": WITHOUT, "init_args": around}
        raw |= {"rounds": self.rounds, "name": f"{self.done.summary['name']}-{method}"}
        raw.pop("callbacks", None)
        return raw if seed is None else raw | {"seed": seed}


def forget(
    run: Path | str | LoadedRun,
    users: Sequence[Any],
    out: Path | str,
    methods: Sequence[str] = (),
    steps: int | None = None,
    show: bool = False,
) -> dict[str, Any]:
    """Takes users out of a finished run, and says what is left of them.

    Args:
        run: the folder of the run, or what `load_run` gave.
        users: their ids, as the data have them.
        out: a folder, which gets one for each method, and what was found, `unlearned.json`.
        methods: `retrain`, `replay`, or both; none for both where clients kept logs, else the
            first.
        steps: batches of a client in a round of `replay`; None for those of the run.
        show: progress on standard error.

    Returns:
        `rows`, one for the model before and one a method: `seconds`, `rounds` that were played,
        `bytes_up`; `metric` of those who stay; and `auc`, how well who is forgotten is told from
        users who never took part, by `leaks.participation`; None where all took part.

    Raises:
        ValueError: for unknown users, all users, a run without checkpoints, clients of several
            users, and a run that a method cannot be of.

    Example:
        >>> from fedjax_rec.experiment.unlearn import forget
        >>> told = forget("runs/fedmf", [196, 42], out="runs/without")
    """
    done = run if isinstance(run, LoadedRun) else load_run(run)
    wanted = _wanted(done, users)
    for method in methods:
        if method not in METHODS:
            raise ConfigError(
                f"--methods {method}: no such method{nearest(method, METHODS)}; use "
                f"{' or '.join(METHODS)}."
            )
    logged = _refusal(wanted, steps)
    if "replay" in methods and logged is not None:
        raise ConfigError(logged)
    chosen = methods or (METHODS if logged is None else METHODS[:1])
    if steps is not None and "replay" not in chosen:
        raise ConfigError(f"--steps {steps} is of replay, which is not asked for; leave it out.")
    measured = _measuring(wanted)
    totals = done.summary["totals"]
    state = done.state
    first = {"model": "before", **{k: totals[k] for k in ("rounds", "seconds", "bytes_up")}}
    rows = [{**first, **measured(state)}]
    if logged is None:
        kept = unlearn.logged_bytes(state.memory)
        rows[0] |= {"log_bytes": int(kept.sum()), "log_bytes_per_client": float(kept.mean())}
    for method in chosen:
        played, begins = _begins(wanted, method, state)
        raw = wanted.plain(method)
        if method == "replay":
            _lay_replay(raw, steps)
        summary, ended = _played(configuration.read(raw), Path(out) / method, begins, show)
        found = summary["totals"]
        row = {"model": method, "rounds": found["rounds"] - played, "seconds": found["seconds"]}
        rows.append({**row, "bytes_up": found["bytes_up"], **measured(ended)})
    told = {
        "run": str(done.path), "users": [str(user) for user in users],
        "never_trained": len(wanted.never), "rows": rows,
    }  # fmt: skip
    saved(told, Path(out) / TOLD)
    return told


def _wanted(done: LoadedRun, users: Sequence[Any]) -> Wanted:
    if not simulate.last_saved(done.path / "checkpoints"):
        raise ValueError(
            f"unlearn {done.path}: its checkpoints are gone, so there is no model to compare with; "
            "run it again."
        )
    experiment = done.experiment
    split, partition = experiment.read.split, experiment.read.partition
    if split is None or partition is None:
        raise ValueError("unlearn: the run is of labelled examples, which name no users.")
    if experiment.dataset.store.owners is not None:
        raise ValueError("unlearn: clients hold several users; use data.clients: by_user.")
    known, gone = split.interactions, []
    for user in users:
        asked = f"unlearn --users {user}"
        row = place_of(asked, "user", user, known.user_names, known.name)
        gone.append(int(partition.client_of_user[row]))
    gone = sorted(set(gone))
    if not gone:
        raise ValueError("unlearn: required: --users; name one or more.")
    never = _left_out(done.config["cohorts"])
    there = np.flatnonzero(experiment.dataset.activity > 0)
    if not set(there.tolist()) - set(gone) - set(never):
        raise ValueError(
            "unlearn --users: these are all users that took part, and nobody is left "
            "to train; name fewer."
        )
    if strangers := set(gone).intersection(never):
        name = known.user_names[np.isin(partition.client_of_user, sorted(strangers))][0]
        raise ValueError(
            f"unlearn --users {name}: took no part in the run, which leaves it out of its cohorts; "
            "name those who did."
        )
    return Wanted(done, gone, sorted(set(never) & set(there.tolist())), done.metrics["round"][-1])


def _left_out(section: Any) -> list[int]:
    """The clients that cohorts of a configuration never draw."""
    if not isinstance(section, Mapping):
        return []
    given = section.get("init_args") or {}
    mine = list(given.get("clients") or []) if section.get("class_path") == WITHOUT else []
    return [int(c) for c in mine] + _left_out(given.get("cohorts"))


def _logs(raw: Mapping[str, Any]) -> list[dict]:
    stages = (raw["strategy"].get("init_args") or {}).get("stages") or []
    return [one for one in stages if isinstance(one, Mapping) and one.get("class_path") == LOG]  # pyright: ignore


def _refusal(wanted: Wanted, steps: int | None) -> str | None:
    """Why the run cannot be replayed; None where it can."""
    raw = wanted.done.config
    path = raw["strategy"]["class_path"]
    if path not in private.COVERED:
        names = ", ".join(sorted(name.rpartition(".")[2] for name in private.COVERED))
        return (
            f"--methods replay: strategy={path} may send more than one update a round, which logs "
            f"do not keep; use --methods retrain, or one of {names}."
        )
    logs = _logs(raw)
    if not logs:
        return (
            f"--methods replay: {wanted.done.path} kept no logs; run it with strategy.stages: "
            f"[{{class_path: {LOG}, init_args: {{rounds: {wanted.rounds}, rows: 32}}}}], or use "
            "--methods retrain."
        )
    room = logs[0]["init_args"]["rounds"]
    if room < wanted.rounds:
        return (
            f"--methods replay: logs have room for {room} rounds of {wanted.rounds}; run it with "
            f"update_log(rounds={wanted.rounds}), or use --methods retrain."
        )
    if steps is not None and path.endswith(".fedsgd"):
        return f"--steps {steps}: clients of fedsgd send one gradient; leave it out."
    return None


def _lay_replay(raw: dict, steps: int | None) -> None:
    """Puts `replay` in the place of the log."""
    for one in _logs(raw):
        one["class_path"] = REPLAY
    if steps is not None:
        raw["strategy"]["init_args"]["steps"] = steps


def _from(wanted: Wanted) -> tuple[int, Path | None]:
    """(round, folder) of the last state that was kept before any of them took part; (0, None)."""
    done = wanted.done
    config, clients = done.read_config, done.experiment.dataset.num_clients
    key = jax.random.key(config.seed)
    began = unlearn.first_round(config.cohorts, key, wanted.gone, clients, wanted.rounds)
    if began is None:
        raise ValueError(
            "unlearn --users: none of them was drawn in any round, so there is nothing to unlearn."
        )
    kept: list[tuple[int, Path | None]] = [(0, None)]
    for place in (done.path / "checkpoints", done.path / "best"):
        names = [p.name for p in place.iterdir()] if place.is_dir() else []
        kept += [(int(n), place) for n in names if n.isdigit() and int(n) <= began]
    return max(kept, key=lambda one: one[0])


def _begins(wanted: Wanted, method: str, now: State) -> tuple[int, Callable[[State], State]]:
    """(rounds that need not be played again, the state that a method begins from, by a fresh
    one)."""
    if method == "replay":
        return 0, lambda first: unlearn.rolled_back(first, now)
    round, folder = _from(wanted)
    if folder is None:
        return 0, lambda first: first
    return round, lambda first: simulate.load_state(folder, round, first)


def _played(config: Config, out: Path, begins, show: bool) -> tuple[dict, State]:
    """(summary, last state) of a run in its folder, which goes on with what is there."""
    folder = RunFolder(out, config.plain)
    try:
        with strategies.memory_budget(config.memory_budget):
            experiment = prepare(config)
            mesh = mesh_of(config)
            key = jax.random.key(config.seed)
            calls = simulate.program(experiment.made, mesh).of(key, experiment.inputs())
            summary = carry_out(config, folder, experiment, calls, show, begins=begins)
    finally:
        folder.release()
    last = simulate.last_saved(folder.checkpoints)
    return summary, simulate.load_state(folder.checkpoints, last, experiment.outline)


def _measuring(wanted: Wanted) -> Callable[[State], dict[str, Any]]:
    """What is said of a state."""
    done = wanted.done
    config = done.read_config
    own = replace(config.evaluation, of="aggregated")
    experiment = done.experiment if own == config.evaluation else prepare(
        replace(config, evaluation=own)
    )  # fmt: skip
    measure, store = experiment.measure, experiment.dataset.store
    values = jax.jit(lambda state: measure.values(state, None, None)[0]["test"])
    away = [*wanted.gone, *wanted.never]
    stay = ~np.isin(np.asarray(measure.cases["test"].clients), away)
    model, reference = config.make_model(**experiment.read.late), None
    if wanted.never:
        # As it would be without them, of another seed.
        other = configuration.read(wanted.plain("reference", (config.seed + 1) % 2**32))
        reference = trained(other, prepare(other))[0].shared

    def measured(state: State) -> dict[str, Any]:
        of_users = np.asarray(values(state))[stay, 0]
        told = {measure.protocol.names[0]: dataclasses.asdict(leaks.interval(of_users))}
        if reference is None:
            return {**told, "auc": None}
        score = leaks.participation(model, state.shared, reference, store, away)
        cut = len(wanted.gone)
        return {**told, "auc": dataclasses.asdict(leaks.told_apart(score[:cut], score[cut:]))}

    return measured
