"""Trackers: what a library reads back is what the run measured, each round once, over a kill."""

import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_data import write_config, write_folder

from fedjax_rec import callbacks
from fedjax_rec.callbacks.tracker import PACKAGES, flat
from fedjax_rec.experiment.folder import RunFolder
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures
from fedjax_rec.simulate import CallbackError, Progress, attending, told

CONFIG = {
    "rounds": 5,
    "model": {"class_path": "fedjax_rec.models.fedmf", "init_args": {"width": 4}},
    "evaluation": {"metrics": ["hr@5"], "fit": None},
}


def needs(module: str, extra: str):
    there = importlib.util.find_spec(module) is not None
    reason = f"{module} is not installed; pip install 'fedjax-rec[{extra}]'"
    return pytest.mark.skipif(not there, reason=reason)


def measured(round: int) -> dict:
    return {"round": round, "loss": 1.0 / round, "hr@5": round / 8, "gone": float("nan")}


def track(tracker, folder: Path, rounds, fails: bool = False):
    """Tells `tracker` of rounds; where it `fails`, the run is cut short after them."""
    folder.mkdir(exist_ok=True)
    try:
        with attending([tracker]):
            for round in rounds:
                of = measured(round)
                told([tracker], Progress(round, None, of, {}, config=CONFIG, folder=folder))
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass


def events(folder: Path):
    """The events of TensorBoard, in order: length, its CRC, the event, its CRC."""
    from tensorboardX.proto import event_pb2

    found = []
    for file in sorted(folder.glob("events.*"), key=lambda file: file.stat().st_mtime_ns):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + length]))
            at += 16 + length
    return found


def scalars(folder: Path, tag: str) -> dict[int, float]:
    """step -> value, as TensorBoard shows it: a restarted writer takes back what it overtakes."""
    from tensorboardX.proto import event_pb2

    shown: dict[int, float] = {}
    for event in events(folder):
        if event.session_log.status == event_pb2.SessionLog.START:
            shown = {step: x for step, x in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == tag:
                assert event.step not in shown, "a step that is there twice"
                shown[event.step] = value.simple_value
    return shown


@needs("tensorboardX", "tensorboard")
def test_tensorboard_has_each_round_once_and_the_configuration(tmp_path):
    from tensorboardX.proto import plugin_hparams_pb2

    run = tmp_path / "run"
    track(callbacks.tensorboard(), run, [1, 2, 3, 4], fails=True)
    track(callbacks.tensorboard(), run, [3, 4, 5])  # from the checkpoint of round 2
    shown = scalars(run / "tensorboard", "hr_at_5")
    assert shown == {r: pytest.approx(r / 8) for r in range(1, 6)}
    values = [v for event in events(run / "tensorboard") for v in event.summary.value]
    assert "gone" not in {v.tag for v in values}
    (first, *_) = [v for v in values if v.tag == "_hparams_/session_start_info"]
    held = plugin_hparams_pb2.HParamsPluginData.FromString(first.metadata.plugin_data.content)
    hparams = held.session_start_info.hparams
    assert hparams["model.width"].number_value == 4 and hparams["rounds"].number_value == 5
    assert hparams["model.class_path"].string_value == "fedjax_rec.models.fedmf"


@needs("tensorboardX", "tensorboard")
def test_a_run_and_its_command_write_what_they_measure(tmp_path, monkeypatch, compiled_fast):
    monkeypatch.setattr(figures, "draw_all", lambda run: [])
    config = write_config(tmp_path / "a.yaml", write_folder(tmp_path / "tiny"), rounds=2)
    raw = yaml.safe_load(config.read_text()) | {"callbacks": ["tensorboard"]}
    config.write_text(yaml.safe_dump(raw))
    out = tmp_path / "run"
    for words in ([], ["--rounds=3"]):
        assert main(["run", str(config), "--quiet", "--out", str(out), *words]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    shown = scalars(out / "tensorboard", "validation_hr_at_5")
    assert shown == {r["round"]: pytest.approx(r["validation_hr@5"]) for r in lines}
    assert sorted(shown) == [1, 2, 3]


@needs("mlflow", "mlflow")
def test_mlflow_goes_on_in_one_run(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri, run = (tmp_path / "store").as_uri(), tmp_path / "run"
    client = mlflow.MlflowClient(uri)
    tracker = lambda: callbacks.mlflow("ours", uri)
    track(tracker(), run, [1, 2, 3], fails=True)
    (experiment,) = [one for one in client.search_experiments() if one.name == "ours"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "KILLED"
    track(tracker(), run, [3, 4])
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["model.width"] == "4"
    history = client.get_metric_history(found.info.run_id, "hr_at_5")
    assert {(one.step, one.value) for one in history} == {(r, r / 8) for r in (1, 2, 3, 4)}


def logged(file: Path):
    """The records of a .wandb file: after 7 bytes blocks of 32 KiB, in them pieces of records, each
    with a CRC, a length and whether it is whole (1), the first (2), inner (3) or the last (4)."""
    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


@needs("wandb", "wandb")
def test_wandb_offline_goes_on_in_one_run(tmp_path, monkeypatch):
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "run"
    track(callbacks.wandb(mode="offline"), run, [1, 2, 3], fails=True)
    track(callbacks.wandb(mode="offline"), run, [4, 5])
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime_ns)
    ids = {file.stem.removeprefix("run-") for file in files}
    assert ids == {json.loads((run / "trackers.json").read_text())["wandb"]}
    seen, config = {}, {}
    for file in files:
        for data in logged(file):
            record = wandb_internal_pb2.Record.FromString(data)
            config |= {one.key: one.value_json for one in record.run.config.update}
            row = {i.key or i.nested_key[0]: i.value_json for i in record.history.item}
            if row:
                seen[int(row["_step"])] = float(row["hr@5"])
    assert seen == {r: r / 8 for r in range(1, 6)}
    assert json.loads(config["model.width"]) == 4


@pytest.mark.parametrize(
    ("module", "name"), [("tensorboardX", "tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")]
)
def test_a_library_that_is_missing_is_said_before_the_first_round(monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    tracker = getattr(callbacks, name)()
    with pytest.raises(CallbackError) as error, attending([tracker]):
        pytest.fail("it began")
    line = str(error.value)
    assert f"callback {name} could not begin: needs the library {module} (" in line
    assert line.endswith(f"; pip install {PACKAGES.get(name, name)}.") and "\n" not in line


def test_the_room_imports_none_of_them():
    names = "{'wandb', 'mlflow', 'tensorboardX'}"
    code = f"import sys, fedjax_rec.callbacks; print({names} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@needs("tensorboardX", "tensorboard")
def test_a_tracker_without_a_folder_asks_for_one():
    with pytest.raises(CallbackError, match="folder=None is the folder of the run"):
        told([callbacks.tensorboard()], Progress(1, None, measured(1), {}))


def test_configurations_are_flat_by_the_keys_of_the_command_line():
    assert flat(CONFIG) == {
        "rounds": 5, "model.class_path": "fedjax_rec.models.fedmf", "model.width": 4,
        "evaluation.metrics": '["hr@5"]', "evaluation.fit": None,
    }  # fmt: skip


def test_a_run_that_is_overwritten_is_another_to_its_trackers(tmp_path):
    folder = RunFolder(tmp_path / "run", {"seed": 0})
    folder.begin([])
    (folder.path / "trackers.json").write_text("{}")
    (folder.path / "tensorboard").mkdir()
    folder.release()
    RunFolder(tmp_path / "run", {"seed": 0}).begin([])
    assert (folder.path / "trackers.json").exists() and (folder.path / "tensorboard").exists()
    RunFolder(tmp_path / "run", {"seed": 1}, overwrite=True).begin([])
    left = {path.name for path in folder.path.iterdir()}
    assert left == {"config.yaml", "metrics.jsonl", ".lock"}
