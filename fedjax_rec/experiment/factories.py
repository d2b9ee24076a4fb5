"""Factories by name, as configurations give them: `fedjax_rec.models.pfedrec`, `optax.adam`,
`mylab.my_compressor`; where a key has a home, the last part is enough: `pfedrec`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentParser

from ..check import nearest

# What a key is by default; its room is where short names of the key are looked up.
DEFAULTS = {
    "model": "fedjax_rec.models.fedmf",
    "strategy": "fedjax_rec.strategies.fedmf",
    "examples": "fedjax_rec.data.pointwise",
    "cohorts": "fedjax_rec.simulate.full",
    "data.split": "fedjax_rec.data.leave_one_out",
    "data.clients": "fedjax_rec.data.by_user",
    "data.features": "fedjax_rec.data.features",
    "data.evaluation_draws": "fedjax_rec.data.uniform_draws",
    "privacy.clip": "fedjax_rec.privacy.whole",
    "privacy.correlated": "fedjax_rec.privacy.banded",
    "search": "fedjax_rec.experiment.search.random",
}


class ConfigError(ValueError):
    """A configuration that cannot be read, in one line."""


def full_name(path: Any, where: str = "") -> Any:
    """`path` with the room that the key `where` is at home in, if it has none of its own."""
    if isinstance(path, str) and where in DEFAULTS and path.isidentifier():
        return f"{DEFAULTS[where].rpartition('.')[0]}.{path}"
    return path


def source_name(path: Any) -> Any:
    """`path`, a factory of `data.source`, with its room if it is one of `fedjax_rec.data`."""
    whole = f"fedjax_rec.data.{path}"
    return whole if is_factory(whole) else path


def of_source(source: str) -> dict[str, Any]:
    """The factory that `data.source` names, to be given arguments: `read` and `synthetic` are of
    `fedjax_rec.data`, and what names none is a path, which `read` takes."""
    path = source_name(source)
    if is_factory(path):
        return {"class_path": path}
    return {"class_path": "fedjax_rec.data.read", "init_args": {"source": source}}


def of_default(section: Any, where: str) -> Any:
    """`section` at the key `where`, as the default factory with these arguments where it holds
    `init_args` and names no factory."""
    bare = isinstance(section, dict) and "init_args" in section and "class_path" not in section
    return {"class_path": DEFAULTS[where], **section} if bare and where in DEFAULTS else section


def find(path: Any, where: str) -> Callable:
    """The factory called `path`. Raises ConfigError, naming the key `where` and the nearest one."""
    told = f"{where}.class_path={path!r}"
    module, _, name = str(full_name(path, where)).rpartition(".")
    try:
        room = importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{told} cannot be imported ({error}); check the module.") from None
    found = getattr(room, name, None)
    if not callable(found):
        near = nearest(name, getattr(room, "__all__", dir(room)))
        raise ConfigError(f"{told}: {module} has no factory {name!r}{near}; name one of it.")
    return found


def is_factory(path: Any) -> bool:
    """Whether `path` is the dotted name of something that can be called."""
    if not isinstance(path, str) or not _of_a_module(path):
        return False
    room, _, name = path.rpartition(".")
    return callable(getattr(importlib.import_module(room), name, None))


def called(path: Any) -> set[str]:
    """Names of the arguments of the factory called `path` that want a factory themselves, annotated
    as Callable[..., X]; none where it is no factory, or its annotations cannot be read."""
    if not is_factory(path):
        return set()
    factory = find(path, "")
    try:
        hints = get_type_hints(factory.__init__ if isinstance(factory, type) else factory)
    except (NameError, TypeError, AttributeError):
        return set()
    return {name for name, hint in hints.items() if name != "return" and _is_of_factories(hint)}


def _is_of_factories(hint: Any) -> bool:
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [(get_origin(one), get_args(one)[:1]) for one in choices if one is not NoneType]
    return bool(kinds) and all(kind == (Callable, (...,)) for kind in kinds)


def parameters(factory: Callable) -> list[str]:
    """Names of the arguments of `factory`, those included that it hands on by **kwargs."""
    parser = ArgumentParser(exit_on_error=False)
    if isinstance(factory, type):
        return parser.add_class_arguments(factory, fail_untyped=False)
    return parser.add_function_arguments(factory, fail_untyped=False)


def check_complete(plain: Any, where: str) -> None:
    """Raises ConfigError where a part lacks an argument: jsonargparse takes None for those of a
    part of type Any."""
    if isinstance(plain, list):
        for i, one in enumerate(plain):
            check_complete(one, f"{where}[{i}]")
    if not isinstance(plain, dict):
        return
    arguments = plain.get("init_args") or {}
    if "class_path" in plain and isinstance(arguments, dict):
        known = inspect.signature(find(plain["class_path"], where)).parameters
        for name, value in arguments.items():
            needed = name in known and known[name].default is inspect.Parameter.empty
            if value is None and needed:
                raise ConfigError(f"{where} lacks {name}; give {where}.init_args.{name} a value.")
    for key, value in plain.items():
        check_complete(value, f"{where}.{key}" if where else key)


def check_made(value: Any, where: str) -> None:
    """Raises ConfigError where `value`, as the parser made it, still holds a part that was not
    made: jsonargparse leaves parts of type Any as they are when anything about them is wrong."""
    if isinstance(value, dict) and "class_path" in value:
        _made(value, where)
        raise ConfigError(
            f"{where}={value['class_path']} cannot be made of init_args "
            f"{value.get('init_args') or {}}; give it all of "
            f"{', '.join(parameters(find(value['class_path'], where)))} that have no default, of "
            "the right types."
        )
    for name, one in _inside(value):
        check_made(one, where + name)
    if isinstance(value, str) and _of_a_module(value):
        find(value, where)


def _made(value: Any, where: str) -> Any:
    """`value` with each part in it made. Raises ConfigError for the first, from within, that
    cannot be: a part that is left because of what is around it is not at fault."""
    if isinstance(value, (list, tuple)):
        return type(value)(_made(one, where + name) for name, one in _inside(value))
    if not isinstance(value, dict):
        check_made(value, where)
        return value
    if "class_path" not in value:
        return {name: _made(one, f"{where}.{name}") for name, one in value.items()}
    unknown_argument(value.keys() - {"class_path", "init_args"}, ["init_args"], where)
    arguments = value.get("init_args") or {}
    factory = find(value["class_path"], where)
    if not isinstance(arguments, dict):
        raise ConfigError(f"{where}.init_args={arguments} is no mapping; write name: value.")
    unknown_argument(arguments, parameters(factory), f"{where}.init_args")
    inside = _made(arguments, f"{where}.init_args")
    try:
        return factory(**inside)
    except (TypeError, ValueError, OSError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _inside(value: Any) -> list[tuple[str, Any]]:
    """(its place, itself) of all that a list or a mapping holds; nothing of others."""
    if isinstance(value, (list, tuple)):
        return [(f"[{i}]", one) for i, one in enumerate(value)]
    return [(f".{name}", one) for name, one in value.items()] if isinstance(value, dict) else []


def _of_a_module(name: str) -> bool:
    """Whether `name` looks like a name in a module that there is."""
    room, dot, _ = name.rpartition(".")
    if not dot or not all(word.isidentifier() for word in name.split(".")):
        return False
    try:
        importlib.import_module(room)
    except ImportError:
        return False
    return True


def unknown_argument(names: Iterable[str], known: list[str], where: str) -> None:
    """Raises ConfigError for the first of `names` that is not `known`, with the nearest one."""
    for name in names:
        if name not in known:
            raise ConfigError(
                f"{where}.{name} is no key of the configuration{nearest(name, known)}; "
                "see docs/configuration.md."
            )
