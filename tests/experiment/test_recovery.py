"""Runs that are killed at any moment, and run folders that are damaged: the same bits, or one line.

`KILLS` and `DAMAGED` of the environment say how many of each (10 and 10); they take about 15 and 10
seconds each.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_data import write_config, write_folder
from test_run import results

from fedjax_rec.simulate import last_saved

pytestmark = pytest.mark.slow
KILLS, DAMAGED = (int(os.environ.get(name, 10)) for name in ("KILLS", "DAMAGED"))
ROUNDS = 60


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("recovery")
    write_config(
        place / "tiny.yaml", write_folder(place / "tiny"), rounds=ROUNDS, checkpoint_every=3
    )
    return place


def started(place: Path, out: str, *words: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fedjax_rec.experiment.main", "run", str(place / "tiny.yaml")]
    return subprocess.Popen(
        [*command, "--out", str(place / out), "--quiet", *words],
        stderr=subprocess.PIPE, text=True,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "JAX_PLATFORMS": "cpu",
             "XDG_CACHE_HOME": str(place / "cache")},
    )  # fmt: skip


def ended(process: subprocess.Popen) -> tuple[int, list[str]]:
    """(exit status, lines on standard error)."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors.splitlines()


@pytest.fixture(scope="module")
def straight(place):
    """(the folder of a run that nothing disturbed, the seconds it took)."""
    begin = time.time()
    assert ended(started(place, "straight")) == (0, [])
    return place / "straight", time.time() - begin


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_killed_run_ends_with_the_same_bits(place, straight, kill):
    """Killed once, or, every other time, once more while it goes on; the moments are drawn."""
    folder, seconds = straight
    draw = np.random.default_rng(kill)
    out = f"killed {kill}"
    for _ in range(1 + kill % 2):
        process = started(place, out)
        time.sleep(float(draw.uniform(0.2, 1.0)) * seconds)
        process.kill()
        process.communicate()
    status, lines = ended(started(place, out))
    assert status == 0, lines
    assert results(place / out) == results(folder)


def flip(file: Path, draw: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    file.write_bytes(bytes(data))


def cut(file: Path, draw: np.random.Generator) -> None:
    file.write_bytes(file.read_bytes()[: int(draw.integers(file.stat().st_size))])


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / str(last_saved(folder / "checkpoints"))


def any_file(folder: Path, draw: np.random.Generator) -> Path:
    files = sorted(f for f in folder.rglob("*") if f.is_file() and f.stat().st_size)
    return files[int(draw.integers(len(files)))]


DAMAGE = {
    "a flipped bit in a checkpoint": lambda folder, draw: flip(
        any_file(newest(folder), draw), draw
    ),
    "a cut file of a checkpoint": lambda folder, draw: cut(any_file(newest(folder), draw), draw),
    "a lost file of a checkpoint": lambda folder, draw: any_file(newest(folder), draw).unlink(),
    "a flipped bit in the records": lambda folder, draw: flip(folder / "metrics.jsonl", draw),
    "cut records": lambda folder, draw: cut(folder / "metrics.jsonl", draw),
}


@pytest.mark.parametrize("number", range(DAMAGED))
def test_a_damaged_folder_goes_on_to_the_same_bits_or_says_so_in_a_line(place, straight, number):
    folder, _ = straight
    draw = np.random.default_rng(1000 + number)
    kind = list(DAMAGE)[number % len(DAMAGE)]
    out = f"damaged {number}"
    shutil.copytree(folder, place / out)
    DAMAGE[kind](place / out, draw)
    before = (place / out / "metrics.jsonl").read_bytes()
    status, lines = ended(started(place, out))
    assert len(lines) <= 1, lines
    if status == 0:
        assert results(place / out) == results(folder), kind
        return
    assert status == 2 and len(lines) == 1, lines
    assert "metrics.jsonl:" in lines[0] or "damaged" in lines[0]
    assert (place / out / "metrics.jsonl").read_bytes() == before
    assert json.loads((place / out / "summary.json").read_text())["totals"]["rounds"] == ROUNDS
