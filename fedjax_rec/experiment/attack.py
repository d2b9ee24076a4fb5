"""`fedjax-rec attack`: what the messages of a run give away, attack by attack.

A configuration is trained first, in memory; of a run folder the last state is taken. Then the
messages of some clients are listened to for some rounds, see `leaks.overhear`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.table import Table

from .. import leaks, privacy, simulate
from ..check import at_least, nearest
from ..leaks.overheard import refuse_closed
from ..types import State
from . import config as configuration
from .best import chooser_of
from .config import Config, ConfigError
from .loaded import load_run
from .prepare import Experiment, mesh_of, prepare
from .private import Guarantee, mechanism

CANARIES, DELTA = 40_000, 1e-6


@dataclass(frozen=True)
class Scene:
    """What attacks are run in. metrics: of the last record; clients: whose messages; observe: for
    how many rounds."""

    config: Config
    experiment: Experiment
    state: State
    metrics: Mapping[str, Any]
    clients: Sequence[int]
    observe: int

    @cached_property
    def listened(self):
        """(heard, truth)"""
        store, key = self.experiment.dataset.store, jax.random.key(self.config.seed)
        return leaks.overhear(
            self.experiment.strategy, self.state, store, key, self.clients, self.observe,
            self.config.cohorts,
        )  # fmt: skip

    @property
    def heard(self) -> list[leaks.Overheard]:
        return self.listened[0]

    @property
    def truth(self) -> leaks.Truth:
        return self.listened[1]

    @property
    def negatives(self) -> float:
        """Examples of an interaction, beside itself: the configuration tells."""
        store = self.experiment.dataset.store
        return self.config.examples.most(store) / store.longest - 1


def of_items(name: str, attack: Callable, of: str = "positives") -> Callable:
    """An attack on items, held against the positives or what was touched in the last round."""

    def run(scene: Scene) -> list[dict]:
        guesses = attack(scene)
        truth = scene.truth.positives if of == "positives" else scene.truth.touched[-1]
        found = leaks.scored(name, guesses, truth, of)
        metrics = {metric: dataclasses.asdict(value) for metric, value in found.by.items()}
        told = {"random": found.random, "everything": found.everything, "users": found.users}
        return [{"attack": name, "of": of, **metrics, **told}]

    return run


def _membership(scene: Scene) -> list[leaks.Guess]:
    some = [dataclasses.replace(h, messages=h.messages[:64]) for h in scene.heard[-1:]]
    model = scene.config.make_model(**scene.experiment.read.late)
    return leaks.membership(model, some, 1 / (1 + scene.negatives))


def _attributes(scene: Scene, features: Mapping[int, np.ndarray], what: str) -> list[dict]:
    told = []
    for name, values in attributes_of(scene.experiment).items():
        found = leaks.attribute(name, features, values)
        row = {"attack": what, "of": name, "auc": dataclasses.asdict(found.auc)}
        told.append({**row, "users": found.users, "share": found.share})
    return told


def _audited_clip(config: Config) -> privacy.Clip:
    if config.in_shares is not None:
        raise ValueError(
            "canaries: clients add the noise in shares, and what is audited here is that of a "
            "trusted server; leave canaries out."
        )
    if config.privacy is None or config.privacy.clip is None:
        raise ValueError(
            "canaries: the configuration has no section `privacy`, so there is no mechanism to "
            "audit; see docs/privacy.md."
        )
    return config.privacy.clip


def _canaries(scene: Scene) -> list[dict]:
    config, guarantee = scene.config, scene.experiment.guarantee
    clip = _audited_clip(config)
    made = mechanism(config, scene.experiment.dataset.num_clients)
    assert made is not None and isinstance(guarantee, Guarantee)
    # Of a first round whose noise later ones take back there is more.
    first = 1.0 if guarantee.correlated is None else guarantee.correlated.sensitivity(1)
    z = guarantee.noise_multiplier / first
    bound = float(clip.sensitivity(clip.init()))
    found = leaks.canaries(made, bound, jax.random.key(config.seed), CANARIES, delta=DELTA)
    accounted = privacy.epsilon_of(z, 1, privacy.poisson_sampled(1.0, CANARIES), DELTA)
    row = {"attack": "canaries", "of": "epsilon of one round of all"}
    return [{**row, "epsilon": found.epsilon, "accounted": accounted, "delta": DELTA}]


ATTACKS: dict[str, Callable[[Scene], list[dict]]] = {
    "touched": of_items("touched", lambda s: leaks.touched(s.heard), "touched"),
    "magnitudes": of_items("magnitudes", lambda s: leaks.magnitudes(s.heard, s.negatives)),
    "recurring": of_items("recurring", lambda s: leaks.recurring(s.heard, s.negatives)),
    "directions": of_items("directions", lambda s: leaks.directions(s.heard)),
    "membership": of_items("membership", _membership),
    "popularity": of_items("popularity", lambda s: leaks.popularity(s.heard, s.negatives)),
    "attributes": lambda s: _attributes(s, leaks.sent_features(s.heard), "attributes"),
    "kept": lambda s: _attributes(s, leaks.kept_features(s.state.private, s.clients), "kept"),
    "canaries": _canaries,
}


def attributes_of(experiment: Experiment) -> dict[str, dict[int, bool]]:
    """By attribute, of which clients it is known and holds: `gender F`, and `age` from the median.

    Raises ValueError where the data describe no users, or clients hold several.
    """
    split, dataset = experiment.read.split, experiment.dataset
    features = None if split is None else split.interactions.user_features
    known = [] if features is None else [n for n in ("gender", "age") if n in features.columns]
    if features is None or not known:
        raise ValueError(
            f"attributes: data {dataset.name!r} tell neither gender nor age of users; use data "
            "whose user_features have one, such as ml-100k or ml-1m."
        )
    if dataset.store.owners is not None:
        raise ValueError("attributes: clients hold several users; use data.clients: by_user.")
    found: dict[str, dict[int, bool]] = {}
    for name in known:
        column = features[name].to_list()
        if name == "gender":
            found["gender"] = {u: x == "F" for u, x in enumerate(column) if x is not None}
            continue
        ages = {u: float(x) for u, x in enumerate(column) if x is not None}
        middle = float(np.median(list(ages.values())))
        found[f"age > {middle:g}"] = {u: x > middle for u, x in ages.items()}
    return found


def attack(
    source: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    attacks: Sequence[str] = (),
    observe: int = 2,
    clients: int = 256,
) -> dict[str, Any]:
    """What the messages of a run give away.

    Args:
        source: a configuration, which is trained first, or the folder of a finished run.
        overrides: `--key value` words, of a configuration.
        attacks: names of `ATTACKS`; none for all, of which those that cannot be run say why.
        observe: rounds that are listened to.
        clients: how many are, drawn by the seed.

    Returns:
        `rows`, one or two an attack; `bytes_up`, the mean message; `metrics`, of the last round.

    Raises:
        ConfigError: for an unknown attack, and what a configuration raises; a ValueError.
        ValueError: where an attack that was named needs what messages do not hold.

    Example:
        >>> told = attack("configs/privacy/leaks.yaml", attacks=["touched", "directions"])
    """
    for name in attacks:
        if name not in ATTACKS:
            raise ConfigError(
                f"--attacks {name}: no such attack{nearest(name, ATTACKS)}; use "
                f"{', '.join(ATTACKS)}."
            )
    at_least("attack", "--observe", observe, 1)
    at_least("attack", "--clients", clients, 1)
    scene = scene_of(source, overrides, observe, clients, attacks)
    rows: list[dict] = []
    for name in attacks or ATTACKS:
        try:
            rows += ATTACKS[name](scene)
        except ValueError as error:
            if attacks:
                raise
            rows.append({"attack": name, "refused": str(error)})
    sent = [m.nbytes for m in scene.heard[-1].messages] if "listened" in vars(scene) else []
    return {
        "name": scene.config.name,
        "round": int(np.asarray(scene.state.round)),
        "rows": rows,
        "bytes_up": float(np.mean(sent)) if sent else math.nan,
        "metrics": dict(scene.metrics),
    }


def scene_of(
    source, overrides: Sequence[str], observe: int, clients: int, attacks: Sequence[str] = ()
) -> Scene:
    """The run that is attacked: trained here, or as its folder has it. What `attacks` lack is told
    before anything is trained."""
    if isinstance(source, str | Path) and Path(source).is_dir():
        if overrides:
            raise ConfigError(
                f"attack {source} {overrides[0]}: a finished run is as it is; leave the override "
                "out, or attack its configuration."
            )
        done = load_run(source)
        config, experiment, state = done.read_config, done.experiment, done.state
        metrics: Mapping = done.files.records[-1]
    else:
        config = configuration.read(source, overrides)
        experiment = prepare(config)
        if set(attacks) - {"canaries", "kept"}:
            refuse_closed(experiment.strategy)
        if {"attributes", "kept"}.intersection(attacks):
            attributes_of(experiment)
        if "canaries" in attacks:
            _audited_clip(config)
        if "recurring" in attacks and observe < 2:
            leaks.recurring([leaks.Overheard(0, (), [], True, 1)])
        state, metrics = trained(config, experiment)
    return Scene(
        config, experiment, state, metrics,
        _drawn(experiment.dataset.activity, clients, config.seed), observe,
    )  # fmt: skip


def trained(config: Config, experiment: Experiment) -> tuple[State, dict]:
    """The state after the last round, which alone is measured, and its metrics."""
    key, store = jax.random.key(config.seed), experiment.dataset.store
    calls = simulate.program(experiment.made, mesh_of(config)).of(key, experiment.inputs())
    *_, last = simulate.simulate(
        experiment.strategy, store, config.rounds, key, config.cohorts, experiment.measure,
        config.rounds, calls=calls, most_rejected=config.most_rejected,
    )  # fmt: skip
    chooser = chooser_of(experiment.dataset, experiment.measure.protocol)
    return last.state, {**last.metrics, "selected_by": chooser}


def _drawn(activity: np.ndarray, clients: int, seed: int) -> list[int]:
    """Clients with data, at random."""
    there = np.flatnonzero(activity > 0)
    rng = np.random.default_rng(seed)
    return sorted(map(int, rng.choice(there, min(clients, len(there)), replace=False)))


def shown(told: Mapping[str, Any]) -> tuple[Table, list[str]]:
    """The rows as a table, and lines of what stands in none: bounds, and why there is nothing."""
    title = f"{told['name']}, round {told['round']}, {told['bytes_up']:,.0f} bytes a message"
    table = Table(title=title, title_justify="left")
    for name in ("attack", "of", "F1", "random", "all", "AUC", "users"):
        table.add_column(name, justify="left" if name in ("attack", "of") else "right")
    lines = []
    for row in told["rows"]:
        if "refused" in row:
            lines.append(row["refused"])
        elif "epsilon" in row:
            lines.append(
                f"{row['attack']}: {row['of']} is at least {row['epsilon']:.2f}, and accounted for "
                f"as {row['accounted']:.2f}, at delta {row['delta']:g}"
            )
        else:
            f1 = between(row["f1"]) if "f1" in row else ""
            plain = [f"{row[n]:.3f}" if n in row else "" for n in ("random", "everything")]
            table.add_row(
                row["attack"], row["of"], f1, *plain, between(row["auc"]), str(row["users"])
            )
    return table, lines


def between(value: Mapping[str, float]) -> str:
    """`0.912 (0.900 to 0.924)`"""
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"
