"""What the tests of experiments share: runs without figures, and a count of programs."""

import pytest

from fedjax_rec import simulate
from fedjax_rec.report import figures


@pytest.fixture
def quick(place, monkeypatch):
    """Runs draw nothing and keep what they compile in `place`, a folder of the test file's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])


@pytest.fixture
def programs(monkeypatch):
    """Grows by each program that is made."""
    found: list = []
    one = simulate.program
    monkeypatch.setattr(simulate, "program", lambda *made: found.append(1) or one(*made))
    return found
