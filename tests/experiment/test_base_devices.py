"""A run whose frozen base lies on two devices, from the command line, both ways of holding it."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from flax import nnx
from small_data import timeless

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_llama

from fedjax_rec import models
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

USERS, ITEMS = 8, 30
pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture
def go(tmp_path, monkeypatch):
    """go(name, *words) -> exit status of a run of a tiny decoder with adapters in every linear
    layer, on the titles of 8 users' films in order."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])
    folders = own, base = tmp_path / "own", tmp_path / "base"
    for place in folders:
        place.mkdir()
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        seen = rng.permutation(ITEMS)[: 4 + user % 4]
        lines += [f"u{user}\ti{item}\t5\t{time}" for time, item in enumerate(seen)]
    (own / "own.inter").write_text("\n".join(lines) + "\n")
    titles = ["item_id:token\ttitle:token_seq", *(f"i{i}\t{i + 20}" for i in range(ITEMS))]
    (own / "own.item").write_text("\n".join(titles) + "\n")
    sizes = models.LlamaSize(tiny_llama.VOCABULARY, 16, 24, 2, 4, 2, 8)
    tiny_llama.write(base, models.llama(nnx.Rngs(0), sizes))
    shutil.copy(f"{tiny_llama.folder()}/tokenizer.json", base)
    adapters = "*query|*key|*value|*output|*gate|*up|*down"
    model = {"source": str(base), "opening": "499", "most": 12, "rank": 2, "targets": adapters}
    config = {
        "data": {"source": str(own), "evaluation_negatives": 3},
        "model": {"class_path": "fedjax_rec.models.next_title", "init_args": model},
        "examples": {"class_path": "fedjax_rec.data.sequences", "init_args": {"length": 4}},
        "strategy": {"class_path": "fedjax_rec.strategies.fedavg", "init_args": {"batch_size": 1}},
        "evaluation": {"candidates": "sampled", "metrics": ["hr@1", "mrr"], "every": 2},
        "rounds": 4, "checkpoint_every": 2,
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    return lambda name, *words: main(
        ["run", str(tmp_path / "tiny.yaml"), "--quiet", "--out", str(tmp_path / name), *words]
    )


def test_both_ways_are_the_run_on_one_device_and_go_on_as_each_other(go, tmp_path):
    heads = "--base_devices=2", "--base_by=heads"
    assert go("one") == go("layers", "--base_devices=2") == go("heads", *heads) == 0
    # Half of it by heads, the rest with layers collected, from a checkpoint of what is trained.
    assert go("halves", *heads, "--rounds=2") == go("halves", "--base_devices=2") == 0
    one, *others = (timeless(tmp_path / name) for name in ("one", "layers", "heads", "halves"))
    assert len(one) >= 2
    for lines in others:
        for mine, alone in zip(lines, one, strict=True):
            for name, value in mine.items():
                np.testing.assert_allclose(value, alone[name], rtol=1e-4, err_msg=name)


def test_what_cannot_be_by_heads_writes_nothing(go, tmp_path, capsys):
    refused = {
        "base_devices=4 by heads does not divide the 2 key heads of this model; use base_devices=2,"
        " or base_by=layers.": ["--base_devices=4", "--base_by=heads"],
        "base_by": ["--base_devices=2", "--base_by=rows"],
    }
    for line, words in refused.items():
        assert go("none", *words) == 2, words
        said = capsys.readouterr().err
        assert line in said and said.count("\n") == 1, said
        assert not (tmp_path / "none").exists()
