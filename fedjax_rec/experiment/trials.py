"""Which runs a sweep plays: all points of a grid, or one batch after another of what a search asks.

axes -> points -> configurations, each read and checked before anything runs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from . import config as configuration
from . import search
from .config import Config, ConfigError
from .grid import SEED, axes_of, drawn, folder_of, named, points, text
from .swept import Ended, outcome


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. point: the values of its axes, the seed among them."""

    point: dict[str, Any]
    config: Config
    out: Path


@dataclass(frozen=True)
class Plan:
    """What a sweep plays. total: how many runs at the most. more(ended): the next that are played
    together, after all that have ended; none at the end. threads: what the configuration says.
    searched: the axes of a search, whose batches share programs."""

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
    journal = search.Journal(out, section, axes)

    def runs_of(setting: Mapping[str, Any]) -> list[Trial]:
        every = ({**setting, SEED: seed} for seed in seeds)
        return [_trial(raw, axes, point, out, overrides, stem) for point in every]

    def more(ended: Sequence[Ended]) -> list[Trial]:
        """Those asked for, one batch after another; settings that came before are not repeated."""
        by = {one.out: one for one in ended}
        told: list[search.Told] = []
        while len(told) < wanted.trials:
            n = min(wanted.batch, wanted.trials - len(told))
            if len(journal.asked) < len(told) + n:
                known_of = len(journal.asked) - len(told)
                journal.write(wanted.ask(known, [*told], n)[known_of:])
            batch = [runs_of(setting) for setting in journal.asked[len(told) : len(told) + n]]
            new = {one.out: one for runs in batch for one in runs if one.out not in by}
            if new:
                return list(new.values())
            for setting, runs in zip(journal.asked[len(told) :], batch, strict=False):
                told.append(outcome(setting, [by[one.out] for one in runs]))
        return []

    first = runs_of(drawn(known, 0, 0))[0].config  # whose errors are said before anything runs
    return Plan(wanted.trials * len(seeds), more, first.threads, tuple(axes))


def all_of(runs: Sequence[Trial]) -> Plan:
    """All of these at once."""
    return Plan(len(runs), lambda ended: [] if ended else list(runs), runs[0].config.threads)
