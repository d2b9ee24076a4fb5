"""Tests that take long run in turns: a share of them, another with every commit.

`LAWS=all` runs all of them, `LAWS=NUMBER` those of that turn; in a tree without git it is turn 0.
So what ships is run by `make test` before long, and by `make slow` at once.
"""

import functools
import os
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest


@functools.cache
def turn() -> int | None:
    """The number of this commit's turn, which is how many commits there are; None for all turns."""
    asked = os.environ.get("LAWS", "")
    if asked:
        return None if asked == "all" else int(asked)
    command = ["git", "rev-list", "--count", "HEAD"]
    here = Path(__file__).parent
    said = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    return int(said.stdout) if said.returncode == 0 else 0


def marks(name: str, of: int) -> list:
    """No mark where the test `name` is due in one of `of` turns, else slow."""
    due = turn() is None or zlib.crc32(name.encode()) % of == turn() % of
    return [] if due else [pytest.mark.slow]


def in_turn(names: Iterable[str], of: int) -> list:
    """Arguments of `pytest.mark.parametrize`: each name, slow where it is not its turn."""
    return [pytest.param(name, id=name, marks=marks(name, of)) for name in names]
