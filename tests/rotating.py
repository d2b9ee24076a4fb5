"""Tests that take long run in turns: a share of them, another with every commit.

`LAWS=all` runs all of them, `LAWS=NUMBER` those of that turn; in a tree without git it is turn 0.
So what ships is run by `make test` before long, and by `make slow` at once.

Laws over what ships say by themselves how many turns they take (`in_turn`). Of all other tests
those that take half a second take one turn of four, two seconds one of twelve, and eight seconds
one of twenty-four: `turns.txt` lists them, made of a run that measures them:

    LAWS=all pytest --durations=0 --durations-min=0.3 > durations.txt
    python tests/rotating.py durations.txt
"""

import functools
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

LISTED = Path(__file__).with_name("turns.txt")
TURNS = {0.5: 4, 2.0: 12, 8.0: 24}  # seconds of a test -> it runs in one of so many turns


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
    own = pytest.mark.in_turn
    return [pytest.param(name, id=name, marks=[own, *marks(name, of)]) for name in names]


@functools.cache
def listed() -> dict[str, int]:
    """The tests of `turns.txt` by their node ids, and of how many turns they take one."""
    lines = (line.split(" ", 1) for line in LISTED.read_text().splitlines())
    return {name: int(of) for of, name in lines}


def measured(durations: str) -> dict[str, int]:
    """Node ids and turns of the tests that take some, of what pytest prints of durations."""
    took: Counter = Counter()
    for seconds, name in re.findall(r"^ *([\d.]+)s (?:call|setup) +(\S.*)$", durations, re.M):
        took[name.strip()] += float(seconds)
    least = min(TURNS)
    long = {name: seconds for name, seconds in sorted(took.items()) if seconds >= least}
    return {name: TURNS[max(s for s in TURNS if s <= long[name])] for name in long}


if __name__ == "__main__":
    found = measured(Path(sys.argv[1]).read_text())
    LISTED.write_text("".join(f"{of} {name}\n" for name, of in found.items()))
