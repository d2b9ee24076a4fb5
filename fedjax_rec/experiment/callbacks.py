"""The callbacks that a configuration names: a list of factories, by the short names of
`fedjax_rec.callbacks` or by dotted paths.

    callbacks:
    - {class_path: early_stopping, init_args: {metric: validation_hr@10, patience: 5}}
    - tensorboard
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ..simulate import Callback
from .factories import ConfigError
from .sections import made_of, section_of

KEY = "callbacks"
HOME = f"fedjax_rec.{KEY}"


def sections(given: Any) -> list[dict[str, Any]] | None:
    """What the key holds, each with its whole class path; None where there are none.

    Raises ConfigError where it is no list of factories.
    """
    if given is None or given == []:
        return None
    if not isinstance(given, list):
        raise ConfigError(f"{KEY}={given} is no list; write {KEY}: [{{class_path: name}}].")
    return [section_of(one, f"{KEY}[{i}]", HOME) for i, one in enumerate(given)]


def made(given: Sequence[dict[str, Any]] | None) -> tuple[Callback, ...]:
    """The callbacks of `sections`. Raises ConfigError, naming the argument."""
    return tuple(_made(one, f"{KEY}[{i}]") for i, one in enumerate(given or ()))


def _made(section: dict[str, Any], where: str) -> Callback:
    found = made_of(section, where)
    if not callable(found):
        raise ConfigError(
            f"{where}={section['class_path']} gives {type(found).__name__}, which is no function; "
            "name what gives one, (progress) -> None or simulate.Stop."
        )
    return cast(Callback, found)
