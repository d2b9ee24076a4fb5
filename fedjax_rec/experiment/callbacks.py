"""The callbacks that a configuration names: a list of factories, by the short names of
`fedjax_rec.callbacks` or by dotted paths.

    callbacks:
    - {class_path: early_stopping, init_args: {metric: validation_hr@10, patience: 5}}
    - tensorboard
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from jsonargparse import ArgumentError, ArgumentParser

from ..simulate import Callback
from .complaints import one_line
from .factories import ConfigError, find, unknown_argument

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
    return [_section(one, f"{KEY}[{i}]") for i, one in enumerate(given)]


def _section(one: Any, where: str) -> dict[str, Any]:
    if isinstance(one, str):
        one = {"class_path": one}
    if not isinstance(one, dict) or not isinstance(one.get("class_path"), str):
        raise ConfigError(f"{where}={one} names no factory; write {{class_path: early_stopping}}.")
    unknown_argument(one.keys() - {"class_path", "init_args"}, ["init_args"], where)
    arguments = one.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ConfigError(f"{where}.init_args={arguments} is no mapping; write name: value.")
    path = one["class_path"]
    path = f"{HOME}.{path}" if path.isidentifier() else path
    return {"class_path": path, "init_args": arguments}


def made_of(given: Sequence[dict[str, Any]] | None) -> tuple[Callback, ...]:
    """The callbacks of `sections`. Raises ConfigError, naming the argument."""
    return tuple(_made(one, f"{KEY}[{i}]") for i, one in enumerate(given or ()))


def _made(section: dict[str, Any], where: str) -> Callback:
    factory = find(section["class_path"], where)
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(factory, type):
        known = parser.add_class_arguments(factory, fail_untyped=False)
    else:
        known = parser.add_function_arguments(factory, fail_untyped=False)
    unknown_argument(section["init_args"], known, f"{where}.init_args")
    try:
        typed = parser.instantiate(parser.parse_object(section["init_args"]))
        made = factory(**typed.as_dict())
    except ArgumentError as error:
        raise ConfigError(f"{where}.init_args: {one_line(str(error), known)}") from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error
    if not callable(made):
        raise ConfigError(
            f"{where}={section['class_path']} gives {type(made).__name__}, which is no function; "
            "name what gives one, (progress) -> None or simulate.Stop."
        )
    return cast(Callback, made)
