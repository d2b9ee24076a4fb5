"""Docstrings of what rooms export: each argument is named, each error told, each example runs.

The sources are read by `ast`, so the laws cost no import; the examples run in a namespace that
holds what their text takes for granted: a `model`, `examples`, a `dataset`, an `update`.
"""

import ast
import doctest
import io
import re
import sys
import tempfile
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import polars as pl
import pytest
from flax import nnx

import fedjax_rec as fr
from fedjax_rec import data, models, strategies, trees
from fedjax_rec.types import Model

sys.path.insert(0, str(Path(__file__).parent / "laws"))
import tiny_bert
import tiny_llama
from adapted import adapted

PACKAGE = Path(__file__).resolve().parents[1] / "fedjax_rec"
ROOMS = (
    "aggregate", "attacks", "callbacks", "clients", "compress", "data", "evaluate", "leaks",
    "models", "privacy", "rounds", "rows", "servers", "simulate", "strategies", "testing",
    "unlearn", "weights", "wire",
)  # fmt: skip
# Algebra, and files: no examples are asked for, and the sentence may name the arguments.
IN_PROSE = {"rows", "weights"}
SECTION = re.compile(r"^(Args|Returns|Raises|Example):\n((?:(?: .*)?\n)*)", re.MULTILINE)
OTHERS = re.compile(r"not named here are those of ((?:`[\w.]+`(?:, | and )?)+)")


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


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
    for node in tree_of(path).body:
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
        tree = tree_of(init)
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
        if one.room not in {*IN_PROSE, "testing"} and ">>>" not in one.sections.get("Example", ""):
            say("there is no Example.")
    return told


def test_docstrings_name_arguments_and_errors_and_have_examples():
    assert wrong(PACKAGE) == []


def test_what_a_docstring_lacks_is_told(tmp_path):
    package = tmp_path / "fedjax_rec"
    (package / "models").mkdir(parents=True)
    (package / "models" / "__init__.py").write_text(
        'from .mf import mf, nf\n\n__all__ = ["mf", "nf"]\n'
    )
    (package / "models" / "mf.py").write_text(
        'def mf(width, scale=1.0):\n    """A model.\n\n    Args:\n        wide: D.\n    """\n'
        "    def check():\n        raise ValueError\n\n\n"
        'def nf(width, seed):\n    """Arguments not named here are those of `mf`.\n\n'
        '    Args:\n        seed: s.\n\n    Example:\n        >>> nf(1, 2)\n    """\n'
    )
    assert wrong(package, ["models"]) == [
        "fedjax_rec/models/mf.py:1 mf: Args says nothing of width, scale.",
        "fedjax_rec/models/mf.py:1 mf: Args names wide, which it does not take.",
        "fedjax_rec/models/mf.py:1 mf: there is a `raise`, and no Raises.",
        "fedjax_rec/models/mf.py:1 mf: there is no Example.",
        "fedjax_rec/models/mf.py:11 nf: Args says nothing of width.",
    ]


@pytest.fixture(scope="module")
def namespace(compiled_fast):
    """What the text of an example takes for granted."""
    given = {room: getattr(fr, room) for room in ROOMS}
    given |= {
        "jax": jax,
        "jnp": jnp,
        "nnx": nnx,
        "np": np,
        "optax": optax,
        "partial": partial,
        "tempfile": tempfile,
        "trees": trees,
    }
    interactions = data.synthetic(30, 24, interactions_per_user=8, seed=1)
    split, key, num_items = data.leave_one_out()(interactions), jax.random.key(0), 24
    ratings = 1.0 + np.arange(len(interactions)) % 5
    rated = replace(interactions, ratings=ratings.astype(np.float32))
    names = pl.DataFrame({"item_id": rated.item_names, "title": [f"{i} (1990)" for i in range(24)]})
    clicks = data.clicks(5, 12, num_rows=100, sparse=4, dense=2)
    clicked, click_model = data.pack_examples(clicks), models.deepfm(100, 4, 2, width=4, deep=(4,))
    model, dataset = models.fedmf(num_items, width=4), data.pack(split, evaluation_negatives=0)
    shared, rng = state_of(model, dataset, key)[0], np.random.default_rng(0)
    said = [fr.leaks.Message(k, np.arange(6), rng.normal(size=(6, 4)), 99) for k in range(4)]
    return given | {
        "seen": fr.leaks.Overheard(0, shared, said, True, num_items),
        "adapted": adapted(num_items), "bert_folder": tiny_bert.folder(),
        "click_model": click_model, "click_parameters": state_of(click_model, clicked, key),
        "clicked": clicked, "clicks": clicks, "dataset": dataset,
        "decoder": models.load_llama(tiny_llama.folder()), "decoder_folder": tiny_llama.folder(),
        "empty_folder": tempfile.mkdtemp(), "films": replace(rated, item_features=names),
        "interactions": rated, "key": key,
        "model": model, "num_items": num_items, "parameters": state_of(model, dataset, key),
        "prompted": prompted(), "prompts": tiny_llama.prompts(6), "split": split,
        "titles": tiny_bert.titles(num_items),
    }  # fmt: skip


def prompted() -> data.Examples:
    """Prompts that begin with one token."""
    fields = {**tiny_llama.prompts(6), "labels": np.arange(6) % 2}
    fields["tokens"] = np.pad(fields["tokens"], [(0, 0), (1, 0)], constant_values=7)
    fields["length"] = fields["length"] + 1
    return data.Examples("prompted", fields, np.arange(6) % 2, np.zeros(6, np.int8))


def state_of(model: Model, dataset: data.Dataset, key):
    """(shared, private) of a run that begins."""
    init = strategies.fedavg(model, data.pointwise(1)).init
    state = jax.jit(init, static_argnums=1)(key, dataset.num_clients)
    return state.shared, state.private


def with_examples(room: str) -> list[doctest.DocTest]:
    """Those of everything in `room`, exported or not."""
    parse, found = doctest.DocTestParser().get_doctest, []
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                if ">>>" in text:
                    found.append(parse(text, {}, node.name, str(path), node.lineno))
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_examples_run(namespace, room):
    told = io.StringIO()
    for one in with_examples(room):
        one.globs = dict(namespace)
        doctest.DocTestRunner().run(one, out=told.write)
    assert not told.getvalue(), told.getvalue()


def test_examples_of_laws_name_what_there_is():
    """Laws take a minute, so these are not run: every `room.name` in them is looked up."""
    texts = [one.sections["Example"] for one in exported(PACKAGE, ["testing"])]
    named = re.findall(rf"\b({'|'.join(fr.ROOMS)})\.(\w+)", "".join(texts))
    assert len(named) > len(texts)
    assert [f"{a}.{b}" for a, b in named if not hasattr(getattr(fr, a), b)] == []


def exists(name: str) -> bool:
    """Whether the dotted `name` is something in the package: a value, or a file."""
    found, parts = fr, name.split(".")
    for i, part in enumerate(parts):
        if hasattr(found, part):
            found = getattr(found, part)
        elif part in getattr(found, "__dataclass_fields__", ()):
            return True
        elif PACKAGE.joinpath(*parts[:i], f"{part}.py").exists():
            found = import_module(".".join(["fedjax_rec", *parts[: i + 1]]))
        else:
            return False
    return True


def test_names_in_backticks_exist():
    """Of what the source says in backticks and opens with a room; in `data` the word is an argument
    as well, and `report.md` a file."""
    rooms = "|".join(set(fr.ROOMS) - {"data", "report"})
    pattern = re.compile(rf"`(?:fedjax_rec\.)?((?:{rooms})(?:\.\w+)+)")
    missing = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in PACKAGE.rglob("*.py")
        for name in pattern.findall(path.read_text(encoding="utf-8"))
        if not exists(name)
    }
    assert missing == set()
    assert exists("clients.training.Terms") and not exists("clients.of_rank")
