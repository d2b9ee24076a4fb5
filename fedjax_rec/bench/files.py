"""From a CSV to what a round reads: seconds and memory of reading, filtering, splitting, packing.

The file has users of 20 interactions at least and items by a power law, as large as MovieLens-20M
where it has 2 x 10^7 rows. Each is read in a process of its own, whose peak is what the operating
system says: all of Python and jax, and the file's text.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import polars as pl

from .. import data, simulate
from .fresh import in_fresh_process
from .row import Row

EACH = 145  # interactions of a user, in the mean
GOALS = {10**6: (1.5, None, None), 2 * 10**7: (None, 60.0, 3.0)}  # read CPU s, whole CPU s, GiB


def files() -> Iterator[Row]:
    """CPU seconds and peak memory for a file of 10^6 rows, and of 2 x 10^7."""
    with tempfile.TemporaryDirectory() as place:
        for rows, (read, whole, peak) in GOALS.items():
            path = Path(place) / f"{rows}.csv"
            written(path, rows)
            found = in_fresh_process("files", f"measured({str(path)!r})")
            what = f"a CSV of {rows:,} rows"
            yield Row("files", f"{what}: read, CPU", found["read"], "s", _at_most(read))
            yield Row("files", f"{what}: read and packed, CPU", found["cpu"], "s", _at_most(whole))
            yield Row("files", f"{what}: read and packed, wall", found["wall"], "s", "")
            yield Row("files", f"{what}: peak memory", found["peak"], "GiB", _at_most(peak))
            yield Row("files", f"{what}: the file", path.stat().st_size / 2**30, "GiB", "")


def written(path: Path, rows: int) -> None:
    """A CSV of `rows` rows with the header of MovieLens; users and items 7 to a row's rank apart,
    so that ids have gaps; a few pairs are there twice."""
    rng = np.random.default_rng(0)
    users, items = max(rows // EACH, 1), max(rows // 750, 500)
    shares = rng.lognormal(0.0, 1.0, users)
    sizes = np.maximum(20, (shares / shares.sum() * (rows - 20 * users)).astype(int) + 20)
    owner = np.repeat(np.arange(users), sizes)[:rows]
    owner = np.concatenate([owner, rng.integers(0, users, rows - owner.size)])
    ranks = np.minimum(items ** rng.random(rows), items).astype(int) - 1
    table = {
        "userId": owner * 7 + 1, "movieId": ranks * 7 + 1, "rating": rng.integers(1, 11, rows) / 2,
        "timestamp": rng.integers(800_000_000, 1_500_000_000, rows),
    }  # fmt: skip
    pl.DataFrame(table).write_csv(path)


def measured(path: Path | str) -> dict[str, float]:
    """Seconds and GiB of what a run does with `path` before its first round."""
    simulate.configure(1, cache=None)
    cpu, wall = time.process_time(), time.perf_counter()
    found = data.read(path, say=lambda line: None)
    read = time.process_time() - cpu
    split = data.leave_one_out()(data.k_core(data.implicit(found)))
    packed = data.pack(split, evaluation_negatives=99)
    jax.block_until_ready(packed.store)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kib = peak / 1024 if sys.platform == "darwin" else peak
    return {
        "read": read, "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall,
        "peak": kib / 2**20,
    }  # fmt: skip


def _at_most(figure: float | None) -> str:
    return "" if figure is None else f"<= {figure:g}"
