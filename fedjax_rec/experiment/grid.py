"""The points of a sweep: every combination of its axes, or some that are drawn at random.

    sweep:
      strategy.item_learning_rate: [1, 10, 60]
      strategy.user_learning_rate: log_uniform(1, 100)   # with --draws 20
      seed: range(4)

An axis is a list of values, `range(8)`, `linspace(0, 1, 5)`, `logspace(0.01, 10, 4)` (from 0.01 to
10, equal steps of the logarithm), or what points are drawn from: `uniform(0, 1)`,
`log_uniform(1e-3, 1)`. Every point runs under every seed. What is drawn or stands on a logarithm
has four digits, so that a name says all of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..check import nearest
from .factories import ConfigError
from .overrides import value_of

SEED = "seed"
SPACED: dict[str, Callable[..., Sequence]] = {
    "range": lambda *ends: list(range(*map(_whole, ends))),
    "linspace": lambda a, b, n: [_short(x, 12) for x in np.linspace(a, b, _whole(n))],
    "logspace": lambda a, b, n: [_short(x) for x in np.geomspace(a, b, _whole(n))],
}
DRAWN: dict[str, Callable[..., float]] = {
    "uniform": lambda rng, a, b: _short(rng.uniform(a, b)),
    "log_uniform": lambda rng, a, b: _short(math.exp(rng.uniform(math.log(a), math.log(b)))),
}
FORM = re.compile(r"(\w+)\((.*)\)")
LONGEST = 150  # bytes of a folder's name, of which file systems take 255


def points(axes: Mapping[str, Any], draws: int | None = None, seed: int = 0) -> list[dict]:
    """The points of a sweep, one dict of keys and values each, `seed` among them.

    Args:
        axes: Key of the configuration -> list of values, or a text as above.
        draws: How many points are drawn, where they are; a list is then drawn from as well. None
            for every combination.
        seed: Of the draws.

    Returns:
        Points in order, those of the first seed first.

    Raises:
        ConfigError: An axis holds nothing, or is drawn from without `draws`.

    Example:
        >>> points({"strategy.mu": [0.1, 1.0], "seed": "range(2)"})[0]
        {'strategy.mu': 0.1, 'seed': 0}
    """
    if not axes:
        raise ConfigError("sweep: no axis; write --sweep.strategy.learning_rate '[0.1, 1]'.")
    if draws is not None and draws < 1:
        raise ConfigError(f"--draws {draws} draws nothing; use at least 1.")
    axes = dict(axes)
    given = axes.pop(SEED, [0])
    seeds = _values(SEED, given)
    if not isinstance(seeds, list) or any(type(one) is not int for one in seeds):
        raise ConfigError(f"sweep of seed: {given} holds no seeds; use range(4).")
    known = {key: _values(key, value) for key, value in axes.items()}
    if draws is None:
        lists = []
        for key, values in known.items():
            if not isinstance(values, list):
                raise ConfigError(f"sweep of {key}: {axes[key]} is drawn from; say --draws 20.")
            lists.append(values)
        settings = [dict(zip(known, one, strict=True)) for one in itertools.product(*lists)]
    else:
        rng = np.random.default_rng(seed)
        settings = [
            {key: _drawn(values, rng) for key, values in known.items()} for _ in range(draws)
        ]
    return [{**setting, SEED: one} for one in seeds for setting in settings]


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


def _values(key: str, given: Any) -> list | Callable[[np.random.Generator], float]:
    """The list of an axis, or what draws a value of it."""
    given = value_of(given) if isinstance(given, str) else given
    if isinstance(given, str) and (form := FORM.fullmatch(given.strip())):
        name, known = form[1], SPACED | DRAWN
        if name not in known:
            raise ConfigError(
                f"sweep of {key}: {name}(...) is no axis{nearest(name, known)}; use a list, or "
                f"{', '.join(known)}."
            )
        try:
            numbers = [float(one) for one in form[2].split(",")]
            if name in DRAWN:
                DRAWN[name](np.random.default_rng(0), *numbers)
                return lambda rng: DRAWN[name](rng, *numbers)
            given = list(SPACED[name](*numbers))
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"sweep of {key}: {given} cannot be read ({error}).") from None
    if not isinstance(given, list) or not given:
        raise ConfigError(f"sweep of {key}: {given} is no list of values; write '[0.1, 1]'.")
    return [value_of(one) if isinstance(one, str) else one for one in given]


def _drawn(values, rng: np.random.Generator) -> Any:
    return values[rng.integers(len(values))] if isinstance(values, list) else values(rng)


def _short(x: float, digits: int = 4) -> float:
    return float(f"{x:.{digits}g}")


def _whole(x: float) -> int:
    if x != int(x):
        raise ValueError(f"{x} is no whole number")
    return int(x)
