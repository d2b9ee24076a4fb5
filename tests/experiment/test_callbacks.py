"""Callbacks of runs: what they are told, that they end a run, and what their failures leave.

Every run trains 60 users on 40 items, with the same compiled programs.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_data import timeless, write_config, write_folder

import fedjax_rec as fr
from fedjax_rec.experiment import config as configuration
from fedjax_rec.experiment import playing, sweep
from fedjax_rec.experiment.factories import ConfigError
from fedjax_rec.experiment.folder import RunFolder
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.runs import read_runs
from fedjax_rec.report import figures
from fedjax_rec.simulate import CallbackError, Stop

pytestmark = pytest.mark.usefixtures("compiled_fast")
METRIC, PATIENCE, DELTA = "validation_mrr", 3, 5e-4
ROUNDS = 9


def rule(**more):
    arguments = {"metric": METRIC, "patience": PATIENCE, "min_delta": DELTA, **more}
    return {"class_path": "fedjax_rec.callbacks.early_stopping", "init_args": arguments}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("callbacks")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"), rounds=ROUNDS)
    raw = yaml.safe_load((place / "tiny.yaml").read_text())
    (place / "early.yaml").write_text(yaml.safe_dump({**raw, "callbacks": [rule()]}))
    return place


@pytest.fixture(autouse=True)
def quick(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])


@pytest.fixture(scope="module")
def whole(place):
    """A run of all rounds, without callbacks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        assert run(place, "whole", config="tiny.yaml") == 0
    return place / "whole"


def run(place, out, *words, config="early.yaml") -> int:
    return main(["run", str(place / config), "--quiet", "--out", str(place / out), *words])


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def expected(records: list[dict], patience: int = PATIENCE, delta: float = DELTA) -> int:
    """The round in which a run stops, by a loop that keeps its own count."""
    best, waited = -1.0, 0
    for record in records:
        if record[METRIC] > best + delta:
            best, waited = record[METRIC], 0
        else:
            waited += 1
        if waited == patience:
            return record["round"]
    raise AssertionError("these numbers never stop; choose others")


def test_a_callback_is_told_what_is_written(place):
    seen = []

    def mine(progress):
        on_disk = timeless(place / "told")
        seen.append((progress, int(progress.state.round), len(progress.records), on_disk))

    changes = {"rounds": 3, "out": place / "told", "show": False, "callbacks": [mine]}
    done = fr.run(place / "tiny.yaml", **changes)
    assert [one.round for one, *_ in seen] == [at for _, at, *_ in seen] == [1, 2, 3]
    lines = (done.path / "metrics.jsonl").read_text().splitlines()
    assert [one.metrics for one, *_ in seen] == list(map(json.loads, lines))
    assert [n for _, _, n, _ in seen] == [1, 2, 3] == [len(held) for *_, held in seen]
    assert seen[0][0].config == done.config and seen[0][0].folder == done.path


def test_early_stopping_ends_in_the_round_of_its_rule(place, whole, capsys):
    at = expected(timeless(whole))
    assert 3 < at < ROUNDS
    assert run(place, "stopped") == 0
    told = summary(place / "stopped")
    assert timeless(place / "stopped") == timeless(whole)[:at]
    assert told["stopped"]["round"] == told["totals"]["rounds"] == at
    assert told["stopped"]["by"] == "early_stopping" and METRIC in told["stopped"]["reason"]
    assert told["best"] == max(told_records(place / "stopped"), key=lambda r: r["validation_hr@5"])
    assert fr.load_run(place / "stopped").state.round == at
    capsys.readouterr()
    assert run(place, "stopped", f"--rounds={ROUNDS + 5}") == 0  # it would end there as well
    assert f"has ended: early_stopping stopped it after round {at}" in capsys.readouterr().err
    assert timeless(place / "stopped") == timeless(whole)[:at]
    # With other callbacks it goes on to the numbers of a run that was never stopped.
    assert run(place, "stopped", "--callbacks=[]") == 0
    assert timeless(place / "stopped") == timeless(whole)
    assert "stopped" not in summary(place / "stopped")


def told_records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("when", ["before", "at", "between"])
def test_a_killed_run_stops_in_the_same_round(place, whole, monkeypatch, when):
    """Killed a round before the stop, as its record is written, or before its summary is."""
    at, name = expected(timeless(whole)), f"killed {when}"

    def kill(*_):
        raise KeyboardInterrupt

    append = RunFolder.append
    with monkeypatch.context() as patch:
        if when == "between":
            patch.setattr(RunFolder, "write_summary", kill)
        else:
            last = at - 1 if when == "before" else at
            patch.setattr(
                RunFolder, "append",
                lambda self, r: kill() if r["round"] == last else append(self, r),
            )  # fmt: skip
        assert run(place, name) == 130
    assert not (place / name / "summary.json").exists()
    assert run(place, name) == 0
    assert timeless(place / name) == timeless(whole)[:at]
    assert summary(place / name)["stopped"]["round"] == at


def test_a_callback_that_raises_is_named_and_the_run_goes_on_from_there(place, whole):
    def fragile(progress):
        if progress.round == 4:
            raise OSError("the line is down")

    given = {"rounds": 6, "out": place / "fragile", "show": False}
    with pytest.raises(CallbackError, match=r"callback fragile failed after round 4: OSError: the"):
        fr.run(place / "tiny.yaml", callbacks=[fragile], **given)
    done = fr.run(place / "tiny.yaml", **given)
    assert timeless(done.path) == timeless(whole)[:6]
    with pytest.raises(CallbackError, match="it returned True; return None"):
        fr.run(place / "tiny.yaml", callbacks=[lambda progress: True], **given | {"rounds": 7})


def test_a_stop_of_a_function_and_of_simulate(place):
    def third(progress):
        return Stop("enough") if progress.round == 3 else None

    given = {"out": place / "third", "show": False, "callbacks": [third]}
    done = fr.run(place / "tiny.yaml", **given)
    assert done.summary["stopped"]["reason"] == "enough" and done.metrics.height == 3
    assert fr.run(place / "tiny.yaml", **given).metrics.height == 3
    experiment = done.experiment
    key = fr.experiment.run.jax.random.key(0)
    rounds = fr.simulate.simulate(
        experiment.strategy, experiment.dataset.store, 5, key, done.read_config.cohorts,
        experiment.measure, callbacks=[third],
    )  # fmt: skip
    assert [(one.round, one.stop) for one in rounds] == [(1, None), (2, None), (3, Stop("enough"))]


def test_what_is_to_be_closed_is_left_with_what_went_wrong(place):
    seen = []

    class Held:
        name = "held"

        def __enter__(self):
            seen.append("entered")

        def __call__(self, progress):
            seen.append(progress.round)

        def __exit__(self, kind, *_):
            seen.append(kind)

    given = {"rounds": 1, "out": place / "held", "show": False}
    fr.run(place / "tiny.yaml", callbacks=[Held()], **given)
    assert seen == ["entered", 1, None]
    with pytest.raises(CallbackError):
        fr.run(place / "tiny.yaml", callbacks=[Held(), lambda p: 1], **given | {"rounds": 2})
    assert seen[3:] == ["entered", 2, CallbackError]


def test_runs_of_a_sweep_stop_each_by_itself_and_are_not_played_again(place, monkeypatch):
    axes = {"strategy.item_learning_rate": [1.0, 50.0]}
    given = f"--callbacks={json.dumps([rule(patience=2, min_delta=0.01)])}"
    runs = sweep.trials(place / "tiny.yaml", axes, place / "swept", [given])
    ended = sweep.run_sweep(runs, place / "swept", 2)
    assert [one.status for one in ended] == ["finished"] * 2
    for one in ended:
        assert summary(one.out)["stopped"]["round"] == expected(timeless(one.out), 2, 0.01)
    monkeypatch.setattr(playing, "carry_out", lambda *_, **__: pytest.fail("played again"))
    sweep.run_sweep(runs, place / "swept", 2)


@pytest.mark.parametrize(
    ("callbacks", "told"),
    [
        ([rule(metric="mrr")], "is not of the validation part"),
        ([rule(patience=0)], "patience=0"),
        ([rule(min_delta=-1.0)], "min_delta=-1.0"),
        ([rule(patience="long")], "patience=long is of the wrong type"),
        ([rule(patienc=3)], "callbacks[0].init_args.patienc is no key"),
        ([rule(), "early_stoping"], "callbacks[1].class_path='fedjax_rec.callbacks.early_stoping'"),
        ([{"class_path": "early_stopping"}], "metric"),
        ([{"init_args": {}}], "names no factory"),
        (rule(), "is no list"),
        (["os.getcwd"], "gives str, which is no function"),
    ],
)
def test_bad_callbacks_are_refused_in_one_line(place, callbacks, told):
    with pytest.raises(ConfigError) as error:
        configuration.read(place / "tiny.yaml", {"callbacks": callbacks})
    assert told in str(error.value) and "\n" not in str(error.value)


def test_a_metric_that_is_not_measured_is_refused_with_those_that_are(place, capsys):
    words = f"--callbacks={json.dumps([rule(metric='validation_ndcg@5')])}"
    assert run(place, "unmeasured", words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "'validation_ndcg@5' is not measured; use one of validation_hr@5, validation_mrr" in line
    shutil.rmtree(place / "unmeasured")


def test_a_file_of_runs_has_callbacks_under_set_alone(place, tmp_path):
    file = tmp_path / "runs.yaml"
    raw = {"runs": [str(place / "tiny.yaml")], "callbacks": [rule()]}
    file.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=r"runs.yaml: callbacks are keys of a configuration"):
        read_runs(file)
    file.write_text(yaml.safe_dump({"runs": raw["runs"], "set": {"callbacks": [rule()]}}))
    (one,) = read_runs(file).runs
    read = configuration.read(one.config, one.options())
    assert read.plain["callbacks"] == [rule()] and len(read.callbacks) == 1
