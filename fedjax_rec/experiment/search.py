"""Searches: which settings of a sweep are tried, where they are not all of a grid.

    search.ask(axes, told, n) -> n settings;   told: what those before came to, in their order

`random` draws them (Bergstra and Bengio, "Random search for hyper-parameter optimization", JMLR
2012). `optuna` asks a sampler of that library, by default the tree-structured Parzen estimator
(Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011), for a batch at a
time and tells it their means over seeds on the validation part. `successive_halving` and
`hyperband` say how many rounds each is trained for, see `halving`.

A search is a function of what it was told, so one that was killed is made again from the runs that
are there. `Journal` keeps in `search.jsonl` what was asked for: that stays so, also where a run
that had failed is tried again with success.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..check import at_least
from ..evaluate.direction import lower_is_better
from ..storage import whole
from .factories import ConfigError, of_default
from .grid import Axis, Drawn, drawn
from .halving import Bracket, of_hyperband, rungs
from .sections import made_of, section_of

KEY = "search"
ASKS = "asks"  # the argument that is a search itself
HOME = "fedjax_rec.experiment.search"
JOURNAL = "search.jsonl"


@dataclass(frozen=True)
class Told:
    """What a setting came to. value: of what chooses the best round, there, the mean over seeds;
    None where there is none, since one of its runs `diverged`, or failed. metric: its name.
    rounds: after how many it was stopped at a rung; None where it was not."""

    setting: Mapping[str, Any]
    value: float | None
    diverged: bool = False
    metric: str | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Search:
    """trials: how many settings are tried. batch: how many are asked for at once.
    ask(axes, told, n): n more of them. halving(rounds, every): the brackets that they are trained
    in, of runs of so many rounds that are measured so often; None trains all to the end."""

    trials: int
    batch: int
    ask: Callable[[Mapping[str, Axis], Sequence[Told], int], list[dict[str, Any]]]
    halving: Callable[[int, int], list[Bracket]] | None = None

    def brackets(self, rounds: int, every: int) -> list[Bracket]:
        """A batch each, or what `halving` says. Raises ConfigError where that finds no rung."""
        if self.halving is not None:
            return self.halving(rounds, every)
        return [Bracket(n, (rounds,)) for n in portions(self.trials, self.batch)]


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


def successive_halving(
    trials: int | None = None,
    eta: int = 3,
    shortest: int = 1,
    seed: int = 0,
    asks: Search | None = None,
) -> Search:
    """Settings that are drawn, and of which few are trained to the end: the best of a population
    after few rounds goes on to more (Jamieson and Talwalkar, AISTATS 2016).

    Args:
        trials: How many settings are drawn, by `random` with `seed`; None where `asks` says.
        eta: One of so many goes on from a rung, to so many times its rounds.
        shortest: Rounds that all are trained for.
        seed: Of the draws.
        asks: A search that says which settings, in place of draws. Each batch of it is a
            population of its own, after which it is told what they came to.

    Returns:
        The search.

    Raises:
        ValueError: A number is too small, a population is smaller than `eta`, or `trials` and
            `asks` are both given, or neither is.
    """
    at_least("successive_halving", "eta", eta, 2)
    at_least("successive_halving", "shortest", shortest, 1)
    if (trials is None) == (asks is None):
        given = "neither is given" if asks is None else "both are given"
        raise ValueError(
            f"successive_halving: trials says how many are drawn, asks which search says; {given}, "
            "use one."
        )
    asks = random(trials or 0, seed) if asks is None else asks
    if (n := min(asks.trials, asks.batch)) < eta:
        raise ValueError(
            f"successive_halving: eta={eta} takes one of so many, and there are {n} at a time; use "
            "more trials, or a larger batch of asks."
        )
    sizes = portions(asks.trials, asks.batch)
    halving = lambda rounds, every: [
        Bracket(n, rungs(shortest, eta, rounds, every), eta) for n in sizes
    ]
    return replace(asks, halving=halving)


def hyperband(eta: int = 3, shortest: int = 1, seed: int = 0) -> Search:
    """Brackets of successive halving, from many settings that begin with `shortest` rounds to few
    that are trained in full (Li et al., JMLR 18, 2018). How many settings there are follows from
    the rounds of the configuration.

    Args:
        eta: As of `successive_halving`.
        shortest: Rounds that all settings of the first bracket are trained for.
        seed: Of the draws.

    Returns:
        The search.

    Raises:
        ValueError: A number is too small.
    """
    at_least("hyperband", "eta", eta, 2)
    at_least("hyperband", "shortest", shortest, 1)
    brackets = lambda rounds, every: of_hyperband(shortest, eta, rounds, every)
    return replace(random(1, seed), halving=brackets)


def portions(whole: int, most: int) -> list[int]:
    """`whole` in parts of `most`, the last what is left."""
    return [min(most, whole - first) for first in range(0, whole, most)]


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
    given: dict[str, Any] = {"params": params, "distributions": spaces}
    if told.value is None:
        # One that diverged is worse than all that did not, as samplers take those pruned.
        lost = state.PRUNED if told.diverged else state.FAIL
        return there.trial.create_trial(state=lost, **given)
    if told.rounds is not None:
        seen = {told.rounds: told.value}
        return there.trial.create_trial(state=state.PRUNED, intermediate_values=seen, **given)
    return there.trial.create_trial(state=state.COMPLETE, value=told.value, **given)


def search_of(given: Any) -> tuple[Search, dict[str, Any]]:
    """The search that a configuration names, and its section with the whole class path."""
    return _made(of_default(given, KEY), KEY)


def _made(given: Any, where: str) -> tuple[Search, dict[str, Any]]:
    section = section_of(given, where, HOME)
    arguments = dict(section["init_args"])
    if arguments.get(ASKS) is not None:
        arguments[ASKS], within = _made(arguments[ASKS], f"{where}.{ASKS}")
        section = {**section, "init_args": {**section["init_args"], ASKS: within}}
    made = made_of({**section, "init_args": arguments}, where)
    if not isinstance(made, Search):
        raise ConfigError(
            f"{where}={section['class_path']} makes no search; use random, optuna, "
            "successive_halving or hyperband."
        )
    return made, section


def _without_numbers(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Without how many: more may be asked for later, in other portions."""
    kept = {k: v for k, v in arguments.items() if k not in ("trials", "batch")}
    if isinstance(within := kept.get(ASKS), dict):
        kept[ASKS] = {**within, "init_args": _without_numbers(within["init_args"])}
    return kept


class Journal:
    """The settings that a search has asked for so far, in the folder of a sweep, and what it is.

    Raises ValueError where the folder holds another search.
    """

    def __init__(self, out: Path, section: Mapping[str, Any], axes: Mapping[str, Any]):
        self.file = out / JOURNAL
        told = [section["class_path"], _without_numbers(section["init_args"]), dict(axes)]
        self.about = json.loads(json.dumps(told))
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
