"""`import fedjax_rec as fr`: quick, without a device, and everything is there when asked for."""

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedjax_rec as fr

PACKAGE = Path(fr.__file__).parent
LIMIT = 0.3  # seconds


def python(code: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_importing_it_is_quick_and_starts_nothing():
    code = (
        "import sys, time; begin = time.perf_counter(); import fedjax_rec;"
        "took = time.perf_counter() - begin;"
        "print(took, *sorted({'jax', 'numpy', 'flax', 'polars'} & set(sys.modules)))"
    )
    took, *heavy = python(code).split()
    assert float(took) < LIMIT and heavy == []


def test_a_whole_process_that_imports_it_is_quick():
    begin = time.perf_counter()
    python("import fedjax_rec")
    alone = time.perf_counter() - begin
    begin = time.perf_counter()
    python("pass")
    assert alone - (time.perf_counter() - begin) < LIMIT


def test_rooms_are_the_folders_and_come_when_asked_for():
    folders = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    assert set(fr.ROOMS) == folders | {"types"}
    code = "import fedjax_rec as fr; print(fr.models.fedmf.__name__, fr.Model.__name__)"
    assert python(code) == "fedmf Model"


@pytest.mark.parametrize("name", fr.__all__)
def test_every_name_is_there(name):
    found = getattr(fr, name)
    home = fr.HOMES.get(name)
    expected = f"fedjax_rec.{home or name}"
    module = importlib.import_module(expected)
    assert found is (getattr(module, name) if home else module)
    assert name in dir(fr)


def test_an_unknown_name_says_what_is_near():
    with pytest.raises(AttributeError, match="no attribute 'modles'; did you mean 'models'"):
        fr.modles  # noqa: B018
