"""What overrides a configuration, put where the YAML file would say it: `--key value` of the
command line, and mappings of Python.

`--model.width 64` is short for `--model.init_args.width 64`, and so for every part that a factory
makes. Another factory (`--model pfedrec`) keeps those arguments of the former that it takes too;
the others are dropped, which is said on standard error.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..storage import read_yaml
from .factories import (
    DEFAULTS,
    ConfigError,
    find,
    full_name,
    is_factory,
    of_default,
    of_source,
    parameters,
)
from .short_names import of_the_kind


def merge(raw: dict, words: Sequence[str]) -> dict:
    """`raw` with the overrides in `words`. Raises ConfigError for a stray word."""
    for key, text in pairs(words):
        raw = _put(raw, key.split("."), value_of(text), "")
    return raw


def lay(raw: dict, over: Mapping[str, Any]) -> dict:
    """`raw` with the mapping `over` laid on it key by key; what names a factory is put as a whole.

    Values are those of YAML, and factories themselves, such as `fedjax_rec.models.fedmf`. Raises
    ConfigError for another one.
    """
    for path, value in _leaves(over, ()):
        raw = _put(raw, list(path), _written(value, ".".join(path)), "")
    return raw


def dotted(over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` as dotted keys, with values as YAML would say them."""
    found = {".".join(path): value for path, value in _leaves(over, ())}
    return {key: _written(value, key) for key, value in found.items()}


def _leaves(over: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple, Any]]:
    for name, value in over.items():
        here = (*path, *str(name).split("."))
        if isinstance(value, Mapping) and value and "class_path" not in value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _written(value: Any, where: str) -> Any:
    """`value` as YAML would say it."""
    if isinstance(value, Mapping):
        return {str(k): _written(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_written(one, f"{where}[{i}]") for i, one in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (path := _path_of(value)) is not None:
        return path
    raise ConfigError(
        f"{where}={type(value).__name__} cannot be written to a configuration; name the factory, "
        "{class_path: name, init_args: {...}}."
    )


def _path_of(factory: Any) -> str | None:
    """The shortest dotted path at which `factory` is found; None where it is not at one."""
    words = f"{getattr(factory, '__module__', '')}".split(".")
    name = getattr(factory, "__qualname__", "")
    for end in range(1, len(words) + 1):
        room = ".".join(words[:end])
        if is_factory(f"{room}.{name}") and find(f"{room}.{name}", "") is factory:
            return f"{room}.{name}"
    return None


def lay_words(raw: dict, changes: Mapping[str, Any]) -> dict:
    """`raw` with `changes`, dotted keys and values of YAML, as if they were words."""
    for key, value in changes.items():
        value = value_of(value) if isinstance(value, str) else value
        raw = _put(raw, str(key).split("."), value, "")
    return raw


def pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, text) of each override. Raises ConfigError for a stray word, or one without a value."""
    rest = iter(words)
    for word in rest:
        key, equals, text = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not key:
            raise ConfigError(f"{word!r} is no option; write --key value.")
        value = text if equals else next(rest, None)
        if value is None or (not equals and value.startswith("--")):
            raise ConfigError(f"--{key} has no value; write --{key} VALUE.")
        yield key, value


def value_of(text: str) -> Any:
    """`text` as YAML, with 1e-3 a number, and text where it is anything but a plain value."""
    try:
        value = read_yaml(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d[\d.]*[eE][-+]?\d+", value):
        return float(value)
    return value if isinstance(value, (bool, int, float, list, dict, type(None))) else text


def _put(node: Any, path: list[str], value: Any, where: str) -> Any:
    """`node`, which stands at the key `where`, with `value` at `path` below it."""
    node = of_default(node, where)
    named = (
        node is None or isinstance(node, str) or (isinstance(node, dict) and "class_path" in node)
    )
    if not path or (path == ["class_path"] and named):
        return _instead(node, value, where)
    if node is None:
        node = DEFAULTS.get(where, {})
    if isinstance(node, str):
        named = {"class_path": full_name(node, where)}
        node = of_source(node) if where == "data.source" else named
    if not isinstance(node, dict):
        raise ConfigError(f"--{where}.{'.'.join(path)}: {where}={node} has no keys; override it.")
    if "class_path" in node and path[0] not in ("class_path", "init_args"):
        path = ["init_args", *path]
    below = f"{where}.{path[0]}" if where else path[0]
    return {**node, path[0]: _put(node.get(path[0]), path[1:], value, below)}


def _instead(node: Any, value: Any, where: str) -> Any:
    value = full_name(value, where)
    if isinstance(node, dict) and "class_path" in node:
        value = of_the_kind(value, node["class_path"])
    if not (isinstance(node, dict) and "class_path" in node and is_factory(value)):
        return value
    known = parameters(find(value, where))
    arguments = node.get("init_args") or {}
    if lost := {k: v for k, v in arguments.items() if k not in known}:
        _tell_lost(f"{where}={value}", ", ".join(f"{k}={_short(v)}" for k, v in lost.items()))
    return {"class_path": value, "init_args": {k: v for k, v in arguments.items() if k in known}}


@functools.cache  # a sweep lays the same over its file for every run
def _tell_lost(part: str, lost: str) -> None:
    """Says what was given to another factory and this one does not take."""
    print(f"fedjax-rec: {part} does not take {lost}; dropped.", file=sys.stderr)


def _short(value: Any) -> Any:
    return value.get("class_path", value) if isinstance(value, dict) else value
