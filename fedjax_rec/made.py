"""What parts say of themselves: the factory that made them, with its arguments.

    repr(compress.top_k(0.1)) == "top_k(fraction=0.1)"

A part is a bundle of functions, which say nothing of where they came from; the frames under which
it is made do. Among them a factory of the part is a function of a module that is annotated to
return one; the outermost counts, since `top_k` may be made by `leafwise`. The same look refuses an
argument that is a factory itself, the call of which was forgotten.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any, dataclass_transform

MARK = "_made_by"  # of a class that is a part, and on a part what made it
_PLAIN = (bool, int, float, str, type(None))


@dataclass_transform(frozen_default=True)
def part(cls):
    """A frozen dataclass whose `repr` is the call of the factory that made it."""
    setattr(cls, MARK, "")
    cls.__post_init__ = _remember
    cls.__repr__ = _told
    return dataclass(frozen=True, repr=False)(cls)


def _remember(self) -> None:
    text = ""
    for factory, given in _factories(sys._getframe(2), type(self)):
        module = factory.__module__ or ""  # None where code is run from a text
        ours = module.partition(".")[0] == __name__.partition(".")[0]
        for name, value in given.items() if ours else ():  # others may well take factories
            if "Callable" not in str(factory.__annotations__.get(name, "")):
                refuse_uncalled(factory.__name__, name, value)
        text = _call(factory, given)
    object.__setattr__(self, MARK, text)


def _told(self) -> str:
    return getattr(self, MARK) or f"{type(self).__name__}(...)"


def refuse_uncalled(where: str, name: str, value: Any) -> None:
    """Raises TypeError for a `value` that is a factory of a part and not the part, or holds one."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and len(value) <= 64:
        for one in value:
            refuse_uncalled(where, name, one)
    if isinstance(value, FunctionType) and hasattr(returned(value), MARK):
        raise TypeError(
            f"{where}({name}={value.__name__}) is given a factory; call it, "
            f"{name}={value.__name__}(...)."
        )


def returned(factory: FunctionType) -> Any:
    """What a function of a module is annotated to return; None where that is not plain."""
    hint = None if "<locals>" in factory.__qualname__ else factory.__annotations__.get("return")
    if not isinstance(hint, str):
        return hint
    first, *rest = hint.split(".")
    return functools.reduce(
        lambda x, name: getattr(x, name, None), rest, factory.__globals__.get(first)
    )


def _factories(frame: FrameType | None, kind: type) -> Iterator[tuple[FunctionType, dict]]:
    """(factory, its arguments) of the factories of `kind` under way, from the innermost."""
    while frame is not None:
        found = frame.f_globals.get(frame.f_code.co_name)
        made: Any = inspect.unwrap(found) if callable(found) else None
        mine = isinstance(made, FunctionType) and made.__code__ is frame.f_code
        if mine and returned(made) is kind:
            yield made, _arguments(frame)
        frame = frame.f_back


def _arguments(frame: FrameType) -> dict[str, Any]:
    given = inspect.getargvalues(frame)
    values = {name: given.locals[name] for name in given.args if name in given.locals}
    code = frame.f_code
    named = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    values |= {name: given.locals[name] for name in named if name in given.locals}
    if given.varargs and given.locals.get(given.varargs):
        values[given.varargs] = given.locals[given.varargs]
    return values | (given.locals.get(given.keywords) or {} if given.keywords else {})


def _call(factory: FunctionType, given: dict[str, Any]) -> str:
    known = inspect.signature(factory).parameters
    default = lambda name: known[name].default if name in known else inspect.Parameter.empty
    shown = {name: x for name, x in given.items() if not _same(x, default(name))}
    return f"{factory.__name__}({', '.join(f'{n}={_short(x)}' for n, x in shown.items())})"


def _same(value: Any, default: Any) -> bool:
    return value is default or (
        isinstance(value, (*_PLAIN, tuple)) and type(value) is type(default) and value == default
    )


def _short(value: Any) -> str:
    if isinstance(value, _PLAIN) or hasattr(value, MARK):
        return repr(value)
    if isinstance(value, list | tuple) and len(value) <= 8:
        inner = ", ".join(map(_short, value))
        return f"[{inner}]" if isinstance(value, list) else f"({inner})"
    if isinstance(value, dict) and len(value) <= 8:
        return f"{{{', '.join(f'{k!r}: {_short(x)}' for k, x in value.items())}}}"
    return getattr(value, "__name__", None) or f"<{type(value).__name__}>"
