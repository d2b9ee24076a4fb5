"""Short names of factories wherever a part goes: `top_k` for an argument that takes a Compressor is
`fedjax_rec.compress.top_k`, `adam` for one that takes a server or an optimizer `optax.adam`.

An argument says by its annotation what it takes, so one name may be of several rooms.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, get_args

import optax
from jsonargparse import ArgumentParser

from ..check import nearest
from ..made import MARK, returned
from .factories import ConfigError, find, is_factory

ROOMS = (
    "compress", "aggregate", "clients", "strategies", "simulate", "models", "data", "privacy",
    "attacks", "evaluate",
)  # fmt: skip


def factories_of(kind: type) -> dict[str, str]:
    """Short name -> path of the factories of the library that make a `kind`, such as
    `types.Compressor`, in the order of their rooms."""
    return dict(_named(kind))


@functools.cache
def _named(kind: type) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for name in ROOMS:
        room = importlib.import_module(f"fedjax_rec.{name}")
        for one in room.__all__:
            made = getattr(room, one)
            if isinstance(made, FunctionType) and returned(made) is kind:
                found.setdefault(one, f"fedjax_rec.{name}.{one}")
    return tuple(found.items())


def lengthened(value: Any, factory: Any, argument: str, where: str) -> Any:
    """`value` of an argument of a factory (its path), with the rooms of short names.

    Raises ConfigError for a word where a part goes that names none.
    """
    hint = _hints(factory).get(argument)
    kinds = tuple(dict.fromkeys(_parts_of(hint)))
    if not kinds:
        return value
    return _with_rooms(value, kinds, str not in _leaves(hint), f"{where}.{argument}")


def _with_rooms(value: Any, kinds: tuple, only: bool, where: str) -> Any:
    if isinstance(value, str):
        return _full(value, kinds, only, where)
    if isinstance(value, list):
        return [_with_rooms(one, kinds, only, f"{where}[{i}]") for i, one in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "class_path" in value:
        return {**value, "class_path": _full(value["class_path"], kinds, True, where)}
    return {name: _with_rooms(one, kinds, only, f"{where}.{name}") for name, one in value.items()}


def _full(name: Any, kinds: tuple, only: bool, where: str) -> Any:
    if not isinstance(name, str) or not name.isidentifier():
        return name
    known = {short: path for kind in kinds if kind is not Any for short, path in _named(kind)}
    if name in known:
        return known[name]
    if Any in kinds and callable(getattr(optax, name, None)):
        return f"optax.{name}"
    if only:
        raise ConfigError(
            f"{where}={name} names no factory{nearest(name, known)}; see `fedjax-rec list`."
        )
    return name


def of_the_kind(name: Any, other: str) -> Any:
    """The path of the factory called `name` that makes the kind that the factory `other` makes;
    `name` where there is none."""
    if not isinstance(name, str) or not name.isidentifier() or not is_factory(other):
        return name
    made = find(other, "")
    kind = returned(made) if isinstance(made, FunctionType) else None
    return dict(_named(kind)).get(name, name) if isinstance(kind, type) else name


@functools.cache
def _hints(path: Any) -> dict[str, Any]:
    """Argument -> annotation, those that a factory hands on by **kwargs included."""
    if not is_factory(path):
        return {}
    return {action.dest: getattr(action, "_typehint", None) for action in arguments_of(path)}


def arguments_of(path: str) -> list[Any]:
    """The arguments of a factory as jsonargparse has them: `dest`, `default` and `help` of each."""
    factory: Callable = find(path, "")
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(factory, type):
        parser.add_class_arguments(factory, fail_untyped=False)
    else:
        parser.add_function_arguments(factory, fail_untyped=False)
    return [a for a in parser._actions if not a.dest.endswith("help")]


def _leaves(hint: Any) -> Iterator[Any]:
    inner = get_args(hint)
    if not inner:
        yield hint
    for one in inner:
        yield from _leaves(one)


def _parts_of(hint: Any) -> Iterator[Any]:
    leaves = list(_leaves(hint))
    parts = [one for one in leaves if isinstance(one, type) and hasattr(one, MARK)]
    yield from parts
    if parts and Any in leaves:  # an optax transform, see `types.Transform`
        yield Any
