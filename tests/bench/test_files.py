"""The bench of large files, on a small one."""

import numpy as np
import polars as pl

from fedjax_rec.bench.files import measured, written
from fedjax_rec.bench.main import BENCHES


def test_a_file_is_written_read_and_packed(tmp_path):
    path = tmp_path / "a.csv"
    written(path, 30_000)
    table = pl.read_csv(path)
    assert table.columns == ["userId", "movieId", "rating", "timestamp"] and len(table) == 30_000
    assert np.unique(table["userId"], return_counts=True)[1].min() >= 20
    often = np.sort(np.unique(table["movieId"], return_counts=True)[1])
    assert often[-1] > 10 * np.median(often)
    found = measured(path)
    assert 0 < found["read"] < found["cpu"] and 0 < found["peak"] < 8
    assert "files" in BENCHES
