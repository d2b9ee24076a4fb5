"""What a key of a configuration means, its default, and where that is said: `fedjax-rec explain`.

Keys of the file itself are told by `defaults.yaml`, which docs/configuration.md shows; arguments of
a part by the documentation of its factory.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..check import nearest
from . import config as configuration
from .factories import DEFAULTS, ConfigError, find, is_factory
from .listing import about
from .short_names import arguments_of

FILE = Path(__file__).with_name("defaults.yaml")
PRIVACY = {
    "privacy.clip": "how a client's update is clipped, see `fedjax-rec list clips`",
    "privacy.epsilon": "what the noise is found for that all rounds need",
    "privacy.delta": "of (epsilon, delta); null: N^-1.1",
    "privacy.noise_multiplier": "the noise, in place of epsilon",
    "privacy.correlated": "how noise of rounds takes each other back, see `fedjax-rec list noises`",
}


class Meaning(NamedTuple):
    """text: what the key means. default: as YAML says it. source: file and line, or page."""

    key: str
    text: str
    default: Any
    source: str
    arguments: list[dict[str, Any]]


def explain(key: str, overrides: Sequence[str] = ()) -> Meaning:
    """What `key` means where `overrides` (`--strategy=fedprox`) hold.

    Raises ConfigError for a key that there is not, with the nearest.
    """
    key = key.removeprefix("--").replace("init_args.", "").removesuffix(".class_path")
    told, plain = dict(_comments()), configuration.read(None, overrides).plain
    node, factory, rest = _walk(plain, key.split("."))
    if factory is not None and rest:  # an argument of a part
        rows = arguments(factory)
        found = next((row for row in rows if row["name"] == rest[0]), None)
        if found is None or len(rest) > 1:
            names = [row["name"] for row in rows]
            raise ConfigError(
                f"{key} is no key: {factory} takes {', '.join(names)}{nearest(rest[0], names)}."
            )
        text = told.get(key) or found["help"] or "see its factory"
        return Meaning(key, text, found["default"], _source(factory), [])
    if rest and key not in PRIVACY:
        known = [*told, *PRIVACY]
        raise ConfigError(
            f"{key} is no key of the configuration{nearest(key, known)}; see docs/configuration.md,"
            " or fedjax-rec list for what goes into one."
        )
    text = told.get(key) or PRIVACY.get(key) or ""
    if factory is not None:
        text = text or about(find(factory, key))
        return Meaning(key, text, DEFAULTS.get(key, factory), _source(factory), arguments(factory))
    page = "docs/privacy.md" if key.startswith("privacy") else "docs/configuration.md"
    default = None if rest else node  # which an empty file has not
    return Meaning(key, text or "a section of keys", default, page, [])


def arguments(factory: str) -> list[dict[str, Any]]:
    """`name`, `default` and `help` of each argument of a factory that a configuration may give."""
    late = {"num_items", "members", "titles", "fields", "model", "examples", "probe"}
    rows = []
    for action in arguments_of(factory):
        if action.dest in late and action.default in (None, inspect.Parameter.empty, 1):
            continue
        text = "" if action.help in (None, "==SUPPRESS==") else " ".join(str(action.help).split())
        text = text.replace("%(default)s", str(action.default))
        rows.append({"name": action.dest, "default": action.default, "help": text})
    return rows


def _walk(node: Any, path: list[str]) -> tuple[Any, str | None, list[str]]:
    """(what stands at the end of `path`, the factory whose arguments are looked at, what of the
    path is left)."""
    while path:
        arguments = node.get("init_args") if isinstance(node, dict) else None
        below = arguments if isinstance(arguments, dict) else node
        if not isinstance(below, dict) or path[0] not in below:
            break
        inner = below[path[0]]
        if not path[1:] and isinstance(arguments, dict) and not _is_part(inner):
            break  # an argument, of which its factory tells
        node, path = inner, path[1:]
    factory = _part(node)
    return node, factory, path


def _is_part(value: Any) -> bool:
    return _part(value) is not None


def _part(value: Any) -> str | None:
    path = value.get("class_path") if isinstance(value, dict) else value
    return path if is_factory(path) else None


def _source(factory: str) -> str:
    made = inspect.unwrap(find(factory, ""))
    try:
        return f"{inspect.getsourcefile(made)}:{inspect.getsourcelines(made)[1]} ({factory})"
    except (OSError, TypeError):
        return factory


def keys() -> list[str]:
    """All keys of a configuration, with the arguments of the parts that are taken by default."""
    known = [key for key, _ in _lines() if not key.endswith("class_path")]
    return [*dict.fromkeys([*known, *PRIVACY])]


def _comments() -> Iterator[tuple[str, str]]:
    """(key, what is said behind it) of `defaults.yaml`."""
    return ((key, said) for key, said in _lines() if said)


def _lines() -> Iterator[tuple[str, str]]:
    """(key, what is said behind it, if anything) of the lines of `defaults.yaml`."""
    path: list[tuple[int, str]] = []
    for line in FILE.read_text(encoding="utf-8").splitlines():
        found = re.match(r"^( *)(\w+):[^#]*(?:#\s*(.*))?$", line)
        if not found:
            continue
        depth = len(found[1])
        path = [(d, name) for d, name in path if d < depth] + [(depth, found[2])]
        key = ".".join(name for _, name in path if name != "init_args")
        yield key, found[3] or ""
