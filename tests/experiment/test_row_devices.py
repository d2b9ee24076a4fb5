"""A run whose tables lie in blocks of rows on two devices, from the command line."""

import numpy as np
import pytest
from small_data import timeless, write_config

from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture
def go(tmp_path, monkeypatch):
    """go(name, *words) -> exit status of a run of FedMF on 60 users of four items each, 240."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])
    (tmp_path / "own").mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"u{k // 4}\ti{k}\t5\t{k}" for k in range(240)]
    (tmp_path / "own" / "own.inter").write_text("\n".join(lines) + "\n")
    config = str(write_config(tmp_path / "own.yaml", tmp_path / "own", rounds=4))
    return lambda name, *words: main(
        ["run", config, "--quiet", "--out", str(tmp_path / name), *words]
    )


def test_it_is_the_run_on_one_and_resumes_to_its_bits(go, tmp_path):
    assert go("one device") == go("blocks", "--row_devices=2") == 0
    assert go("two halves", "--row_devices=2", "--rounds=2") == 0
    assert go("two halves", "--devices=2", "--row_devices=2") == 0
    one, blocks, halves = (
        timeless(tmp_path / name) for name in ("one device", "blocks", "two halves")
    )
    for mine, alone in zip(blocks, one, strict=True):
        for name, value in mine.items():
            np.testing.assert_allclose(value, alone[name], rtol=1e-5, err_msg=name)
    assert halves == blocks


def test_what_cannot_be_writes_nothing(go, tmp_path, capsys):
    refused = {
        "row_devices=0 is too small; use row_devices >= 1.": ["--row_devices=0"],
        "row_devices=2 does not divide devices=3,": ["--devices=3", "--row_devices=2"],
        "does not divide a table of 236 rows; use row_devices=2,": [
            "--row_devices=3", "--data.since=4",
        ],
        "the strategy has each device hold whole tables": [
            "--row_devices=2", "--strategy.class_path=fedjax_rec.strategies.ptf_fedrec",
        ],
        "base_devices=0 is too small; use base_devices >= 1.": ["--base_devices=0"],
        "base_devices=2: the model has no frozen array named kernel,": ["--base_devices=2"],
        "devices hold tables together, or a frozen base, and not both;": [
            "--base_devices=2", "--row_devices=2",
        ],
        "a client reads a table whole": ["--row_devices=2", "--examples.init_args.negatives=90"],
    }  # fmt: skip
    for line, words in refused.items():
        assert go("none", *words) == 2, words
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1 and "JAX" not in said, said
        assert not (tmp_path / "none").exists()
