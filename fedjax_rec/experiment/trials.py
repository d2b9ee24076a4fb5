"""Which runs a sweep plays: all points of a grid, or one batch after another of what a search asks.

axes -> points -> configurations, each read and checked before anything runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from . import config as configuration
from . import rung, search
from .config import Config, ConfigError
from .grid import SEED, axes_of, drawn, folder_of, named, points, text
from .halving import Bracket, who_goes_on
from .prepare import read_data
from .swept import Ended, at_rung, outcome


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. point: the values of its axes, the seed among them. until: the round of
    the rung at which it is to stop; None goes on to the end."""

    point: dict[str, Any]
    config: Config
    out: Path
    until: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a sweep plays. total: how many runs at the most, those that go on from a rung once more.
    more(ended): the next that are played together, after all that have ended; none at the end.
    threads: what the configuration says. searched: the axes of a search, whose batches share
    programs."""

    total: int
    more: Callable[[Sequence[Ended]], list[Trial]]
    threads: int
    searched: tuple[str, ...] = ()


def trials(
    config: str | Path | Mapping | None,
    axes: Mapping[str, Any],
    out: Path | str,
    overrides: Sequence[str] = (),
    stem: str | None = None,
) -> list[Trial]:
    """The runs of a grid, each with its configuration read. stem: what they are called before
    their points; None for the name of the file.

    Without an axis of seeds they have that of the configuration.

    Raises:
        ConfigError: An axis is unknown or empty, or a value of it makes no sense; two points are
            the same run.
    """
    raw, stem = configuration.raw_of(config), stem or configuration.stem(config)
    axes = {**(raw.pop("sweep", None) or {}), **axes}
    found: dict[Path, Trial] = {}
    for point in _followed(points(axes)):
        one = _trial(raw, axes, point, Path(out), overrides, stem)
        if one.out in found:
            raise ConfigError(f"sweep: {one.out.name} stands twice on its axes; leave one out.")
        found[one.out] = one
    return list(found.values())


def _followed(given: list[dict]) -> Iterable[dict]:
    """These, with a bar on a terminal where they are so many that reading them takes seconds."""
    console = Console(stderr=True)
    quiet = len(given) < 200 or not console.is_terminal
    return track(given, "reading points", console=console, transient=True, disable=quiet)


def _trial(raw: Mapping, axes, point: Mapping[str, Any], out: Path, overrides, stem: str) -> Trial:
    words = [f"--{key}={text(value)}" for key, value in point.items() if key in axes]
    read = configuration.read(raw, [*overrides, *words])
    if read.devices > 1:
        raise ConfigError(
            f"devices={read.devices}: a sweep plays a whole run on each core; use devices=1."
        )
    point = {**point, SEED: read.seed}
    title, name = str(read.plain["name"] or stem), named(point)
    read = replace(read, name=",".join(filter(None, [title, name])))
    return Trial(point, read, out / folder_of(name or title, read.seed))


def planned(
    config: str | Path | Mapping | None,
    axes: Mapping[str, Any],
    out: Path | str,
    overrides: Sequence[str] = (),
    stem: str | None = None,
) -> Plan:
    """What is played of a configuration: the grid of its axes, or what its `search` asks for.

    Args are those of `trials`. Raises ConfigError as it does, and where the search makes no sense;
    ValueError where `out` holds another search.
    """
    raw, stem = configuration.raw_of(config), stem or configuration.stem(config)
    section = raw.pop(search.KEY, None)
    if section is None:
        runs = trials(raw, axes, out, overrides, stem)
        return all_of(runs)
    axes, out = {**(raw.pop("sweep", None) or {}), **axes}, Path(out)
    wanted, section = search.search_of(section)
    known, seeds = axes_of(axes)
    if not known:
        raise ConfigError("search: no axis but seeds; write --sweep.KEY 'loguniform(0.1, 10)'.")

    def runs_of(setting: Mapping[str, Any]) -> list[Trial]:
        every = ({**setting, SEED: seed} for seed in seeds)
        found = [_trial(raw, axes, point, out, overrides, stem) for point in every]
        if wanted.halving is not None:
            _check_alike(first, found[0].config)
        return found

    point = {**drawn(known, 0, 0), SEED: seeds[0]}  # whose errors are said before anything runs
    first = _trial(raw, axes, point, out, overrides, stem).config
    brackets = wanted.brackets(first.rounds, first.evaluation.every)
    if wanted.halving is not None:
        _check_compared(first)
    journal = search.Journal(out, section, axes)

    def more(ended: Sequence[Ended]) -> list[Trial]:
        """Those asked for, one bracket after another; what is there is not repeated."""
        by = {one.out: one for one in ended}
        told: list[search.Told] = []
        for bracket in brackets:
            n = bracket.settings
            if len(journal.asked) < len(told) + n:
                known_of = len(journal.asked) - len(told)
                journal.write(wanted.ask(known, [*told], n)[known_of:])
            asked = journal.asked[len(told) : len(told) + n]
            runs = [runs_of(setting) for setting in asked]
            if left := _left_of(bracket, runs, by):
                return left
            of_run = lambda trials: [by[one.out] for one in trials]
            told += [outcome(s, of_run(r)) for s, r in zip(asked, runs, strict=True)]
        return []

    total = sum(bracket.plays for bracket in brackets) * len(seeds)
    return Plan(total, more, first.threads, tuple(axes))


def _left_of(
    bracket: Bracket, runs: Sequence[list[Trial]], by: Mapping[Path, Ended]
) -> list[Trial]:
    """The runs of a bracket that are played next, those of its lowest rung where any is left; none
    at its end. runs: of each setting. by: how those ended that were played, by their folders."""
    going = list({trials[0].out: trials for trials in runs}.values())
    for rounds in bracket.rungs:
        until = None if rounds == bracket.rungs[-1] else rounds
        here = [replace(one, until=until) for trials in going for one in trials]
        if left := [one for one in here if not _is_there(by.get(one.out), until)]:
            return left
        if until is not None:
            values, lowest = at_rung([[by[one.out] for one in trials] for trials in going], until)
            going = [going[i] for i in who_goes_on(values, bracket.eta, lowest)]
    return []


def _is_there(ended: Ended | None, until: int | None) -> bool:
    if ended is None or ended.status != "stopped":
        return ended is not None
    return until is not None and rung.reached(ended.out) >= until


def _check_compared(config: Config) -> None:
    """Raises ConfigError where runs cannot be compared at a rung."""
    if read_data(config).dataset.validation is None:
        raise ConfigError(
            "search: the data have no validation part to compare runs by, and one that looks at "
            "the test part fits it; use another data.split, or search: random."
        )


def _check_alike(first: Config, other: Config) -> None:
    """Raises ConfigError for a run that does not come to the same rungs."""
    for key in ("rounds", "evaluation.every"):
        one, two = attrgetter(key)(first), attrgetter(key)(other)
        if one != two:
            raise ConfigError(
                f"sweep: {key} is {one} of one setting and {two} of another, and runs that are "
                "compared at a rung are measured alike; use one, or search: random."
            )


def all_of(runs: Sequence[Trial]) -> Plan:
    """All of these at once."""
    return Plan(len(runs), lambda ended: [] if ended else list(runs), runs[0].config.threads)
