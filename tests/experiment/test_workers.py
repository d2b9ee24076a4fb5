"""Sweeps in several processes: the same table as in one, whoever of them is killed.

Runs of two widths, so two groups, train 60 users on 40 items for three rounds.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml
from small_data import write_config, write_folder

from fedjax_rec.experiment import sweep
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

pytestmark = pytest.mark.usefixtures("compiled_fast")
ROOT = Path(__file__).resolve().parents[2]
RATE = "strategy.item_learning_rate"
AXES = {"model.width": [2, 4], RATE: [1.0, 5.0]}
DEADLY = '''
import os, pathlib, signal

def deadly(notes: str, width: int, rate: float, times: int):
    """Kills the process of one of the runs as it is measured after round 2, so many times."""
    def callback(progress):
        config = progress.config
        mine = config["model"]["init_args"]["width"] == width
        mine &= config["strategy"]["init_args"]["item_learning_rate"] == rate
        here = pathlib.Path(notes)
        with open(here / "told", "a") as file:
            file.write(f"{progress.folder.name} {progress.round} {os.getpid()}\\n")
        if mine and progress.round == 2 and len(list(here.glob("death*"))) < times:
            (here / f"death{len(list(here.glob('death*')))}").write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    return callback
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("workers")
    source = write_folder(place / "tiny")
    write_config(place / "tiny.yaml", source, rounds=3, checkpoint_every=1)
    (place / "deadly_lab.py").write_text(DEADLY)
    return place


@pytest.fixture(autouse=True)
def quick(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{place}:{ROOT}")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(figures, "draw_all", lambda run: [])


def swept(place, name: str, times: int):
    """A sweep in two processes, of which the run of width 4 and rate 1 kills its own."""
    notes = place / f"notes {name}"
    notes.mkdir()
    arguments = {"notes": str(notes), "width": 4, "rate": 1.0, "times": times}
    section = {"class_path": "deadly_lab.deadly", "init_args": arguments}
    words = [f"--callbacks={json.dumps([section])}"]
    runs = sweep.trials(place / "tiny.yaml", AXES, place / name, words)
    told: list = []
    ended = sweep.run_sweep(runs, place / name, 2, told.append, processes=2)
    assert sorted(one.out for one in told) == sorted(one.out for one in runs)
    return ended, [line.split() for line in (notes / "told").read_text().splitlines()]


def table(place, name) -> pl.DataFrame:
    return pl.read_parquet(place / name / "sweep.parquet").drop("seconds", "folder")


def test_a_worker_that_is_killed_costs_its_group_another_and_nothing_else(place):
    runs = sweep.trials(place / "tiny.yaml", AXES, place / "one process")
    sweep.run_sweep(runs, place / "one process", 1)
    ended, calls = swept(place, "killed", times=1)
    assert [one.status for one in ended] == ["finished"] * 4
    assert table(place, "killed").equals(table(place, "one process"))
    of = {folder: [(int(r), pid) for name, r, pid in calls if name == folder]
          for folder in {name for name, *_ in calls}}  # fmt: skip
    assert len(of) == 4
    processes = {name: {pid for _, pid in told} for name, told in of.items()}
    # The group that was not hit was played by one process, each round once.
    spared = [name for name in of if "width=2" in name]
    assert len(set.union(*(processes[name] for name in spared))) == 1
    assert all([r for r, _ in of[name]] == [1, 2, 3] for name in spared)
    # What was hit went on from its checkpoint in another process, and not from the start.
    assert [r for r, _ in of["width=4,item_learning_rate=1-0"]] == [1, 2, 2, 3]
    assert len(processes["width=4,item_learning_rate=1-0"]) == 2
    assert os.getpid() not in {int(pid) for *_, pid in calls}


def test_a_group_that_loses_two_has_failed_and_the_others_have_not(place):
    ended, _ = swept(place, "lost", times=2)
    status = {(one.point["model.width"], one.point[RATE]): one.status for one in ended}
    assert status[2, 1.0] == status[2, 5.0] == "finished" and status[4, 1.0] == "failed"
    (error,) = {one.error for one in ended if one.status == "failed"}
    assert "its process ended with status -9, twice" in error


@pytest.mark.parametrize("ends_by", ["SIGKILL", "SIGINT"])
def test_whose_sweep_is_killed_stops_and_lets_the_next_go_on(place, ends_by):
    """The one who began the processes is killed, or stopped: they stop after their rounds, and the
    same command ends the sweep."""
    raw = yaml.safe_load((place / "tiny.yaml").read_text()) | {"rounds": 400}
    (place / "long.yaml").write_text(yaml.safe_dump({**raw, "sweep": {"model.width": [2, 4]}}))
    out = place / f"orphans {ends_by}"
    words = ["sweep", str(place / "long.yaml"), "--out", str(out), "--processes", "2", "--quiet"]
    first = subprocess.Popen(
        [sys.executable, "-m", "fedjax_rec.experiment.main", *words],
        cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    records = lambda: {file: len(file.read_text().splitlines()) for file in
                       out.glob("*/metrics.jsonl")}  # fmt: skip
    end = time.time() + 120
    while time.time() < end and not (len(records()) == 2 and min(records().values()) > 4):
        time.sleep(0.1)
    first.send_signal(signal.Signals[ends_by])
    if ends_by == "SIGINT":
        _, errors = first.communicate(timeout=60)
        assert first.returncode == 130
        assert errors == "fedjax-rec: stopped; the same command goes on from there.\n"
    first.wait()
    done = records()
    assert len(done) == 2 and max(done.values()) < 400
    words += ["--rounds", str(max(done.values()) + 40)]
    assert main(words) == 0
    for file in done:
        rounds = [json.loads(line)["round"] for line in file.read_text().splitlines()]
        assert rounds == list(range(1, max(done.values()) + 41))
