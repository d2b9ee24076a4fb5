"""A user's own parts of docs/extending.md: at most fifteen lines each, and under the laws."""

import ast
import re
from pathlib import Path

import pytest

from fedjax_rec import testing

pytestmark = pytest.mark.usefixtures("compiled_fast")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
# name -> its check, of the part's factory.
OWN = {
    "eight_bits": lambda make: testing.check_compressor(make(), unbiased=True),
    "clipped_mean": lambda make: testing.check_aggregator(make(2.0)),
    "krum": lambda make: testing.check_aggregator(make()),
    "biased": testing.check_model,
    "clip": lambda make: testing.check_stage(make(1.0)),
    "masks": lambda make: testing.check_stage(make(6), keeps_sum=True),
}


def blocks() -> list[str]:
    """The Python blocks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def source(name: str) -> str:
    """The function of that name, as it stands on the page."""
    for block in blocks():
        for node in ast.parse(block).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return "\n".join(block.splitlines()[node.lineno - 1 : node.end_lineno])
    raise AssertionError(f"{name} is not on the page any more")


def imports() -> str:
    body = ast.parse(blocks()[0]).body
    return "\n".join(ast.unparse(x) for x in body if isinstance(x, ast.Import | ast.ImportFrom))


@pytest.mark.parametrize("name", OWN)
def test_it_takes_fifteen_lines_at_most(name):
    assert len([line for line in source(name).splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("name", OWN)
def test_it_passes_the_laws(name):
    space: dict = {}
    exec(imports() + "\n\n" + source(name), space)
    OWN[name](space[name])
