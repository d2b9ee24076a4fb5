"""A run whose clients are dealt to two devices, from the command line."""

import numpy as np
import pytest
from small_data import timeless, write_config, write_folder

from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

pytestmark = pytest.mark.usefixtures("compiled_fast")


def test_it_is_the_run_on_one_and_resumes_to_its_bits(tmp_path, monkeypatch):
    """FedMF on drawn cohorts; stopped after the checkpoint of round 2, it goes on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])
    place = tmp_path
    write_config(place / "tiny.yaml", write_folder(place / "tiny"))
    config, out = str(place / "tiny.yaml"), lambda name: str(place / name)
    go = lambda name, *words: main(["run", config, "--quiet", "--out", out(name), *words])
    assert go("one device") == go("two devices", "--devices=2") == 0
    assert go("two halves", "--devices=2", "--rounds=2") == 0
    assert go("two halves", "--devices=2") == 0
    one, two, halves = (
        timeless(place / f"{n}") for n in ("one device", "two devices", "two halves")
    )
    for mine, alone in zip(two, one, strict=True):
        for name, value in mine.items():
            np.testing.assert_allclose(value, alone[name], rtol=1e-5, err_msg=name)
    assert halves == two
    assert go("none", "--devices=0") == go("none", "--devices=99") == 2
    assert not (place / "none").exists()
