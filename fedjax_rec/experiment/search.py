"""Searches: which settings of a sweep are tried, where they are not all of a grid.

    search.ask(axes, told, n) -> n settings;   told: what those before came to, in their order

`random` draws them (Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR
2012). `optuna` asks a sampler of that library, by default the tree-structured Parzen estimator
(Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011), for a batch at a
time and tells it their means over seeds on the validation part.

A search is a function of what it was told, so one that was killed is made again from the runs that
are there. `Journal` keeps in `search.jsonl` what was asked for: that stays so, also where a run
that had failed is tried again with success.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..check import at_least
from ..evaluate.direction import lower_is_better
from ..storage import whole
from .factories import ConfigError, of_default
from .grid import Axis, Drawn, drawn
from .sections import made_of, section_of

KEY = "search"
HOME = "fedjax_rec.experiment.search"
JOURNAL = "search.jsonl"


@dataclass(frozen=True)
class Told:
    """What a setting came to. value: of what chooses the best round, there, the mean over seeds;
    None where there is none, since one of its runs `diverged`, or failed. metric: its name."""

    setting: Mapping[str, Any]
    value: float | None
    diverged: bool = False
    metric: str | None = None


@dataclass(frozen=True)
class Search:
    """trials: how many settings are tried. batch: how many are asked for at once.
    ask(axes, told, n): n more of them."""

    trials: int
    batch: int
    ask: Callable[[Mapping[str, Axis], Sequence[Told], int], list[dict[str, Any]]]


def random(trials: int, seed: int = 0) -> Search:
    """Settings that are drawn, each by the seed and its number alone.

    Args:
        trials: How many; more of them later are added to those that are there.
        seed: Of the draws.

    Returns:
        The search.

    Raises:
        ValueError: `trials` is below 1.
    """
    at_least("random", "trials", trials, 1)
    at_least("random", "seed", seed, 0)

    def ask(axes, told, n):
        return [drawn(axes, seed, len(told) + i) for i in range(n)]

    return Search(trials, trials, ask)


def optuna(trials: int, batch: int = 8, seed: int = 0, sampler: str = "TPESampler") -> Search:
    """Settings that a sampler of Optuna proposes, for the best validation metric. Needs
    `pip install optuna`.

    Args:
        trials: How many settings.
        batch: How many are tried before the sampler is told; the smaller, the better it knows.
        seed: Of the sampler.
        sampler: The name of one of `optuna.samplers`.

    Returns:
        The search.

    Raises:
        ValueError: Optuna is missing, there is no such sampler, or a number is below 1.
    """
    for name, value in (("trials", trials), ("batch", batch)):
        at_least("optuna", name, value, 1)
    at_least("optuna", "seed", seed, 0)
    there = _library()
    make = getattr(there.samplers, sampler, None)
    if make is None:
        names = ", ".join(n for n in there.samplers.__all__ if n.endswith("Sampler"))
        raise ValueError(f"optuna(sampler={sampler!r}) is none of its samplers; use {names}.")
    # Those asked for in one batch are to lie apart.
    apart = {"constant_liar": True} if sampler == "TPESampler" else {}

    def ask(axes, told, n):
        spaces = {key: _space(there, axis) for key, axis in axes.items()}
        with _quiet(there):
            # A sampler of its own for each batch, so that nothing but `told` goes into it.
            of_batch = make(seed=seed + 1_000_003 * len(told), **apart)
            direction = "minimize" if _is_error(told) else "maximize"
            study = there.create_study(direction=direction, sampler=of_batch)
            for one in told:
                study.add_trial(_trial(there, one, axes, spaces))
            asked = [study.ask(spaces).params for _ in range(n)]
        return [{key: _value(axes[key], x) for key, x in one.items()} for one in asked]

    return Search(trials, batch, ask)


def _library() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise ValueError("search=optuna needs the library optuna; pip install optuna.") from None


def _is_error(told: Sequence[Told]) -> bool:
    """Whether the lowest is the best. Raises ConfigError where the metric is of the test part."""
    metric = next((one.metric for one in told if one.metric), None)
    if metric is None:
        return False
    if not metric.startswith("validation_"):
        raise ConfigError(
            "search=optuna: the data have no validation part, and a search that looks at the test "
            "part fits it; use another data.split, or search: random."
        )
    return lower_is_better(metric)


@contextmanager
def _quiet(there) -> Iterator[None]:
    """Optuna says a line for each study."""
    before = there.logging.get_verbosity()
    there.logging.set_verbosity(there.logging.WARNING)
    try:
        yield
    finally:
        there.logging.set_verbosity(before)


def _space(there, axis: Axis):
    """What Optuna samples an axis from: of a list, the place on it."""
    if isinstance(axis, Drawn):
        return there.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
    if isinstance(axis, range):
        ends = axis[0], axis[-1]
        return there.distributions.IntDistribution(min(ends), max(ends), step=abs(axis.step))
    return there.distributions.CategoricalDistribution(tuple(range(len(axis))))


def _value(axis: Axis, x: Any) -> Any:
    if isinstance(axis, Drawn):
        return axis.rounded(x)
    return x if isinstance(axis, range) else axis[x]


def _trial(there, told: Told, axes: Mapping[str, Axis], spaces):
    state = there.trial.TrialState
    place = lambda axis, x: axis.index(x) if isinstance(axis, list) else x
    params = {key: place(axes[key], x) for key, x in told.setting.items()}
    # One that diverged is worse than all that did not, which is how samplers take those pruned.
    lost = state.PRUNED if told.diverged else state.FAIL
    return there.trial.create_trial(
        params=params,
        distributions=spaces,
        value=told.value,
        state=lost if told.value is None else state.COMPLETE,
    )


def search_of(given: Any) -> tuple[Search, dict[str, Any]]:
    """The search that a configuration names, and its section with the whole class path."""
    section = section_of(of_default(given, KEY), KEY, HOME)
    made = made_of(section, KEY)
    if not isinstance(made, Search):
        raise ConfigError(f"{KEY}={section['class_path']} makes no search; use random or optuna.")
    return made, section


class Journal:
    """The settings that a search has asked for so far, in the folder of a sweep, and what it is.

    Raises ValueError where the folder holds another search.
    """

    def __init__(self, out: Path, section: Mapping[str, Any], axes: Mapping[str, Any]):
        self.file = out / JOURNAL
        free = ("trials", "batch")  # more may be asked for later, in other portions
        arguments = {k: v for k, v in section["init_args"].items() if k not in free}
        self.about = json.loads(json.dumps([section["class_path"], arguments, dict(axes)]))
        self.asked: list[dict[str, Any]] = []
        if not self.file.is_file():
            return
        about, *self.asked = map(json.loads, self.file.read_text(encoding="utf-8").splitlines())
        if about != self.about:
            raise ValueError(
                f"--out {out}: holds another search ({about[0]} with {about[1]} over "
                f"{', '.join(about[2])}); use another folder."
            )

    def write(self, settings: Sequence[Mapping[str, Any]]) -> None:
        """Adds what was asked for, whole or not at all."""
        self.asked += map(dict, settings)
        with whole(self.file) as beside:
            lines = [self.about, *self.asked]
            beside.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
