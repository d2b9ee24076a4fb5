"""The shape of the package: imports point one way, files say what they are and stay short.

Floors are listed from the ground up. A room imports from the floors below its own and from itself;
the files of the ground floor may also import each other, without cycles.
"""

import ast
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fedjax_rec"

GROUND = "made types trees rows factors keys bases pieces check wire storage weights"
FLOORS = (
    tuple(GROUND.split()),
    ("data", "models", "clients", "compress", "aggregate", "evaluate"),
    ("servers", "privacy", "attacks"),
    ("rounds",),
    ("strategies",),
    ("simulate",),
    ("callbacks", "leaks", "unlearn"),
    ("testing",),
    ("report",),
    ("experiment", "bench"),
)
FLOOR_OF = {room: height for height, floor in enumerate(FLOORS) for room in floor}
DOORS = {"__init__", "__main__"}  # the package's own front: may import any room
ROOT_NAMES = {"__version__"}  # all that a room may take from the front
EXCEPTIONS = {("experiment.main", "bench")}  # the command line offers `fedjax-rec bench`
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "_src"}
MAX_LINES = 400
# Where a walk may say itself which nodes end it (`is_leaf=`), and what these nodes are; all others
# use `rows.map_nodes` or its like.
WALKS = {
    "rows": "tables",
    "trees": "frozen values, and what is told",
    "pieces": "frozen values, and arrays that lie on several devices",
    "wire.nodes": "what is packed",
    "factors": "layers with adapters",
    "unlearn.log": "the logs of clients",
    "models.transformers.products": "layers of a stack that are taken where they are used",
    "models.placement": "frozen values and tables, by their path",
    "simulate.hosts": "where nothing lies, of what a program does not read",
    "testing": "nodes of packets and programs, which laws take apart",
}
# Clients are mapped over in one file, which knows what of them is shared. Whatever else is mapped
# over is no client that trains:
VMAPS = {
    "rounds.cohort": "clients",
    "keys": "ids, for the key of each",
    "rounds.clock": "keys, one a client",
    "strategies.split": "the outline of a client, for how many tokens its batches have room",
    "rounds.inflight": "keys, one a client",
    "rounds.selection": "keys, one a client",
    "rounds.utility": "keys, one a client",
    "attacks.cluster": "ids, for what each draws",
    "attacks.everywhere": "ids, for what each draws, and their messages",
    "attacks.imagined_users": "users that an adversary draws",
    "attacks.psmu": "users that each liar makes up",
    "attacks.pushed": "messages of those who lie",
    "compress.sparsify": "rows of an array",
    "models.text.next_title": "titles",
    "models.transformers.generate": "prompts",
    "privacy.masks": "seeds of masks",
    "simulate.whole": "whole runs",
    "strategies.ifca": "models of the clusters",
    "strategies.soft_labels": "examples",
    "evaluate.labelled": "clients that are scored",
    "evaluate.protocol": "clients that are scored",
    "bench.compress": "updates",
    "bench.device_parts": "whole runs",
    "bench.peers.vmap_workload": "clients, as others do",
    "testing": "parts alone, which is what laws ask of them",
    "bench.fedjax_compressors": "updates, by another library",
}


class Import(NamedTuple):
    """One import: the dotted module that imports, its line, and the room it names."""

    module: str
    line: int
    room: str  # "" is the package's front


def module_of(path: Path, package: Path) -> str:
    """Dotted name inside the package: data/splits.py is data.splits."""
    return ".".join(path.relative_to(package).with_suffix("").parts)


def imported_names(node: ast.AST, parents: list[str]) -> list[list[str]]:
    """Absolute dotted names that a statement imports; `parents` is the package holding the file."""
    if isinstance(node, ast.Import):
        return [alias.name.split(".") for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = parents[: len(parents) + 1 - node.level] if node.level else []
        base = base + (node.module.split(".") if node.module else [])
        return [[*base, alias.name] for alias in node.names]
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        called = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
            return [node.args[0].value.split(".")]
    return []


def imports(package: Path) -> list[Import]:
    """Every import, anywhere in a file, of something inside the package."""
    found = []
    for path in sorted(package.rglob("*.py")):
        module = module_of(path, package)
        parents = [package.name, *module.split(".")[:-1]]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for front, *rest in imported_names(node, parents):
                if front == package.name and not ROOT_NAMES.intersection(rest[:1]):
                    room = rest[0] if rest and rest[0] in FLOOR_OF else ""
                    found.append(Import(module, node.lineno, room))
    return list(dict.fromkeys(found))


def wrong_imports(package: Path) -> list[str]:
    """Imports that point up, sideways or through the front, and cycles on the ground floor."""
    wrong = []
    ground: dict[str, set[str]] = {}
    for module, line, target in imports(package):
        room = module.split(".")[0]
        if room in DOORS or room == target or (module, target) in EXCEPTIONS:
            continue
        where = f"{package.name}/{module.replace('.', '/')}.py:{line}"
        if target == "":
            wrong.append(f"{where} imports from the package's front; import from the room.")
        elif FLOOR_OF.get(room) == FLOOR_OF[target] == 0:
            ground.setdefault(room, set()).add(target)
        elif FLOOR_OF.get(room, -1) <= FLOOR_OF[target]:
            wrong.append(f"{where} imports {target}, which is not on a floor below {room}.")
    try:
        TopologicalSorter(ground).prepare()
    except CycleError as error:
        wrong.append(f"{package.name} imports in a circle: {' <- '.join(error.args[1])}.")
    return wrong


def misplaced_files(package: Path) -> list[str]:
    """Files on no floor, with a vague name, or too long."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        where = f"{package.name}/{path.relative_to(package)}"
        parts = module_of(path, package).split(".")
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if parts[0] not in DOORS | FLOOR_OF.keys():
            wrong.append(f"{where} is on no floor; put it in a room of FLOORS.")
        if VAGUE.intersection(word for part in parts for word in (part, *part.split("_"))):
            wrong.append(f"{where} has a vague name; name it for what it computes.")
        if lines > MAX_LINES:
            wrong.append(f"{where} has {lines} lines; split it below {MAX_LINES}.")
    return wrong


def used(package: Path, named: Callable[[ast.AST], bool]) -> dict[str, list[int]]:
    """Lines of each module with a node of its syntax tree that is `named`."""
    found: dict[str, list[int]] = {}
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if named(node):
                found.setdefault(module_of(path, package), []).append(getattr(node, "lineno", 0))
    return found


def is_walk(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg == "is_leaf"


def is_vmap(node: ast.AST) -> bool:
    names = [x.name for x in node.names] if isinstance(node, ast.ImportFrom) else []
    return (isinstance(node, ast.Attribute) and node.attr == "vmap") or "vmap" in names


def outside(package: Path, named: Callable[[ast.AST], bool], allowed) -> list[str]:
    """Where modules that are not `allowed`, nor in a room that is, have what is `named`."""
    return [
        f"{package.name}/{module.replace('.', '/')}.py:{line}"
        for module, lines in used(package, named).items()
        for line in lines
        if module not in allowed and module.split(".")[0] not in allowed
    ]


def test_what_a_node_is_is_said_once():
    assert outside(PACKAGE, is_walk, WALKS) == []


def test_clients_are_mapped_over_in_one_file():
    assert outside(PACKAGE, is_vmap, VMAPS) == []


@pytest.mark.parametrize(("named", "allowed"), [(is_walk, WALKS), (is_vmap, VMAPS)])
def test_no_exception_outlives_its_reason(named, allowed):
    there = used(PACKAGE, named).keys()
    assert {x for x in allowed if x not in there | {m.split(".")[0] for m in there}} == set()


def test_imports_point_one_way():
    assert wrong_imports(PACKAGE) == []


def test_files_are_named_placed_and_short():
    assert misplaced_files(PACKAGE) == []


@pytest.fixture
def plant(tmp_path):
    """Write {path: text} as a package named fedjax_rec, and return its folder."""

    def write(files: dict[str, str]) -> Path:
        package = tmp_path / "fedjax_rec"
        for name, text in files.items():
            path = package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return package

    return write


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/splits.py", "import fedjax_rec.simulate.loop"),
        ("data/splits.py", "from fedjax_rec.models import mf, ncf"),
        ("data/splits.py", "from fedjax_rec import strategies"),
        ("data/splits.py", "from .. import models"),
        ("data/splits.py", "from ..models.mf import fedmf"),
        ("data/__init__.py", "from ..models import mf"),
        ("data/deep/er.py", "from ...models import mf"),
        ("data/splits.py", "def late():\n    from fedjax_rec import bench"),
        ("data/splits.py", "import importlib\nimportlib.import_module('fedjax_rec.bench')"),
        ("types.py", "from .data import Split"),
        ("wire.py", "from . import data"),
        ("data/splits.py", "import fedjax_rec"),
        ("data/splits.py", "from fedjax_rec import *"),
        ("bench/speed.py", "from fedjax_rec.experiment import config"),
        ("experiment/run.py", "from fedjax_rec import bench"),
    ],
)
def test_a_wrong_import_is_caught(plant, file, text):
    (message,) = wrong_imports(plant({file: text}))
    assert message.startswith(f"fedjax_rec/{file}:{text.count(chr(10)) + 1} ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data/__init__.py", "from .splits import leave_one_out"),
        ("data/deep/er.py", "from .. import splits\nfrom ... import types"),
        (
            "models/mf.py",
            "import numpy\nfrom numpy import data\nfrom fedjax_rec.types import Model",
        ),
        (
            "simulate/loop.py",
            "from ..strategies import federated\nfrom fedjax_rec import wire, __version__",
        ),
        ("wire.py", "from .types import Packet"),
        ("experiment/main.py", "from fedjax_rec import bench"),
        ("__init__.py", "from . import data, experiment"),
    ],
)
def test_a_right_import_passes(plant, file, text):
    assert wrong_imports(plant({file: text})) == []


def test_a_circle_on_the_ground_floor_is_caught(plant):
    package = plant({"wire.py": "from .types import Packet", "types.py": "from . import wire"})
    (message,) = wrong_imports(package)
    assert "in a circle" in message


@pytest.mark.parametrize(
    ("file", "text", "complaint"),
    [
        ("data/utils.py", "", "vague name"),
        ("data/_src/csv.py", "", "vague name"),
        ("data/csv_helpers.py", "", "vague name"),
        ("training/loop.py", "", "no floor"),
        ("data/long.py", "x = 1\n" * (MAX_LINES + 1), "401 lines"),
    ],
)
def test_a_misplaced_file_is_caught(plant, file, text, complaint):
    (message,) = misplaced_files(plant({file: text, "data/csv.py": "x = 1\n" * MAX_LINES}))
    assert message.startswith(f"fedjax_rec/{file} ") and complaint in message


@pytest.mark.parametrize(
    ("text", "named", "allowed", "home"),
    [
        ("jax.tree.map(f, x, is_leaf=is_table)", is_walk, WALKS, "rows/walk.py"),
        ("def f(x):\n    return jax.tree.leaves(x, is_leaf=g)", is_walk, WALKS, "wire/nodes.py"),
        ("jax.vmap(f)(x)", is_vmap, VMAPS, "rounds/cohort.py"),
        ("from jax import vmap", is_vmap, VMAPS, "keys.py"),
        ("each = partial(jax.vmap, in_axes=(None, 0))", is_vmap, VMAPS, "rounds/clock.py"),
    ],
)
def test_a_walk_or_a_vmap_of_its_own_is_caught(plant, text, named, allowed, home):
    package = plant({"strategies/new.py": text, home: text})
    line = text.count("\n") + 1
    assert outside(package, named, allowed) == [f"fedjax_rec/strategies/new.py:{line}"]


def test_no_two_test_files_have_one_name():
    """Without packages, pytest imports a test file by its name alone."""
    names = sorted(path.stem for path in Path(__file__).parent.rglob("test_*.py"))
    assert names == sorted(set(names))
