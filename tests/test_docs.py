"""The pages say what is true: their Python runs, their YAML is read, their links lead somewhere."""

import re
import sys
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

from fedjax_rec import data
from fedjax_rec.experiment import config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WRITTEN_BY_COMMANDS = {"docs/results.md", "docs/benchmarks.md"}  # there once a run was reported
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: str, language: str) -> list[tuple[int, str]]:
    """(line, text) of each fenced block in `language`."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text[: match.start(1)].count("\n"), match[1]) for match in found]


def execute(page: str, edit=lambda text: text) -> dict:
    """The namespace after all Python blocks of `page`; tracebacks name its lines."""
    module = ModuleType("mylab")
    sys.modules["mylab"] = module
    for line, text in blocks(page, "python"):
        exec(compile("\n" * line + edit(text), str(ROOT / page), "exec"), vars(module))
    return vars(module)


@pytest.fixture
def mylab():
    yield
    sys.modules.pop("mylab", None)


@pytest.fixture
def in_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")


def test_extending(mylab):
    """Every part of the page trains, and the configuration that names them is read."""
    execute("docs/extending.md")
    ((_, text),) = blocks("docs/extending.md", "yaml")
    path = ROOT / "docs" / "extending.md"
    made = read_yaml(text, path)
    assert made.make_model(num_items=5, members=1)
    override = read_yaml(text, path, ["--strategy.aggregator.bound", "2.0"])
    assert override.plain["strategy"]["init_args"]["aggregator"]["init_args"]["bound"] == 2.0


def read_yaml(text: str, page: Path, overrides=()):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{page.stem}.yaml"
        path.write_text(text)
        return config.read(path, overrides)
