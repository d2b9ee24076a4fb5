"""The numbers of a configuration, by dotted keys, and its parts made anew of others.

    strategy.item_learning_rate: 60.0,  strategy.server.learning_rate: 0.1,  ...

Runs whose configurations differ in such numbers and in their seeds alone may share one compiled
program, in which the numbers are traced: `outline_of` is then the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from jsonargparse import Namespace

from .config import LATE, Config, late_factory
from .factories import called, find
from .folder import FREE
from .private import Privacy

SECTIONS = ("model", "strategy", "examples", "cohorts", "privacy")
# What noise they ask for is worked out before a program is made.
WORKED_OUT = {"privacy.epsilon", "privacy.delta"}


def numbers_of(config: Config) -> dict[str, float]:
    """Every float that a part of the configuration was made of."""
    found = (one for name in SECTIONS for one in _floats(config.parsed[name], name))
    return {name: value for name, value in found if name not in WORKED_OUT}


def outline_of(config: Config) -> str:
    """The configuration but for its numbers, its seeds, and what does not change what is run: a
    budget of memory does, by how many clients train at once."""
    free = {*FREE, "seed"} - {"memory_budget"}
    kept = {key: value for key, value in config.plain.items() if key not in free}
    kept |= {name: _masked(kept.get(name), name) for name in SECTIONS}
    kept["data"] = _unseeded(kept["data"])
    return json.dumps(kept, sort_keys=True)


def remade(config: Config, numbers: Mapping[str, Any]) -> Config:
    """`config` with its parts made anew of these numbers, which may be traced."""
    if not numbers:
        return config
    late = {}
    for name in LATE:
        factory = find(config.parsed[name].class_path, name)
        late[name] = late_factory(factory, _arguments(config.parsed[name], numbers, name))
    parts = ("examples", "cohorts", "privacy")
    examples, cohorts, given = (_made(config.parsed[n], numbers, n) for n in parts)
    return replace(
        config,
        make_model=late["model"],
        make_strategy=late["strategy"],
        examples=examples,
        cohorts=cohorts,
        privacy=None if config.privacy is None else Privacy(**given),
    )


def _floats(node: Any, path: str) -> Iterator[tuple[str, float]]:
    if type(node) is float:
        yield path, node
    for name, one in _below(node):
        yield from _floats(one, f"{path}.{name}" if name else path)


def _below(node: Any) -> Iterator[tuple[str, Any]]:
    """What lies in a node, and the word that a key has for it: none for `init_args`."""
    if isinstance(node, (Namespace, dict)):
        for name, one in (vars(node) if isinstance(node, Namespace) else node).items():
            if name != "class_path":
                yield "" if name == "init_args" else str(name), one
    elif isinstance(node, (list, tuple)):
        yield from ((str(i), one) for i, one in enumerate(node))


def _made(node: Any, numbers: Mapping[str, Any], path: str) -> Any:
    """`node` of a parsed configuration with its parts made, and the numbers at their keys."""
    if path in numbers:
        return numbers[path]
    if isinstance(node, (list, tuple)):
        return type(node)(_made(one, numbers, f"{path}.{i}") for i, one in enumerate(node))
    if not isinstance(node, (Namespace, dict)):
        return node
    fields = vars(node) if isinstance(node, Namespace) else node
    if "class_path" in fields:
        return find(fields["class_path"], path)(**_arguments(node, numbers, path))
    return {name: _made(one, numbers, f"{path}.{name}") for name, one in fields.items()}


def _arguments(node: Any, numbers: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The arguments of the factory that a node names. Where it asks for a factory, it gets it."""
    fields = vars(node) if isinstance(node, Namespace) else node
    given = fields.get("init_args") or {}
    given = vars(given) if isinstance(given, Namespace) else given
    itself = called(fields["class_path"])
    return {
        name: find(one, path)
        if name in itself and isinstance(one, str)
        else _made(one, numbers, f"{path}.{name}")
        for name, one in given.items()
    }


def _masked(node: Any, path: str = "") -> Any:
    if isinstance(node, dict):
        return {name: _masked(one, f"{path}.{name}") for name, one in node.items()}
    if isinstance(node, list):
        return [_masked(one) for one in node]
    return "a number" if type(node) is float and path not in WORKED_OUT else node


def _unseeded(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _unseeded(one) for name, one in node.items() if name != "seed"}
    return node
