"""Choices: near-equal configurations in one file, each a name and what it overrides.

    strategy: fedjax_rec.strategies.fedit
    choices:
      fedit: {}
      hetlora: {strategy: hetlora, strategy.ranks: [2, 4, 8]}

`--choose hetlora` lays its overrides on the file, in their order and by the rules of the command
line (`overrides.py`); `--key value` words come after, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..check import nearest
from .factories import ConfigError
from .overrides import lay_words, pairs

KEY, SECTION = "choose", "choices"


def choose(
    raw: Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any]
) -> tuple[dict, str | None, Any]:
    """Takes the section `choices` out of a configuration, and the choice out of its overrides.

    Args:
        raw: the mapping that a YAML file holds.
        overrides: words of the command line, among them `--choose NAME`, or a mapping that has the
            key `choose`.

    Returns:
        The configuration with what the choice overrides and without the section, the name of the
        choice or None, and the other overrides, as they were given.

    Raises:
        ConfigError: the section holds something else than mappings, or has no choice of the name.
    """
    raw = dict(raw)
    known = raw.pop(SECTION, None) or {}
    if not isinstance(known, Mapping):
        raise ConfigError(f"{SECTION}={known} is no mapping; write {SECTION}: {{name: {{...}}}}.")
    if isinstance(overrides, Mapping):
        name = overrides.get(KEY)
        rest: Any = {key: value for key, value in overrides.items() if key != KEY}
    else:
        given = list(pairs(overrides))
        name = next((text for key, text in reversed(given) if key == KEY), None)
        rest = [f"--{key}={text}" for key, text in given if key != KEY]
    if name is None:
        return raw, None, rest
    found = {str(key): changes for key, changes in known.items()}
    if str(name) not in found:
        remedy = f"use {', '.join(found)}" if found else f"the file has no {SECTION}"
        raise ConfigError(
            f"--{KEY} {name}: no such choice{nearest(str(name), list(found))}; {remedy}."
        )
    changes = found[str(name)] or {}
    if not isinstance(changes, Mapping):
        raise ConfigError(f"{SECTION}.{name}={changes} is no mapping; write {{key: value}}.")
    return lay_words(raw, changes), str(name), rest
