"""Docstrings of what the rooms export: every argument is named, every error told, every example runs.

The sources are read by `ast`, so the laws cost no import; the examples run in a namespace that
holds what their text takes for granted: a `model`, `examples`, a `dataset`, an `update`.
"""

import ast
import inspect
import re
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fedjax_rec"
ROOMS = (
    "aggregate clients compress data evaluate models rounds rows servers strategies testing weights"
).split()
WITH_EXAMPLES = {"aggregate", "clients", "compress", "data", "evaluate", "models", "strategies"}
# Algebra, whose sentence names its arguments.
IN_PROSE = {"rows", "weights"}
SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n((?:(?: .*)?\n)*)", re.MULTILINE)
OTHERS = re.compile(r"not named here are those of ((?:`[\w.]+`(?: and )?)+)")


class Exported(NamedTuple):
    """A function that a room exports."""

    room: str
    where: str  # file:line
    node: ast.FunctionDef

    @property
    def doc(self) -> str:
        return ast.get_docstring(self.node) or ""

    @property
    def parameters(self) -> list[str]:
        a = self.node.args
        given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        return [one.arg for one in given]

    @property
    def sections(self) -> dict[str, str]:
        return dict(SECTION.findall(self.doc + "\n"))

    @property
    def args(self) -> list[str]:
        return re.findall(r"^    (\w[\w, ]*): ", self.sections.get("Args", ""), re.MULTILINE)


def source_of(package: Path, init: Path, node: ast.ImportFrom) -> Path:
    """The file, or the folder's __init__, that `node` of `init` imports from."""
    parts = (node.module or "").split(".") if node.module else []
    base = init.parent if node.level else package.parent
    for _ in range(node.level - 1):
        base = base.parent
    path = base.joinpath(*parts)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def found(package: Path, room: str, path: Path, name: str) -> Exported | None:
    """The function `name` of `path`, or of where `path` has it from."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return Exported(room, f"{path.relative_to(package.parent)}:{node.lineno}", node)
        if isinstance(node, ast.ImportFrom) and path.name == "__init__.py":
            for alias in node.names:
                source = source_of(package, path, node)
                if (alias.asname or alias.name) == name and source.exists():
                    return found(package, room, source, alias.name)
    return None


def names(node: ast.Assign) -> bool:
    """Whether `node` is the list of what a module exports."""
    return ast.unparse(node.targets[0]) == "__all__"


def exported(package: Path, rooms=ROOMS) -> list[Exported]:
    """The functions of `rooms`, each once, under the first room that exports it."""
    everything: dict[str, Exported] = {}
    for room in rooms:
        init = package / room / "__init__.py"
        tree = ast.parse(init.read_text(encoding="utf-8"))
        (listed,) = (x.value for x in tree.body if isinstance(x, ast.Assign) and names(x))
        for name in ast.literal_eval(listed):
            if one := found(package, room, init, name):
                everything.setdefault(one.where, one)
    return list(everything.values())


def described(one: Exported, every: list[Exported]) -> set[str]:
    """The parameters that the docstring names, or those it refers to."""
    names = set(one.args)
    if one.room in IN_PROSE:
        names |= set(re.findall(r"\w+", one.doc))
    for group in OTHERS.findall(" ".join(one.doc.split())):
        for other in re.findall(r"`(?:\w+\.)*(\w+)`", group):
            same = [x for x in every if x.node.name == other and x.node is not one.node]
            near = [x for x in same if x.room == one.room] or same
            assert near, f"{one.where}: {one.node.name} refers to `{other}`, which no room exports."
            names |= described(near[0], every)
    return names


def wrong(package: Path, rooms=ROOMS) -> list[str]:
    """What docstrings lack, a line each."""
    every = exported(package, rooms)
    told = []
    for one in every:
        say = lambda what, one=one: told.append(f"{one.where} {one.node.name}: {what}")
        missing = [p for p in one.parameters if p not in described(one, every)]
        if missing:
            say(f"Args says nothing of {', '.join(missing)}.")
        if unknown := [name for name in one.args if name not in one.parameters]:
            say(f"Args names {', '.join(unknown)}, which it does not take.")
        raises = any(isinstance(x, ast.Raise) for x in ast.walk(one.node))
        if raises and "Raises" not in one.sections:
            say("there is a `raise`, and no Raises.")
        if one.room in WITH_EXAMPLES and ">>>" not in one.sections.get("Example", ""):
            say("there is no Example.")
    return told
