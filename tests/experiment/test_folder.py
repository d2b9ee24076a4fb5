"""Run folders: never corrupt, never another run's, resumable after a kill at any byte."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from fedjax_rec.experiment.folder import RunFolder, fingerprint

PLAIN = {"name": None, "rounds": 5, "threads": 1, "checkpoint_every": 2, "audit": 0,
         "seed": 0,         "data": {"source": "ml-100k", "core": 0}}  # fmt: skip


def changed(**changes) -> dict:
    return {**PLAIN, **changes}


def begun(path, plain=PLAIN, overwrite=False) -> RunFolder:
    folder = RunFolder(path, plain, overwrite)
    folder.begin()
    folder.release()
    return folder


def record(n: int) -> dict:
    return {"round": n, "loss": 1 / n}


SUMS = RunFolder.sums([record(n) for n in (1, 2, 3)])


@pytest.fixture
def full_disk(monkeypatch):
    """Makes writing files whole fail half way, as a full disk does."""

    def fill():
        def half(self, data):
            with open(self, "wb") as file:
                file.write(data[: len(data) // 2])
            raise OSError(28, "No space left on device", str(self))

        monkeypatch.setattr(Path, "write_bytes", half)

    return fill


def test_nothing_is_written_before_begin(tmp_path):
    RunFolder(tmp_path / "new", PLAIN)
    assert not (tmp_path / "new").exists()


def test_the_configuration_is_kept(tmp_path):
    begun(tmp_path / "a" / "b")
    assert yaml.safe_load((tmp_path / "a" / "b" / "config.yaml").read_text()) == PLAIN
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} - {".lock"} == {"config.yaml"}


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path, PLAIN)
    folder.begin()
    folder.append(record(1))
    with pytest.raises(ValueError, match="another process runs there; wait for it") as error:
        RunFolder(tmp_path, PLAIN, overwrite=True).begin()
    assert "\n" not in str(error.value)
    assert folder.records(SUMS[:1]) == [record(1)], "nothing was cleared"
    folder.release()
    begun(tmp_path)


def test_what_ran_there_meanwhile_is_not_overwritten(tmp_path):
    late = RunFolder(tmp_path / "a", changed(seed=1))
    begun(tmp_path / "a").append(record(1))
    with pytest.raises(ValueError, match="different: seed"):
        late.begin()
    assert begun(tmp_path / "a").records(SUMS[:1]) == [record(1)]


def test_a_folder_that_was_only_locked_is_empty(tmp_path):
    (tmp_path / ".lock").touch()
    begun(tmp_path)


@pytest.mark.parametrize("key", ["rounds", "checkpoint_every", "audit", "name", "threads"])
def test_keys_that_change_no_number_may_change(tmp_path, key):
    begun(tmp_path)
    other = changed(**{key: 7})
    assert fingerprint(other) == fingerprint(PLAIN)
    begun(tmp_path, other)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())[key] == 7


def test_another_configuration_is_refused_and_named(tmp_path):
    begun(tmp_path).append(record(1))
    other = changed(seed=1, data={"source": "ml-1m", "core": 0})
    with pytest.raises(ValueError) as error:
        RunFolder(tmp_path, other)
    told = str(error.value)
    assert "\n" not in told and "different: data.source, seed" in told and "--overwrite" in told
    assert begun(tmp_path).records(SUMS[:1]) == [record(1)]


def test_overwrite_clears_what_a_run_wrote_and_nothing_else(tmp_path):
    folder = begun(tmp_path)
    folder.append(record(1))
    folder.write_summary({})
    folder.write_per_user(values=np.zeros(2))
    folder.write_predictions(logits=np.zeros(2))
    for name in ("checkpoints/4", "figures"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "notes.txt").write_text("mine")
    other = RunFolder(tmp_path, changed(seed=1), overwrite=True)
    assert folder.finished  # Still there: the new run has not begun.
    other.begin()
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == {"config.yaml", "notes.txt"}
    assert not other.finished and other.records([]) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_folder_is_refused(tmp_path, overwrite):
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    for name in ("file", "full"):
        with pytest.raises(ValueError, match=r"exists and is no run folder"):
            RunFolder(tmp_path / name, PLAIN, overwrite)
    (tmp_path / "empty").mkdir()
    begun(tmp_path / "empty")


@pytest.mark.parametrize("text", ["", "[1", "3"])
def test_an_unreadable_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml cannot be read.*--overwrite"):
        RunFolder(tmp_path, PLAIN)
    begun(tmp_path, overwrite=True)


def test_what_stands_after_the_checkpoint_is_cut_off_at_every_byte(tmp_path):
    folder = begun(tmp_path)
    lines = [json.dumps(record(n)) + "\n" for n in (1, 2, 3)]
    for cut in range(len(lines[2])):
        (tmp_path / "metrics.jsonl").write_text("".join(lines[:2]) + lines[2][:cut])
        kept = folder.records(SUMS[:2])
        assert kept == [record(1), record(2)]
        again = RunFolder(tmp_path, PLAIN)
        again.begin(kept)
        again.append(record(4))
        again.release()
        read = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in read] == [*kept, record(4)]


DAMAGE = {
    "a flipped bit": (2, lambda text: text.replace("0.5", "0.7")),
    "a blank line": (2, lambda text: text.replace("\n", "\n\n", 1)),
    "a lost line": (2, lambda text: "".join(text.splitlines(True)[::2])),
    "half a line": (2, lambda text: text.splitlines(True)[0] + '{"round": 2, "lo'),
    "no last line": (3, lambda text: "".join(text.splitlines(True)[:2])),
    "no text": (1, lambda text: "\udcff" + text),
    "nothing": (1, lambda text: ""),
    "no file": (1, lambda text: None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_before_the_checkpoint_is_named_and_nothing_rewritten(tmp_path, damage):
    folder = begun(tmp_path)
    for n in (1, 2, 3):
        folder.append(record(n))
    assert folder.records(SUMS) == [record(1), record(2), record(3)]
    file = tmp_path / "metrics.jsonl"
    line, change = DAMAGE[damage]
    text = change(file.read_text())
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"metrics\.jsonl:{line}: .*--overwrite true") as error:
        folder.records(SUMS)
    assert "\n" not in str(error.value)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_arrays_and_summary_read_back(tmp_path):
    folder = begun(tmp_path)
    assert not folder.finished
    folder.write_per_user(values=np.float32([[0.5, np.nan]]), metrics=np.array(["hr@5", "mrr"]))
    folder.write_summary({"best": 1})
    assert folder.finished and json.loads((tmp_path / "summary.json").read_text()) == {"best": 1}
    with np.load(tmp_path / "per_user.npz") as stored:
        np.testing.assert_array_equal(stored["values"], np.float32([[0.5, np.nan]]))
        assert stored["metrics"].tolist() == ["hr@5", "mrr"]


def test_a_full_disk_leaves_files_as_they_were(tmp_path, full_disk, monkeypatch):
    folder = begun(tmp_path)
    folder.append(record(1))
    folder.write_summary({"best": 1})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    full_disk()

    def half(file, **arrays):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", half)
    for write in (
        lambda: folder.write_summary({"best": 2}),
        lambda: folder.write_per_user(values=np.zeros(3)),
        folder.begin,
    ):
        with pytest.raises(OSError, match="No space left"):
            write()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_a_full_disk_kept_from_beginning_can_be_used_later(
    tmp_path, full_disk, monkeypatch
):
    with monkeypatch.context():
        full_disk()
        with pytest.raises(OSError, match="No space left"):
            begun(tmp_path / "new")
        monkeypatch.undo()
    begun(tmp_path / "new")


def test_what_was_not_measured_is_null_in_the_file_and_nan_again_when_read(tmp_path):
    folder = begun(tmp_path / "run")
    folder.append({"round": 1, "loss": 0.5, "hr@10": float("nan")})
    line = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert json.loads(line) == {"round": 1, "loss": 0.5, "hr@10": None} and "NaN" not in line
    (again,) = folder.records(folder.sums([{"round": 1, "loss": 0.5, "hr@10": float("inf")}]))
    assert np.isnan(again["hr@10"])
    folder.write_summary({"best": {"hr@10": float("nan")}})
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == {"best": {"hr@10": None}}
