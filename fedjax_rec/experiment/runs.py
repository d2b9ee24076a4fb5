"""A file of runs: experiments as data, run in order, and the section of a page that they make.

    section: Update strategies                 # of `page`, docs/results.md where it is not said
    targets: docs/targets/strategies.yaml
    folders: [runs/strategies, runs/reference] # what the section reads
    seeds: [0, 1, 2]
    out: runs/strategies/{name}-{seed}
    set: {rounds: 150}                         # overrides of every run
    runs:
    - configs/strategies/*.yaml
    - config: configs/strategies/fedavg.yaml
      name: "{choose}"
      sweep: {choose: [fed_adam, fed_yogi]}    # one run for each combination of values
    - {config: configs/large/adapters.yaml, start_from: "runs/head-{seed}", set: {rounds: 60}}
    - {config: configs/large/liked_mf.yaml, export: true}    # writes its weights.safetensors beside

`{seed}`, `{name}` and the keys that are swept stand for their values, in every text. An axis that
neither `name` nor `out` mentions is added to the name: `colr,rank=8`. A `*` in a configuration is
each file that fits. Paths are those of where the command is given.
"""

from __future__ import annotations

import glob
import itertools
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..check import nearest
from .factories import ConfigError

TOP = ("section", "page", "targets", "folders", "fetch", "seeds", "out", "set", "runs")
RUN = ("config", "name", "set", "sweep", "seeds", "out", "start_from", "export")
PLACE = r"\{([A-Za-z_][\w.]*)\}"  # of a value in a text


@dataclass(frozen=True)
class PlannedRun:
    """One run of one seed, as `fedjax-rec run` takes it; `overrides` are dotted keys and values.
    export: what it learned is written into its folder, for runs that read it."""

    config: str
    name: str
    seed: int
    out: str
    overrides: Mapping[str, Any]
    export: bool = False

    def words(self) -> list[str]:
        """What stands after `fedjax-rec run`."""
        return [self.config, "--out", self.out, *self.options()]

    def options(self) -> list[str]:
        """The words that override the configuration."""
        given = {"seed": self.seed, "name": self.name, **self.overrides}
        return [f"--{key}={_text(value)}" for key, value in given.items()]

    def written(self) -> list[str]:
        """The words that write what it learned into its folder."""
        return ["export", self.out, "--out", self.out]

    def command(self) -> str:
        """As lines of a shell."""
        lines = [["run", *self.words()], *([self.written()] if self.export else [])]
        return "\n".join(shlex.join(["fedjax-rec", *words]) for words in lines)


@dataclass(frozen=True)
class Plan:
    """A file of runs.

    Attributes:
        runs: all of them, those of the first seed first.
        section: the title of the section that they make, None for none.
        page: the markdown file that holds the section.
        targets: what the section is held against, see `report/targets.py`.
        folders: of the runs that the section reads.
        fetch: data and weights that the runs need, see `fedjax-rec data list`.
    """

    runs: tuple[PlannedRun, ...]
    section: str | None = None
    page: str = "docs/results.md"
    targets: str | None = None
    folders: tuple[str, ...] = ()
    fetch: tuple[str, ...] = field(default=())

    def only(self, names: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[PlannedRun]:
        """Runs of these names and seeds; of all, where none is given.

        Raises:
            ConfigError: the file has no run of a name or a seed.
        """
        known = list(dict.fromkeys(run.name for run in self.runs))
        for name in names:
            if name not in known:
                raise ConfigError(f"--only {name}: no run is called so{nearest(name, known)}.")
        chosen = [run for run in self.runs if not names or run.name in names]
        for seed in seeds:
            if all(run.seed != seed for run in chosen):
                has = ", ".join(map(str, sorted({run.seed for run in chosen})))
                raise ConfigError(f"--seeds {seed}: no such seed; the runs have {has}.")
        return [run for run in chosen if not seeds or run.seed in seeds]


def read_runs(path: str | Path) -> Plan:
    """Reads a file of runs.

    Raises:
        ConfigError: in one line, what the file says that cannot be run: a key that is unknown, a
            configuration that is not there, two runs in one folder.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file of runs; see configs/runs.")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; mend the YAML.") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("runs"), list) or not raw["runs"]:
        raise ConfigError(f"{path}: has no list of runs; write runs: [configs/quickstart.yaml].")
    refuse_unknown(raw, TOP, str(path))
    runs: list[PlannedRun] = []
    for place, entry in enumerate(raw["runs"], start=1):
        runs += _expanded(entry, raw, f"{path}, run {place}")
    seen: dict[str, PlannedRun] = {}
    for run in runs:
        if seen.setdefault(str(Path(run.out)), run) is not run:
            raise ConfigError(
                f"{path}: two runs called {seen[str(Path(run.out))].name} and {run.name} go to "
                f"{run.out}; give one another name or out."
            )
    seeds = list(dict.fromkeys(seed for run in runs for seed in [run.seed]))
    return Plan(
        tuple(sorted(runs, key=lambda run: seeds.index(run.seed))),
        section=raw.get("section"),
        page=raw.get("page", Plan.page),
        targets=raw.get("targets"),
        folders=tuple(_list(raw, "folders", str, str(path))),
        fetch=tuple(_list(raw, "fetch", str, str(path))),
    )


def _expanded(entry: Any, raw: Mapping[str, Any], where: str) -> Iterator[PlannedRun]:
    """The runs of one entry: of each of its configurations."""
    entry = {"config": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: {entry} is no run; write {{config: FILE, name: NAME}}.")
    refuse_unknown(entry, RUN, where)
    config = entry.get("config")
    if not isinstance(config, str) or not (files := sorted(glob.glob(config))):
        raise ConfigError(f"{where}: config={config} is no file; name a configuration.")
    for file in files:
        yield from _swept({**entry, "config": file}, raw, where)


def _swept(entry: Mapping[str, Any], raw: Mapping[str, Any], where: str) -> Iterator[PlannedRun]:
    """The runs of one configuration: every combination of what is swept, under every seed."""
    config = entry["config"]
    fixed = {**_mapping(raw, "set", where), **_mapping(entry, "set", where)}
    if "start_from" in entry:
        fixed["start_from"] = entry["start_from"]
    axes = _mapping(entry, "sweep", where)
    for key, values in axes.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: sweep of {key} is {values}; write a list of values.")
    if not isinstance(export := entry.get("export", False), bool):
        raise ConfigError(f"{where}: export={export} is no yes or no; write export: true.")
    for key in (fixed | axes).keys() & {"seed", "name", "out"}:
        raise ConfigError(
            f"{where}: {key} is no override here; use seeds, name and out of the run."
        )
    seeds = _list(entry if "seeds" in entry else raw, "seeds", int, where) or [0]
    name, out = str(entry.get("name", Path(config).stem)), entry.get("out", raw.get("out"))
    out = str(out or "runs/{name}-{seed}")
    added = [key for key in axes if f"{{{key}}}" not in name + out]
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        for seed in seeds:
            known = {"seed": seed, **point}
            full = ",".join(
                [_text(filled(name, known, where)), *(_said(k, point[k]) for k in added)]
            )
            known["name"] = full
            overrides = {k: filled(v, known, where) for k, v in (fixed | point).items()}
            place = str(filled(out, known, where))
            yield PlannedRun(config, full, seed, place, overrides, export)


def filled(value: Any, known: Mapping[str, Any], where: str) -> Any:
    """`value` with `{seed}` and the like, the keys of `known`, as their values in the texts that it
    holds.

    Raises:
        ConfigError: a text has a name that is not known.
    """
    if isinstance(value, dict):
        return {key: filled(one, known, where) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, known, where) for one in value]
    if not isinstance(value, str):
        return value
    for name in re.findall(PLACE, value):
        if name not in known:
            names = ", ".join(f"{{{one}}}" for one in known)
            raise ConfigError(f"{where}: {{{name}}} stands for nothing; use {names}.")
    if whole := re.fullmatch(PLACE, value):
        return known[whole[1]]
    return re.sub(PLACE, lambda found: _text(known[found[1]]), value)


def _said(key: str, value: Any) -> str:
    """`rank=8` of strategy.rank, as a name says it."""
    return f"{key.partition('.')[2] or key}={_text(value)}"


def _text(value: Any) -> str:
    """A value as a word of the command line, which is read as YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def refuse_unknown(found: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    """Raises ConfigError for a key of `found` that is none of `keys`."""
    for key in found:
        if key == "callbacks":
            raise ConfigError(
                f"{where}: callbacks are keys of a configuration; write them there, or under set: "
                "{callbacks: [...]}."
            )
        if key not in keys:
            near = nearest(str(key), keys)
            raise ConfigError(f"{where}: {key} is no key{near}; use {', '.join(keys)}.")


def _mapping(found: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key}={value} is no mapping; write {key}: {{name: value}}.")
    return value


def _list(found: Mapping[str, Any], key: str, kind: type, where: str) -> list:
    value = found.get(key) or []
    if not isinstance(value, list) or not all(type(one) is kind for one in value):
        like = "[0, 1, 2]" if kind is int else "[runs/mine]"
        raise ConfigError(f"{where}: {key}={value} is no such list; write {key}: {like}.")
    return value
