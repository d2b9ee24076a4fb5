"""Sweeps as jobs of clusters: submitit's on this machine, and a Ray cluster of this machine.

Runs of two widths, so two groups; a run kills the process that plays it.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest
from small_data import write_config, write_folder

from fedjax_rec.experiment import sweep
from fedjax_rec.experiment.clusters import Jobs, in_jobs, jobs_of
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.swept import Ended

if find_spec("submitit"):
    import submitit  # noqa: F401  its loggers take the streams that are there when it is imported

pytestmark = pytest.mark.usefixtures("compiled_fast")
ROOT = Path(__file__).resolve().parents[2]
RATE = "strategy.item_learning_rate"
AXES = {"model.width": [2, 4], RATE: [1.0, 5.0]}
DEADLY = '''
import os, pathlib, signal

def deadly(notes: str, width: int, rate: float):
    """Kills the process of one of the runs as it is measured after round 2, the first time."""
    def callback(progress):
        config = progress.config
        mine = config["model"]["init_args"]["width"] == width
        mine &= config["strategy"]["init_args"]["item_learning_rate"] == rate
        note = pathlib.Path(notes)
        if mine and progress.round == 2 and not note.exists():
            note.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
    return callback
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("clusters")
    source = write_folder(place / "tiny")
    write_config(place / "tiny.yaml", source, rounds=3, checkpoint_every=1)
    (place / "deadly_jobs.py").write_text(DEADLY)
    return place


@pytest.fixture(autouse=True)
def quick(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setenv("PYTHONPATH", f"{place}:{ROOT}")
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    monkeypatch.syspath_prepend(place)


@pytest.fixture(scope="module")
def expected(place):
    """The table of the sweep in this process."""
    sweep.run_sweep(sweep.trials(place / "tiny.yaml", AXES, place / "here"), place / "here", 1)
    return table(place / "here")


def table(out) -> pl.DataFrame:
    return pl.read_parquet(out / "sweep.parquet").drop("seconds", "folder")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_lost_job_costs_its_runs_another(place, expected, engine):
    if find_spec("ray" if engine == "ray" else "submitit") is None:
        pytest.skip(f"{engine} needs an extra")
    out, note = place / engine, place / f"{engine} died"
    arguments = {"notes": str(note), "width": 4, "rate": 1.0}
    section = {"class_path": "deadly_jobs.deadly", "init_args": arguments}
    words = [f"--callbacks={json.dumps([section])}"]
    runs = sweep.trials(place / "tiny.yaml", AXES, out, words)
    options = {"runs_per_job": 1} | ({"num_cpus": 1} if engine == "ray" else {})
    ended = sweep.run_sweep(runs, out, 1, jobs=jobs_of(engine, out, options))
    assert [one.status for one in ended] == ["finished"] * 4
    assert note.exists() and table(out).equals(expected)


class Script:
    """An engine that answers as it is told: lines are lost jobs, None is one that goes on."""

    def __init__(self, *answers):
        self.answers, self.jobs, self.cancelled = list(answers), [], []
        self.engine = Jobs(self.submit, self.poll, self.cancelled.append, size=2, pause=0)

    def submit(self, job):
        self.jobs.append([Path(run["out"]).name for run in job["runs"]])
        return len(self.jobs) - 1

    def poll(self, handle):
        told = self.answers.pop(0)
        if told != "done":
            return told
        names = self.jobs[handle]
        return [{"out": str(PLACE / name), "status": "finished", "error": ""} for name in names]


PLACE = Path("/tmp/none").resolve()


class Run:
    """What `in_jobs` looks at of a trial."""

    def __init__(self, name):
        self.out, self.point, self.config = PLACE / name, {"name": name}, Plain()
        self.until = None


class Plain:
    plain, name = {"rounds": 1}, "run"


def play(script, names, finished=(), stops=()):
    runs = [Run(name) for name in names]
    done = lambda run: Ended(run.point, run.out, "finished") if run.out.name in finished else None
    return list(in_jobs(runs, PLACE, script.engine, 1, [], list(stops), done))


@pytest.fixture
def one_group(monkeypatch):
    monkeypatch.setattr("fedjax_rec.experiment.clusters.groups", lambda runs: {"": runs})


def test_jobs_are_of_so_many_runs_at_most(one_group):
    script = Script(None, "done", None, "done")
    ended = play(script, "abc")
    assert script.jobs == [["a", "b"], ["c"]]
    assert sorted((one.out.name, one.status) for one in ended) == [
        ("a", "finished"), ("b", "finished"), ("c", "finished"),
    ]  # fmt: skip


def test_what_a_lost_job_finished_is_not_played_again(one_group):
    script = Script("out of memory", "done")
    ended = play(script, "ab", finished="a")
    assert script.jobs == [["a", "b"], ["b"]]
    assert {one.out.name: one.status for one in ended} == {"a": "finished", "b": "finished"}


def test_jobs_that_are_lost_twice_have_failed(one_group):
    script = Script("out of memory", "out of memory")
    failed = play(script, "ab")
    assert script.jobs == [["a", "b"]] * 2
    assert {one.status for one in failed} == {"failed"}
    assert "lost twice (out of memory); the same command tries again" in failed[0].error
    assert isinstance(failed[0], Ended)


def test_a_stop_cancels_what_goes_on(one_group):
    script = Script()
    with pytest.raises(Exception, match="stopped"):
        play(script, "abc", stops=[None])
    assert script.cancelled == [0, 1]


def test_wrong_words(place, capsys, monkeypatch):
    command = ["sweep", str(place / "tiny.yaml"), f"--sweep.{RATE}=[1,2]", "--out"]
    wrong = lambda *words: (main([*command, str(place / "wrong"), *words]), capsys.readouterr().err)
    status, told = wrong("--cluster", "slrum")
    assert status == 2 and "did you mean 'slurm'" in told
    assert "--cluster.timeout_min needs --cluster" in wrong("--cluster.timeout_min", "3")[1]
    assert "runs_per_job=0" in wrong("--cluster", "local", "--cluster.runs_per_job", "0")[1]
    if find_spec("submitit"):
        assert "no_such" in wrong("--cluster", "local", "--cluster.no_such", "1")[1]
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "submitit is not installed" in wrong("--cluster", "local")[1]
