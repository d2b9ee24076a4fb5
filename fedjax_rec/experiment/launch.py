"""`fr.run`, `fr.sweep` and `fr.arena`: what the commands of these names do, from Python."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from .. import simulate
from ..report.arena import Scores
from ..simulate import Callback
from . import config as configuration
from .arena import bouts, fight, read_arena
from .config import Config
from .loaded import LoadedRun, load_run
from .overrides import dotted, lay
from .run import run as run_in_folder
from .sweep import planned, run_sweep, threads_of_sweep
from .swept import Ended, table


def run(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    /,
    *,
    out: Path | str | None = None,
    overwrite: bool = False,
    show: bool = True,
    callbacks: Sequence[Callback | Mapping[str, Any] | str] = (),
    **changes: Any,
) -> LoadedRun:
    """Runs an experiment, or goes on with what is in the folder `out`, and loads it.

    Args:
        config: The path of a YAML file, a mapping of the same keys, a configuration that was read,
            or None for the defaults of `docs/configuration.md`.
        out: The folder of the run. None is a temporary one, which is gone with what is returned.
        overwrite: Whether a run of another configuration in `out` is replaced.
        show: Whether there is a bar of progress on standard error.
        callbacks: Functions (Progress) -> None | Stop that are called after each measured round,
            beside those of the configuration; those that are named, {"class_path": name}, take
            their place. See docs/tracking.md.
        **changes: Keys of the configuration that are laid over it, such as `rounds=20` or
            `model={"width": 64}`. Where a part goes, its factory may stand itself. `choose="name"`
            takes one of the `choices` of a file.

    Returns:
        The run, with its metrics and the trained model; see `LoadedRun`.

    Raises:
        ConfigError: A key is unknown or has a value that makes no sense; a ValueError.
        ValueError: The folder holds another run, or parts do not go together.
        MemoryError: The run cannot fit; nothing has been written then.
        Stopped: Ctrl-C was pressed; the same call goes on from there.

    Example:
        >>> done = fr.run("configs/quickstart.yaml", rounds=20, model={"width": 64})
        >>> done.recommend(user=196, k=5)
    """
    named = [one for one in callbacks if not callable(one)]
    functions = [one for one in callbacks if callable(one)]
    changes |= {"callbacks": named} if named else {}
    read = configuration.read(config.plain if isinstance(config, Config) else config, changes)
    if isinstance(config, Config) and "name" not in changes:
        read = replace(read, name=config.name)
    simulate.configure(read.threads, devices=read.devices)
    if out is not None:
        run_in_folder(read, out, overwrite, show, functions)
        return load_run(out)
    scratch = tempfile.TemporaryDirectory(prefix="fedjax_rec-", ignore_cleanup_errors=True)
    run_in_folder(read, scratch.name, show=show, callbacks=functions)
    return replace(load_run(scratch.name), scratch=scratch)


def sweep(
    config: Mapping[str, Any] | str | Path | None,
    axes: Mapping[str, Any],
    /,
    *,
    out: Path | str,
    workers: int | None = None,
    processes: int = 1,
    told: Callable[[Ended], None] = lambda ended: None,
    **changes: Any,
) -> pl.DataFrame:
    """Runs one configuration at many points, or goes on with what is in the folder `out`.

    Args:
        config: The path of a YAML file, a mapping of the same keys, or None for the defaults.
        axes: Key of the configuration -> its values, a list or a text as in docs/sweeps.md.
        out: The folder of the sweep, with a run folder for each point and seed.
        workers: Runs at a time; None for one a core.
        processes: That take runs which share a program; 1 for threads of this one.
        told: Is called with how each run ended.
        **changes: Keys of the configuration that are laid over it, as in `fr.run`; `search`, such
            as {"trials": 20}, for points that are drawn or proposed in place of all.

    Returns:
        One row a run: the values of its axes, its `status`, what its best round measured on
        validation and on the test part, and its folder.

    Raises:
        ConfigError: A key is unknown or a value makes no sense; a ValueError.
        ValueError: A folder holds another run, or another process sweeps there.
        Stopped: Ctrl-C was pressed; the same call goes on from there.

    Example:
        >>> axes = {"strategy.item_learning_rate": [10, 60], "seed": "range(4)"}
        >>> found = fr.sweep("configs/quickstart.yaml", axes, out="runs/rates", rounds=50)
        >>> found.group_by("strategy.item_learning_rate").agg(pl.col("validation").mean())
    """
    raw = lay(configuration.raw_of(config), changes)
    plan = planned(raw, axes, out, stem=configuration.stem(config))
    simulate.configure(threads_of_sweep(plan.threads, workers))
    return table(run_sweep(plan, out, workers, told, processes))


def arena(
    source: Mapping[str, Any] | str | Path,
    /,
    *,
    out: Path | str | None = None,
    workers: int | None = None,
    processes: int = 1,
    told: Callable[[Ended], None] = lambda ended: None,
    **changes: Any,
) -> Scores:
    """Plays attacks against defences, or goes on with what is in the folder.

    Args:
        source: The path of a file such as `configs/arena/ml100k.yaml`, or a mapping of its keys.
            No page is written, whatever it says.
        out: The folder, with a run folder for each pair; None for that of the file.
        workers: Runs at a time; None for one a core.
        processes: That take runs which share a program; 1 for threads of this one.
        told: Is called with how each run ended.
        **changes: Keys of the configuration of all runs, as in `fr.run`.

    Returns:
        What each pair came to: `table()`, and `heat_map()`.

    Raises:
        ConfigError: An attack or a defence is unknown or makes no sense; a ValueError.
        ValueError: A folder holds another run, or another process plays there.
        Stopped: Ctrl-C was pressed; the same call goes on from there.

    Example:
        >>> found = fr.arena("configs/arena/ml100k.yaml", out="runs/short", rounds=20)
        >>> found.table().filter(pl.col("defence") == "median")["er@10"]
    """
    read = read_arena(source)
    read = replace(read, set={**read.set, **dotted(changes)}, out=str(out or read.out))
    fights = bouts(read)
    first = next(bout.trial for bout in fights if bout.trial is not None)
    simulate.configure(threads_of_sweep(first.config.threads, workers))
    return fight(read, fights, workers, processes, told)
