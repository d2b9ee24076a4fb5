"""Argument checks whose messages name the argument, the value and the remedy.

Numbers are checked where they are known. A traced one, of a sweep under `jit` or `vmap`, passes:
what it will be is not known while the program is made. `static` is for those that may not be.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

import numpy as np
from jax import core


def is_traced(value) -> bool:
    """Whether `value` is known only when the compiled program runs."""
    return isinstance(value, core.Tracer)


def shown(value) -> str:
    """`value` in a message: itself where it is short, else what it is."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 and "\n" not in text else type(value).__name__


def holds(value, condition: Callable[[np.ndarray], bool | np.ndarray]) -> bool:
    """Whether a number, or every one of an array, meets `condition`; a traced one always does."""
    # In NumPy, since under `jit` a comparison of concrete jax arrays is traced like all else.
    return is_traced(value) or bool(np.all(condition(np.asarray(value))))


def positive(where: str, name: str, value) -> None:
    """Raises ValueError unless value > 0."""
    if not holds(value, lambda x: x > 0):
        raise ValueError(f"{where}({name}={shown(value)}) must be positive; use {name} > 0.")


def at_least(where: str, name: str, value, low) -> None:
    """Raises ValueError unless value >= low."""
    if not holds(value, lambda x: x >= low):
        raise ValueError(f"{where}({name}={shown(value)}) is too small; use {name} >= {low}.")


def below(where: str, name: str, value, high) -> None:
    """Raises ValueError unless value < high."""
    if not holds(value, lambda x: x < high):
        raise ValueError(f"{where}({name}={shown(value)}) is too large; use {name} < {high}.")


def fraction(where: str, name: str, value) -> None:
    """Raises ValueError unless 0 <= value <= 1."""
    if not holds(value, lambda x: (x >= 0) & (x <= 1)):
        raise ValueError(f"{where}({name}={shown(value)}) is no fraction; use 0 <= {name} <= 1.")


def seed(where: str, value) -> None:
    """Raises ValueError unless 0 <= value < 2^32, a whole number: beyond, keys of jax are those of
    the rest of the division, and two seeds are one run."""
    if not holds(value, lambda x: (x.dtype.kind in "iuO") & (x >= 0) & (x < 2**32)):
        raise ValueError(
            f"{where}(seed={shown(value)}) is no seed; use 0 <= seed < 2**32, a whole number."
        )


def static(where: str, name: str, value) -> None:
    """Raises ValueError for a traced value of an argument that shapes depend on."""
    if is_traced(value):
        raise ValueError(
            f"{where}({name}={value}) sets the shape of arrays, so it cannot be traced; give a "
            f"number for {name}, and a compilation of its own to each value of a sweep."
        )


def one_of(where: str, name: str, value, choices: Iterable[str]) -> None:
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{where}({name}={shown(value)}) is unknown{nearest(str(value), choices)}; "
            f"use one of {', '.join(map(repr, choices))}."
        )


def nearest(word: str, choices: Iterable[str]) -> str:
    """' (did you mean X?)', or nothing where nothing is near."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
