"""What takes long is tested by turns: a share with each commit, the others by `-m slow`, and all with
LAWS=all in the environment. LAWS=2/5 is the third of five shares."""

import functools
import os
import subprocess
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest


@functools.cache
def turn(shares: int) -> tuple[int, int]:
    """(i, n): this commit tests the share i of n."""
    asked = os.environ.get("LAWS", "")
    if asked == "all":
        return 0, 1
    if "/" in asked:
        part, of = asked.split("/")
        return int(part), int(of)
    here = Path(__file__).parent
    said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, check=False)
    return zlib.crc32(said.stdout.strip()) % shares, shares


def chosen(name: str, shares: int) -> bool:
    """Whether it is the turn of what is called `name`."""
    part, of = turn(shares)
    return zlib.crc32(name.encode()) % of == part


def in_turn(names: Iterable[str], shares: int) -> list:
    """`pytest.mark.parametrize` arguments: each name, `slow` where it is not its turn."""
    slow = lambda name: [] if chosen(name, shares) else [pytest.mark.slow]
    return [pytest.param(n, id=n, marks=slow(n)) for n in names]
