"""A factory with its arguments that stands alone in a file, `{class_path: name, init_args: {...}}`
or its name, and what it makes of them."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from .complaints import one_line
from .factories import ConfigError, find, unknown_argument


def section_of(given: Any, where: str, home: str) -> dict[str, Any]:
    """What stands at `where`, with the whole path of the factory: short names are of `home`.

    Raises ConfigError where it names none.
    """
    if isinstance(given, str):
        given = {"class_path": given}
    if not isinstance(given, dict) or not isinstance(given.get("class_path"), str):
        raise ConfigError(f"{where}={given} names no factory; write {{class_path: name}}.")
    unknown_argument(given.keys() - {"class_path", "init_args"}, ["init_args"], where)
    arguments = given.get("init_args") or {}
    if not isinstance(arguments, dict):
        raise ConfigError(f"{where}.init_args={arguments} is no mapping; write name: value.")
    path = given["class_path"]
    path = f"{home}.{path}" if path.isidentifier() else path
    return {"class_path": path, "init_args": arguments}


def made_of(section: dict[str, Any], where: str) -> Any:
    """What the factory of a section makes of its arguments, whose types are checked. Raises
    ConfigError, naming the argument."""
    factory = find(section["class_path"], where)
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(factory, type):
        known = parser.add_class_arguments(factory, fail_untyped=False)
    else:
        known = parser.add_function_arguments(factory, fail_untyped=False)
    unknown_argument(section["init_args"], known, f"{where}.init_args")
    try:
        typed = parser.instantiate(parser.parse_object(section["init_args"]))
        return factory(**typed.as_dict())
    except ArgumentError as error:
        raise ConfigError(f"{where}.init_args: {one_line(str(error), known)}") from error
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error
