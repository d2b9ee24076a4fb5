"""Whole runs through the command line, in process: what is written, and that nothing stops them.

Every run trains 60 users on 40 items for five rounds, with the same compiled programs.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from small_data import MYLAB, write_config, write_folder

from fedjax_rec import simulate
from fedjax_rec.experiment.folder import RunFolder
from fedjax_rec.experiment.loaded import load_run
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures
from fedjax_rec.simulate import Checkpoints

ROOT = Path(__file__).resolve().parents[2]


pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with `tiny/tiny.inter` and `tiny.yaml`."""
    place = tmp_path_factory.mktemp("runs")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"))
    return place


@pytest.fixture(autouse=True)
def cached(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))


def run(place, out, *words) -> int:
    return main(["run", str(place / "tiny.yaml"), "--out", str(place / out), "--quiet", *words])


def records(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl, without the time they took."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [r["seconds"] for r in found] == sorted(r["seconds"] for r in found)
    return [{k: v for k, v in r.items() if k != "seconds"} for r in found]


def results(folder: Path):
    """Everything a run found, less times."""
    summary = json.loads((folder / "summary.json").read_text())
    for part in ("final", "best", "totals"):
        summary[part].pop("seconds")
    summary.pop("finished")
    with np.load(folder / "per_user.npz") as stored:
        return records(folder), summary, {k: stored[k].tolist() for k in stored}


@pytest.fixture(scope="module")
def straight(place):
    """A run of five rounds that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        assert run(place, "straight") == 0
    return place / "straight"


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])


def disturb(monkeypatch, at: int, deed) -> None:
    """`deed(folder, record)` in place of writing the record of round `at`."""
    append = RunFolder.append

    def disturbed(folder, record):
        if record["round"] == at:
            deed(folder, record)
        append(folder, record)

    monkeypatch.setattr(RunFolder, "append", disturbed)


def test_a_run_writes_its_folder(straight):
    assert {p.name for p in straight.iterdir()} - {".lock"} == {
        "config.yaml", "metrics.jsonl", "summary.json", "per_user.npz", "figures", "checkpoints",
        "best",
    }  # fmt: skip
    assert list((straight / "figures").glob("*.png"))
    config = yaml.safe_load((straight / "config.yaml").read_text())
    assert config["model"]["init_args"]["width"] == 4 and config["rounds"] == 5
    found, summary, users = results(straight)
    assert [r["round"] for r in found] == [1, 2, 3, 4, 5]
    assert {"loss", "clients", "bytes_up", "bytes_down", "hr@5", "mrr", "validation_hr@5"} <= set(
        found[0]
    )
    assert all(r["clients"] == 20 and r["bytes_up"] > 0 for r in found)
    best = max(found, key=lambda r: r["validation_hr@5"])
    assert summary["best"] == best and summary["final"] == found[-1]
    assert summary["selected_by"] == "validation_hr@5"
    assert summary["totals"]["bytes_up"] == sum(r["bytes_up"] for r in found)
    assert users["metrics"] == ["hr@5", "mrr"] and len(users["values"]) == 60
    assert np.nanmean(np.array(users["values"]), 0) == pytest.approx([best["hr@5"], best["mrr"]])


def test_the_same_run_gives_the_same_numbers_and_another_seed_others(
    place, straight, without_figures
):
    assert run(place, "again") == 0
    assert results(place / "again") == results(straight)
    assert run(place, "seed", "--seed=1", "--rounds=1") == 0
    assert records(place / "seed")[0]["loss"] != records(straight)[0]["loss"]


@pytest.mark.parametrize("at", [2, 4])
def test_a_killed_run_goes_on_as_if_it_had_not_been(
    place, straight, without_figures, monkeypatch, capsys, at
):
    """Killed while the line of round `at` is half written: after no checkpoint, or that of 2."""

    def kill(folder, record):
        with open(folder.path / "metrics.jsonl", "a") as file:
            file.write(json.dumps(record)[:20])
        raise KeyboardInterrupt

    out = f"killed {at}"
    with monkeypatch.context() as patch:
        disturb(patch, at, kill)
        assert run(place, out) == 130
    assert not (place / out / "summary.json").exists()
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(place, out) == 0
    assert results(place / out) == results(straight)


def test_ctrl_c_ends_the_round_saves_and_says_so(
    place, straight, without_figures, monkeypatch, capsys
):
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        disturb(patch, 3, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert run(place, "stopped") == 130
    (line,) = capsys.readouterr().err.splitlines()
    assert "stopped after round 3; the same command goes on from there" in line
    assert signal.getsignal(signal.SIGINT) is before
    assert [r["round"] for r in records(place / "stopped")] == [1, 2, 3]
    assert run(place, "stopped") == 0
    assert results(place / "stopped") == results(straight)


def test_a_full_disk_leaves_a_run_that_goes_on(
    place, straight, without_figures, monkeypatch, capsys
):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        disturb(patch, 4, full)
        assert run(place, "disk") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left; free some and run again to go on" in line
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", full)
        assert run(place, "disk") == 2
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_summary", full)
        assert run(place, "disk") == 2
    assert run(place, "disk") == 0
    assert results(place / "disk") == results(straight)


def test_a_finished_run_repeated_changes_nothing_and_more_rounds_go_on(
    place, straight, without_figures, capsys
):
    assert run(place, "longer", "--rounds=3") == 0
    first = results(place / "longer")
    assert run(place, "longer", "--rounds=3") == 0
    assert results(place / "longer") == first
    assert run(place, "longer") == 0
    assert results(place / "longer") == results(straight)
    # Without its checkpoints it cannot go on, and its records are not made anew unasked.
    shutil.copytree(place / "longer", place / "bare")
    shutil.rmtree(place / "bare" / "checkpoints")
    capsys.readouterr()
    assert run(place, "bare") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a finished run whose checkpoints are gone" in line and "--overwrite true" in line
    assert results(place / "bare") == results(straight)
    (place / "bare" / "summary.json").unlink()  # as if it had been killed before its first one
    assert run(place, "bare") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "no checkpoint is left of what metrics.jsonl tells; begins anew" in line
    assert results(place / "bare") == results(straight)
    # Fewer rounds than there are: nothing is undone, and the folder does not say that it was.
    before = {f.name: f.read_bytes() for f in (place / "longer").iterdir() if f.is_file()}
    capsys.readouterr()
    assert run(place, "longer", "--rounds=2") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "rounds=2 is less than the 5 that are done" in line
    assert before == {f.name: f.read_bytes() for f in (place / "longer").iterdir() if f.is_file()}


def test_another_configuration_is_refused_and_overwrites_when_told(
    place, straight, without_figures, capsys
):
    assert run(place, "mine", "--rounds=1") == 0
    before = records(place / "mine")
    assert run(place, "mine", "--seed=1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "another configuration (different: seed)" in line and "--overwrite" in line
    # A bad command does not cost the run that it was to overwrite.
    assert run(place, "mine", "--overwrite=true", "--cohorts.size=61") == 2
    assert records(place / "mine") == before
    assert run(place, "mine", "--seed=1", "--rounds=1", "--overwrite", "true") == 0
    assert records(place / "mine") != before


def test_a_checkpoint_of_another_configuration_is_refused(place, straight, without_figures, capsys):
    assert run(place, "swapped", "--rounds=1") == 0
    file = place / "swapped" / "config.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: 1"))
    assert run(place, "swapped", "--seed=1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint of round 1 is of another configuration" in line


def copied(place, straight, name) -> Path:
    shutil.copytree(straight, place / name)
    return place / name


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    place, straight, without_figures, capsys
):
    """Those of rounds 4 and 5 are there; what was after round 4 is made once more, to the bit."""
    folder = copied(place, straight, "damaged")
    for file in (folder / "checkpoints" / "5" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-9] + b"not this.")
    assert run(place, "damaged") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint of round 5 is damaged; goes on from that of round 4" in line
    assert results(folder) == results(straight)
    assert run(place, "damaged") == 0 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("lost", "line"), [("all", 1), ("file", 1), ("second", 2), ("last", 5), ("blank", 2)]
)
def test_records_that_a_checkpoint_counts_on_are_required(
    place, straight, without_figures, capsys, lost, line
):
    folder = copied(place, straight, f"records {lost}")
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    left = {"all": [], "second": lines[:1] + lines[2:], "last": lines[:4],
            "blank": [lines[0], "\n", *lines[1:]]}  # fmt: skip
    if lost == "file":
        file.unlink()
    else:
        file.write_text("".join(left[lost]))
    before = {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    for words in ((), ("--rounds=7",)):
        assert run(place, folder.name, *words) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert f"metrics.jsonl:{line}: " in told and "--overwrite" in told
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before


def test_other_data_of_the_same_name_are_refused(place, without_figures, capsys):
    """Other ratings of the same users and items stop a resumed run and a loaded one; other items
    stop also a run that starts from it."""
    other = place / "other"
    write_folder(other)
    write_config(place / "other.yaml", other)
    words = ["run", str(place / "other.yaml"), "--quiet", "--out"]
    assert main([*words, str(place / "swap"), "--rounds=1"]) == 0
    file = other / "other.inter"
    text = file.read_text()
    start = ["--rounds=1", "--start_from", str(place / "swap")]
    header, *lines = text.splitlines()
    file.write_text("\n".join([header, *reversed(lines)]) + "\n")  # the order says nothing
    assert main([*words, str(place / "swap"), "--rounds=1"]) == 0
    file.write_text(text.replace("\ti3", "\tx3"))
    capsys.readouterr()
    assert main([*words, str(place / "swap"), "--rounds=2"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "of another catalogue" in line
    assert main([*words, str(place / "from"), *start]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "start_from=" in line and "other users or items" in line
    with pytest.raises(ValueError, match="is not the data that the run was made with any more"):
        _ = load_run(place / "swap").experiment
    # Fewer rows of the same users and items: the run is another, and may start from it.
    file.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    assert main([*words, str(place / "swap"), "--rounds=2"]) == 2
    assert "of another data set" in capsys.readouterr().err
    assert main([*words, str(place / "from"), *start]) == 0


def test_more_places_than_candidates_are_told(place, without_figures, capsys):
    words = ["--rounds=1", "--evaluation.metrics=[mrr, hr@5, hr@10]", "--evaluation.every=1"]
    few = ["--evaluation.candidates=sampled", "--data.evaluation_negatives=8"]
    assert run(place, "few", *words, *few) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "hr@10 looks at 10 places, and there are users with 9 sampled candidates" in line


def test_a_diverging_run_names_the_round(place, without_figures, capsys):
    words = ["--strategy.user_learning_rate=1e30", "--strategy.item_learning_rate=1e30"]
    assert run(place, "diverged", *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "round " in line and "lower the learning rates" in line
    assert not (place / "diverged" / "summary.json").exists()


def test_factories_of_the_user_run(place, without_figures, monkeypatch):
    (place / "lab" / "mylab").mkdir(parents=True)
    (place / "lab" / "mylab" / "__init__.py").write_text(MYLAB)
    monkeypatch.syspath_prepend(place / "lab")
    words = ["--strategy=mylab.my_strategy", "--model=mylab.my_model", "--model.size=3",
             "--strategy.uplink=mylab.my_uplink", "--rounds=1"]  # fmt: skip
    assert run(place, "mylab", *words) == 0
    summary = json.loads((place / "mylab" / "summary.json").read_text())
    assert (summary["model"], summary["strategy"]) == ("mylab.my_model", "mylab.my_strategy")


@pytest.mark.slow
def test_own_models_and_sampled_negatives_and_ratings_run(place, without_figures):
    words = ["--rounds=2", "--evaluation.every=2", "--cohorts=full"]
    personal = ["--model=pfedrec", "--strategy=pfedrec", "--evaluation.of=personal"]
    sampled = ["--evaluation.candidates=sampled", "--data.evaluation_negatives=9"]
    assert run(place, "personal", *words, *personal, *sampled) == 0
    (line,) = records(place / "personal")
    assert line["round"] == 2 and 0 <= line["hr@5"] <= 1
    ratings = ["--data.implicit=false", "--evaluation.candidates=ratings", "--examples=ratings",
               "--model.objective=fedjax_rec.models.squared_error"]  # fmt: skip
    assert run(place, "ratings", *words, *ratings) == 0
    summary = json.loads((place / "ratings" / "summary.json").read_text())
    assert summary["selected_by"] == "validation_rmse" and summary["best"]["rmse"] > 0


def test_ctrl_c_in_a_process_of_its_own(place, straight, without_figures):
    out = place / "process"
    words = ["run", str(place / "tiny.yaml"), "--rounds=1000000", "--out", str(out), "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fedjax_rec.experiment.main", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    )
    try:
        end = time.time() + 120
        file = out / "metrics.jsonl"
        while time.time() < end and not (file.is_file() and file.read_text().count("\n") > 6):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    (line,) = errors.splitlines()
    assert "stopped after round" in line
    done = len(records(out))
    assert run(place, "process", f"--rounds={done + 1}") == 0
    found = records(out)
    assert [r["round"] for r in found] == list(range(1, done + 2))
    assert found[:5] == records(straight)


def test_compressed_runs_resume_audit_and_count_both_ways(place, without_figures, monkeypatch):
    """Error memory, and what the server has broadcast, are in the checkpoints."""
    part = lambda name, **arguments: {"class_path": f"fedjax_rec.compress.{name}", **(
        {"init_args": arguments} if arguments else {})}  # fmt: skip
    strategy = {
        "class_path": "fedjax_rec.strategies.fedmf",
        "init_args": {
            "uplink": part("error_feedback", compressor=part("top_k", fraction=0.2), rows=9),
            "downlink": part("cast"),
        },
    }
    write_config(place / "small.yaml", place / "tiny", strategy=strategy, audit=3)
    words = ["run", str(place / "small.yaml"), "--quiet", "--out"]
    assert main([*words, str(place / "compressed")]) == 0
    with monkeypatch.context() as patch:
        disturb(patch, 4, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert main([*words, str(place / "stopped small")]) == 130
    assert main([*words, str(place / "stopped small")]) == 0
    found, summary, _ = results(place / "compressed")
    assert results(place / "stopped small") == results(place / "compressed")
    assert summary["audit"]["clients"] == 3
    assert summary["audit"]["message"] == summary["audit"]["ledger"] > 0
    for record in found:
        assert record["bytes_up_per_client"] == record["bytes_up"] / 20
        assert record["bytes_down_per_client"] == record["bytes_down"] / 20


def test_a_run_starts_from_another(place):
    assert run(place, "first") == 0
    start = "--start_from", str(place / "first")
    assert run(place, "second", *start, "--rounds", "1") == 0
    first, second = (records(place / name)[0] for name in ("first", "second"))
    assert second["loss"] < first["loss"]
    assert run(place, "second", "--rounds", "1") == 2, "another configuration"
    # What it began with is the state after the best round, not the last.
    best = jax.tree_util.tree_leaves_with_path(load_run(place / "first").best.shared)
    begun = simulate.parameters(place / "first").shared
    assert best and len(best) == len(begun)
    for path, x in best:
        np.testing.assert_array_equal(begun[jax.tree_util.keystr(path)], x)


def test_a_start_that_is_no_run_is_named(place, capsys):
    assert run(place, "nowhere", "--start_from", str(place / "missing")) == 2
    line = capsys.readouterr().err.strip()
    assert line.count("\n") == 0 and "start_from=" in line and "no run with a checkpoint" in line
    assert not (place / "nowhere").exists()
    assert run(place, "first") == 0
    start = "--start_from", str(place / "first")
    assert run(place, "nowhere", *start, "--model.width", "5") == 2
    line = capsys.readouterr().err.strip()
    assert line.count("\n") == 0 and "start_from=" in line and "to start from [40, 4]" in line
    assert not (place / "nowhere").exists()
