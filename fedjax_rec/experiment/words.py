"""The words of a command: its own options, what they are of, and overrides, in any order.

run --rounds 3 base.yaml --out runs/mine --overwrite
-> {"out": "runs/mine", "overwrite": True}, ["base.yaml"], ["--rounds=3"]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from typing import NamedTuple

HELP = ("-h", "--help")


class Words(NamedTuple):
    """options: by name, flags as True. names: what stands alone. overrides: `--key=value`."""

    options: dict[str, str | bool]
    names: list[str]
    overrides: list[str]


def split(
    command: str, words: Sequence[str], valued: Iterable[str], flags: Iterable[str] = ()
) -> Words:
    """The words of `command`, whose own options take a value (`valued`) or may stand alone
    (`flags`, where `true` or `false` may follow).

    Raises ValueError for an option without its value.
    """
    valued, flags = set(valued), set(flags)
    found = Words({}, [], [])
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            found.names.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if key in flags:
            if not equals and rest and rest[0] in ("true", "false"):
                value, equals = rest.pop(0), "="
            if equals and value not in ("true", "false"):
                raise ValueError(f"--{key}={value} is neither true nor false; leave it alone.")
            found.options[key] = value != "false"
            continue
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(
                    f"--{key} has no value; write --{key} VALUE, see fedjax-rec {command} --help."
                )
            value = rest.pop(0)
        if key in valued:
            found.options[key] = value
        else:
            found.overrides.append(f"--{key}={value}")
    return found


def one_name(command: str, what: str, words: Words) -> str:
    """The one word that stands alone. Raises ValueError for none, or more than one."""
    if not words.names:
        raise ValueError(f"{command}: required: {what}; see fedjax-rec {command} --help.")
    if len(words.names) > 1:
        raise ValueError(
            f"{command}: {words.names[1]!r} is no option, and {what} is {words.names[0]!r}; write "
            "--key value."
        )
    return words.names[0]


def parser_of(name: str, about: str) -> argparse.ArgumentParser:
    """Of a command without overrides."""
    parser = argparse.ArgumentParser(
        prog=f"fedjax-rec {name}",
        description=about,
        epilog="--debug shows tracebacks.",
        allow_abbrev=False,  # `--o` may be meant for a key of the configuration
    )

    def error(message: str):
        raise ValueError(f"{message}; see fedjax-rec {name} --help.")

    parser.error = error
    return parser
