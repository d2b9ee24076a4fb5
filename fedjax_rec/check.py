"""Argument checks whose messages name the argument, the value and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def positive(where: str, name: str, value) -> None:
    if not value > 0:
        raise ValueError(f"{where}({name}={value}) must be positive; use {name} > 0.")


def at_least(where: str, name: str, value, low) -> None:
    if not value >= low:
        raise ValueError(f"{where}({name}={value}) is too small; use {name} >= {low}.")


def below(where: str, name: str, value, high) -> None:
    if not value < high:
        raise ValueError(f"{where}({name}={value}) is too large; use {name} < {high}.")


def fraction(where: str, name: str, value) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{where}({name}={value}) is no fraction; use 0 <= {name} <= 1.")


def one_of(where: str, name: str, value, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{where}({name}={value!r}) is unknown{nearest(str(value), choices)}; "
            f"use one of {', '.join(map(repr, choices))}."
        )


def nearest(word: str, choices: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
