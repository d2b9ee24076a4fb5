"""The points of a sweep: every combination of its axes, or some of them that a search asks for.

    sweep:
      strategy.item_learning_rate: [1, 10, 60]
      strategy.user_learning_rate: loguniform(1, 100)   # with a `search`
      seed: range(4)

An axis is a list of values, `range(8)`, `linspace(0, 1, 5)`, `logspace(0.01, 10, 4)` (from 0.01 to
10, equal steps of the logarithm), or a distribution: `uniform(0, 1)`, `loguniform(1e-3, 1)`. Every
point runs under every seed. What is drawn or stands on a logarithm has four digits, so that a name
says all of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..check import nearest
from .factories import ConfigError
from .overrides import value_of

SEED = "seed"
SPACED: dict[str, Callable[..., Sequence]] = {
    "range": lambda *ends: range(*map(_whole, ends)),
    "linspace": lambda a, b, n: [_short(x, 12) for x in np.linspace(a, b, _whole(n))],
    "logspace": lambda a, b, n: [_short(x) for x in np.geomspace(a, b, _whole(n))],
}
DRAWN = ("uniform", "loguniform")
FORM = re.compile(r"(\w+)\((.*)\)")
LONGEST = 150  # bytes of a folder's name, of which file systems take 255


@dataclass(frozen=True)
class Drawn:
    """A distribution of numbers from `low` to `high`, uniform in them or in their logarithm."""

    low: float
    high: float
    log: bool

    def at(self, share: float) -> float:
        """The number at a share of [0, 1) of the way."""
        if not self.log:
            return self.rounded(self.low + share * (self.high - self.low))
        low, high = math.log(self.low), math.log(self.high)
        return self.rounded(math.exp(low + share * (high - low)))

    def rounded(self, x: float) -> float:
        """`x` in four digits, and in the interval."""
        return min(max(_short(x), self.low), self.high)


Axis = list | range | Drawn


def axes_of(given: Mapping[str, Any]) -> tuple[dict[str, Axis], list[int]]:
    """The axes but that of seeds, and the seeds, [0] where there is no such axis.

    Raises ConfigError for what is no axis.
    """
    if not given:
        raise ConfigError("sweep: no axis; write --sweep.strategy.learning_rate '[0.1, 1]'.")
    given = dict(given)
    of_seeds = given.pop(SEED, [0])
    seeds = _axis(SEED, of_seeds)
    if isinstance(seeds, Drawn) or any(type(one) is not int for one in seeds):
        raise ConfigError(f"sweep of seed: {of_seeds} holds no seeds; use range(4).")
    return {key: _axis(key, value) for key, value in given.items()}, list(seeds)


def points(axes: Mapping[str, Any]) -> list[dict]:
    """The points of a grid, one dict of keys and values each, `seed` among them.

    Args:
        axes: Key of the configuration -> list of values, or a text as above.

    Returns:
        Points in order, those of the first seed first.

    Raises:
        ConfigError: An axis holds nothing, or is a distribution.

    Example:
        >>> points({"strategy.mu": [0.1, 1.0], "seed": "range(2)"})[0]
        {'strategy.mu': 0.1, 'seed': 0}
    """
    known, seeds = axes_of(axes)
    lists: list[Sequence] = []
    for key, values in known.items():
        if isinstance(values, Drawn):
            raise ConfigError(
                f"sweep of {key}: {axes[key]} is drawn from; say how often, --search.trials 20."
            )
        lists.append(values)
    settings = [dict(zip(known, one, strict=True)) for one in itertools.product(*lists)]
    return [{**setting, SEED: one} for one in seeds for setting in settings]


def drawn(axes: Mapping[str, Axis], seed: int, number: int) -> dict[str, Any]:
    """The setting of this number that is drawn under a seed, whatever was drawn before it."""
    rng = np.random.default_rng([seed, number])
    shares = zip(axes.items(), rng.random(len(axes)), strict=True)
    return {
        key: axis.at(x) if isinstance(axis, Drawn) else axis[int(x * len(axis))]
        for (key, axis), x in shares
    }


def named(point: Mapping[str, Any]) -> str:
    """`item_learning_rate=10,mu=0.1` of a point, its seed left out."""
    names = short([key for key in point if key != SEED])
    return ",".join(f"{name}={text(point[key])}" for key, name in names.items())


def short(keys: Sequence[str]) -> dict[str, str]:
    """Keys -> what they are called: without their section, where no two are then the same."""
    ends = [key.partition(".")[2] or key for key in keys]
    return {k: k if ends.count(end) > 1 else end for k, end in zip(keys, ends, strict=True)}


def folder_of(name: str, seed: int) -> str:
    """A folder's name for the runs called `name`. What is long or has slashes is cut, with digits
    that tell it apart."""
    cut = name.replace(os.sep, "_").encode()[:LONGEST].decode(errors="ignore")
    if cut != name:
        cut += f"~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"{cut}-{seed}"


def text(value: Any) -> str:
    """A value as a word of the command line says it, 10.0 as 10."""
    if isinstance(value, str):
        return value
    whole = isinstance(value, float) and abs(value) < 1e15 and value == int(value)
    return json.dumps(int(value) if whole else value)


def _axis(key: str, given: Any) -> Axis:
    """An axis as it is given. Raises ConfigError where it is none."""
    given = value_of(given) if isinstance(given, str) else given
    if isinstance(given, str) and (form := FORM.fullmatch(given.strip())):
        name, known = form[1], [*SPACED, *DRAWN]
        if name not in known:
            raise ConfigError(
                f"sweep of {key}: {name}(...) is no axis{nearest(name, known)}; use a list, or "
                f"{', '.join(known)}."
            )
        try:
            numbers = [float(one) for one in form[2].split(",")]
            if name in DRAWN:
                return _distribution(*numbers, log=name == "loguniform")
            given = SPACED[name](*numbers)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"sweep of {key}: {given} cannot be read ({error}).") from None
    if not isinstance(given, list | range) or not given:
        raise ConfigError(f"sweep of {key}: {given} is no list of values; write '[0.1, 1]'.")
    if isinstance(given, range):
        return given
    return [value_of(one) if isinstance(one, str) else one for one in given]


def _distribution(low: float, high: float, log: bool) -> Drawn:
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"{text(low)} is not below {text(high)}")
    if log and low <= 0:
        raise ValueError(f"{text(low)} has no logarithm; begin above 0")
    return Drawn(low, high, log)


def _short(x: float, digits: int = 4) -> float:
    return float(f"{x:.{digits}g}")


def _whole(x: float) -> int:
    if x != int(x):
        raise ValueError(f"{x} is no whole number")
    return int(x)
