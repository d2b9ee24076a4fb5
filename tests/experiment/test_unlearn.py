"""`fedjax-rec unlearn`: what it writes of a run, against a run from the start, and what it
refuses."""

import json
import shutil

import jax
import numpy as np
import pytest
import yaml
from small_data import USERS, write_config, write_folder

import fedjax_rec as fr
from fedjax_rec import simulate, unlearn
from fedjax_rec.experiment.main import main

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
ROUNDS, NEVER, GONE = 3, list(range(0, USERS, 6)), ["u1", "u8", "u15"]
LOG = {"class_path": "fedjax_rec.unlearn.update_log"}
LOG |= {"init_args": {"rounds": ROUNDS, "rows": 8}}
STRATEGY = {"class_path": "fedjax_rec.strategies.fedmf", "init_args": {"stages": [LOG]}}


def without(*clients, of=None):
    of = of or {"class_path": "fedjax_rec.simulate.full"}
    given = {"cohorts": of, "clients": list(clients)}
    return {"class_path": "fedjax_rec.simulate.without", "init_args": given}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `tiny/tiny.inter` and `tiny.yaml`."""
    place = tmp_path_factory.mktemp("unlearn")
    source = write_folder(place / "tiny")
    of = {"strategy": STRATEGY, "rounds": ROUNDS, "keep_best": False}
    write_config(place / "tiny.yaml", source, cohorts=without(*NEVER), **of)
    return place


@pytest.fixture
def trained(place, quick):
    """The folder of a run of it."""
    out = place / "run"
    if not out.is_dir():
        assert main(["run", str(place / "tiny.yaml"), "--out", str(out), "--quiet"]) == 0
    return out


def shared(folder):
    return jax.tree.leaves(fr.load_run(folder).state.shared)


def test_both_methods_are_runs_and_what_is_left_is_measured(place, trained, capsys):
    out = place / "forgotten"
    assert main(["unlearn", str(trained), "--users", *GONE, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "3 users forgotten" in said and "bytes a client" in said
    told = json.loads((out / "unlearned.json").read_text())
    assert told["users"] == GONE and told["never_trained"] == len(NEVER)
    assert [row["model"] for row in told["rows"]] == ["before", "retrain", "replay"]
    for row in told["rows"]:
        assert row["rounds"] == ROUNDS and row["seconds"] > 0 and row["bytes_up"] > 0
        for name in ("hr@5", "auc"):
            assert 0 <= row[name]["low"] <= row[name]["mean"] <= row[name]["high"] <= 1
    before, retrain, _ = told["rows"]
    kept = unlearn.logged_bytes(fr.load_run(trained).state.memory)
    assert before["log_bytes"] == kept.sum() > 0 == kept[NEVER].sum()
    assert retrain["bytes_up"] < before["bytes_up"]
    known = fr.load_run(trained).experiment.read.split.interactions.user_names.tolist()
    gone = sorted(known.index(name) for name in GONE)
    of = fr.load_run(trained).config["cohorts"]
    assert fr.load_run(out / "retrain").config["cohorts"] == without(*gone, of=of)
    assert any((x != y).any() for x, y in zip(*map(shared, (out / "replay", trained)), strict=True))
    with pytest.raises(ValueError, match="of another configuration"):
        fr.load_run(trained).unlearn(GONE[:1], out)


def test_a_run_goes_on_from_the_state_before_they_were_drawn(place):
    """Of two clients a round, whose last checkpoints are kept, one is first drawn in the last."""
    two = {"class_path": "fedjax_rec.simulate.uniform", "init_args": {"size": 2}}
    folder = place / "few"
    words = ["--cohorts", json.dumps(two), "--checkpoint_every", "1", "--strategy.stages", "[]"]
    run = ["run", str(place / "tiny.yaml"), "--out", str(folder), "--quiet", *words]
    assert main(run) == 0
    key, draws = jax.random.key(0), simulate.uniform(2)
    began = {k: unlearn.first_round(draws, key, [k], USERS, ROUNDS) for k in range(USERS)}
    (late, *_) = [k for k, round in began.items() if round == ROUNDS - 1]
    (never, *_) = [k for k, round in began.items() if round is None]
    done = fr.load_run(folder)
    names = done.experiment.read.split.interactions.user_names
    told = done.unlearn([names[late]], place / "late")
    assert [row["rounds"] for row in told["rows"]] == [ROUNDS, 1] and told["rows"][1]["auc"] is None
    scratch = str(place / "late_scratch")
    words[1] = json.dumps(without(late, of=two))
    assert main(["run", str(place / "tiny.yaml"), "--out", scratch, "--quiet", *words]) == 0
    for x, y in zip(shared(place / "late" / "retrain"), shared(scratch), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(ValueError, match="none of them was drawn in any round"):
        done.unlearn([names[never]], place / "nothing")


@pytest.mark.parametrize(
    ("words", "change", "line"),
    [
        (["u99"], {}, "--users u99: tiny has no such user"),
        ([f"u{k}" for k in range(USERS)], {}, "nobody is left to train"),
        ([sorted(f"u{k}" for k in range(USERS))[6]], {}, "took no part in the run"),
        (["u1", "--methods", "forget"], {}, "no such method; use retrain or replay"),
        (["u1", "--methods", "retrain", "--steps", "1"], {}, "--steps 1 is of replay"),
        (["u1", "--methods", "replay"], {"stages": []}, "kept no logs; run it with"),
        (["u1", "--methods", "replay"], {"rounds": 2}, "room for 2 rounds of 3; run it with"),
        (["u1", "--methods", "replay"], {"class_path": "fedjax_rec.strategies.fedbuff"},
         "strategy=fedjax_rec.strategies.fedbuff may send more than one update a round"),
        (["u1"], {"checkpoints": False}, "its checkpoints are gone"),
    ],
)  # fmt: skip
def test_what_is_refused_is_told_in_one_line(place, trained, tmp_path, capsys, words, change, line):
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    raw = yaml.safe_load((folder / "config.yaml").read_text())
    if "checkpoints" in change:
        shutil.rmtree(folder / "checkpoints")
    if "class_path" in change:
        raw["strategy"] = {**change, "init_args": {"concurrency": 60}}
    elif "stages" in change:
        raw["strategy"]["init_args"]["stages"] = []
    elif "rounds" in change:
        raw["strategy"]["init_args"]["stages"][0]["init_args"]["rounds"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(raw))
    assert main(["unlearn", str(folder), "--out", str(tmp_path / "out"), "--users", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and line in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()
