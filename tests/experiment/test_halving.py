"""Successive halving: rungs, who goes on from them, and that a broken one comes to the same.

Every run trains 60 users on 40 items for up to nine rounds.
"""

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from small_data import timeless, write_config, write_folder

import fedjax_rec as fr
from fedjax_rec.experiment import playing, search, sweep, trials, workers
from fedjax_rec.experiment.factories import ConfigError
from fedjax_rec.experiment.halving import Bracket, of_hyperband, rungs, who_goes_on
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.swept import of_settings

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
RATE = "strategy.item_learning_rate"
ROOT = Path(__file__).resolve().parents[2]
AXES = {RATE: "loguniform(0.1, 50)"}
HALVING = {"class_path": "successive_halving", "init_args": {"trials": 9, "shortest": 2}}
with_optuna = pytest.mark.skipif(
    importlib.util.find_spec("optuna") is None,
    reason="optuna is not installed; pip install 'fedjax-rec[optuna]'",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("halving")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"), rounds=9)
    return place


def plan(place, out, section=HALVING, axes=None, **changes):
    config = place / f"{out}.yaml"
    write_config(config, place / "tiny", **{"rounds": 9, "search": section, **changes})
    return sweep.planned(config, axes or AXES, place / out)


def halved(place, out, workers=2, told=lambda ended: None, **more):
    return sweep.run_sweep(plan(place, out, **more), place / out, workers, told)


@pytest.fixture(scope="module")
def whole(place, request):
    """(how the runs of a sweep that nobody broke ended, its folder)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(fr.report.figures, "draw_all", lambda run: [])
        return halved(place, "whole"), place / "whole"


def table(out):
    found = pl.read_parquet(out / "sweep.parquet").drop("seconds", "folder")
    return found.sort(RATE).to_dicts()


def validation(out, rounds):
    return max(one["validation_hr@5"] for one in timeless(out) if one["round"] <= rounds)


def test_rungs_brackets_and_the_sizes_of_the_paper():
    assert rungs(4, 3, 108) == (4, 12, 36, 108) and rungs(1, 2, 9) == (1, 2, 4, 8, 9)
    assert rungs(1, 2, 20, every=5) == (5, 10, 20)
    assert Bracket(27, (4, 12, 36, 108), 3).plays == 27 + 9 + 3 + 1
    assert Bracket(4, (1, 5, 25), 5).plays == 4 + 1 + 1 and Bracket(7, (9,)).plays == 7
    # Li et al., JMLR 2018, algorithm 1: n = ceil((S + 1) / (s + 1) eta^s), r = R eta^-s, R = 81.
    of_paper = [(81, 1), (34, 3), (15, 9), (8, 27), (5, 81)]
    assert [(b.settings, b.rungs[0]) for b in of_hyperband(1, 3, 81)] == of_paper
    assert all(b.rungs[-1] == 81 for b in of_hyperband(1, 3, 81))


def test_who_goes_on_against_a_sort_of_pairs():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n, eta = int(rng.integers(1, 30)), int(rng.integers(2, 5))
        values = [None if rng.random() < 0.2 else float(x) for x in rng.integers(0, 6, n) / 5]
        for lowest in (False, True):
            pairs = [(x if lowest else -x, i) for i, x in enumerate(values) if x is not None]
            expected = sorted(i for _, i in sorted(pairs)[: max(1, n // eta)])
            assert who_goes_on(values, eta, lowest) == expected
    assert who_goes_on([None, None], 2) == []


def test_the_best_go_on_and_are_as_if_they_were_trained_in_one_go(place, whole, programs):
    ended, _ = whole
    by = {one.out: len(timeless(one.out)) for one in ended}
    assert sorted(by.values()) == [2] * 6 + [6] * 2 + [9]
    first = sorted(by, key=lambda one: -validation(one, 2))[:3]
    assert {one for one, rounds in by.items() if rounds > 2} == set(first)
    (last,) = [one for one, rounds in by.items() if rounds == 9]
    assert validation(last, 6) == max(validation(one, 6) for one in first)
    # All of the population, each straight to the end: what both trained is the same to the bit.
    settings = [one.point[RATE] for one in ended]
    straight = sweep.trials(place / "tiny.yaml", {RATE: settings}, place / "straight")
    for one in sweep.run_sweep(straight, place / "straight", 2):
        (mine,) = [x.out for x in ended if x.point[RATE] == one.point[RATE]]
        assert timeless(mine) == timeless(one.out)[: by[mine]]
    assert len(programs) == 1  # of the runs trained straight; that of the others is counted below
    summary = lambda folder: json.loads((folder / "summary.json").read_text())
    mine, other = summary(last), summary(place / "straight" / last.name.replace("whole", "tiny"))
    assert mine["best"] | {"seconds": 0} == other["best"] | {"seconds": 0}
    assert mine["distribution"] == other["distribution"]


def test_the_table_tells_them_apart_and_reports_leave_them_out(whole, capsys):
    ended, out = whole
    found = pl.read_csv(out / "sweep.csv")
    assert found["status"].to_list().count("finished") == 1
    assert sorted(found.filter(pl.col("status") == "stopped")["rounds"]) == [2] * 6 + [6] * 2
    for row, one in zip(found.iter_rows(named=True), ended, strict=True):
        assert row["validation"] == validation(one.out, row["rounds"])
        records = timeless(one.out)
        assert row["bytes_up"] == sum(record["bytes_up"] for record in records)
        assert row["loss"] == records[-1]["loss"]
    by = of_settings(found, [RATE])
    assert by["stopped_after"].to_list() == [None, 6, 6, *[2] * 6]
    assert by["validation"][3:].to_list() == sorted(by["validation"][3:], reverse=True)
    assert by["lost"].to_list() == [0] * 9
    assert main(["report", str(out), "--json", "--out", str(out.parent / "report")]) == 0
    said = capsys.readouterr()
    (run,) = json.loads(said.out)["runs"]
    assert run["totals"]["rounds"] == 9
    (line,) = said.err.splitlines()
    assert line.startswith("fedjax-rec: 8 runs that a sweep stopped at a rung left out: ")
    assert sum("8 runs" in text for text in (out.parent / "report/report.md").open()) == 1


@pytest.mark.parametrize("after", [4, 9, 11, 12])
def test_a_broken_one_goes_on_to_the_same_table(place, whole, after, monkeypatch):
    """Inside the first rung, between the first two, inside the second, and before the last."""
    out, heard = place / f"broken{after}", []

    def stop(ended):
        heard.append(ended)
        if len(heard) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halved(place, out.name, 1, stop)
    told = {path: path.stat().st_mtime_ns for path in out.rglob("rung.json")}
    assert len(told) >= min(after, 9)
    trained, real = [], playing.carry_out

    def counted(config, folder, *rest, **more):
        trained.append(folder.path)
        return real(config, folder, *rest, **more)

    monkeypatch.setattr(playing, "carry_out", counted)
    ended = halved(place, out.name)
    # 13 in all: 9 at the first rung, 3 at the second, 1 at the last; nothing is played again.
    assert len(trained) == 13 - len(heard)
    mine, theirs = table(out), table(whole[1])
    assert mine == theirs and len(ended) == 9
    again = halved(place, out.name)
    assert len(trained) == 13 - len(heard) and again == ended and table(out) == theirs


def test_one_that_was_killed_before_it_said_that_it_is_at_its_rung(place, whole, monkeypatch):
    out = place / "killed"

    def stop(ended):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        halved(place, "killed", 1, stop)
    (word,) = list(out.rglob("rung.json"))[:1]
    word.unlink()  # its checkpoint is there
    halved(place, "killed")
    assert json.loads(word.read_text())["round"] in (2, 6) and table(out) == table(whole[1])


def test_a_rung_compares_means_over_seeds_and_passes_over_what_diverged(place, programs):
    axes = {RATE: [1.0, 1e30, 3.0, 9.0, 27.0], "seed": [0, 1]}
    section = {"class_path": "grid_of", "init_args": {}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "grid_of", one_batch, raising=False)
        ended = halved(place, "seeds", section=section, axes=axes)
    assert len(programs) == 1
    by: dict = {}
    for one in ended:
        by.setdefault(one.point[RATE], []).append(one)
    assert [one.status for one in by[1e30]] == ["diverged"] * 2
    means = {
        rate: np.mean([validation(one.out, 5) for one in runs])
        for rate, runs in by.items() if rate != 1e30
    }  # fmt: skip
    best = sorted(means, key=lambda rate: -means[rate])[:2]
    for rate, runs in by.items():
        if rate != 1e30:
            assert {one.status for one in runs} == {"finished" if rate in best else "stopped"}
    assert pl.read_csv(place / "seeds" / "sweep.csv")["status"].n_unique() == 3


def one_batch() -> search.Search:
    """The five values of the axis, as one population; two of them go on after five rounds."""
    asks = search.Search(5, 5, lambda axes, told, n: [{RATE: x} for x in axes[RATE]])
    return search.successive_halving(asks=asks, eta=2, shortest=5)


def test_the_command_and_more_trials(place, capsys):
    out = place / "command"
    words = ["sweep", str(place / "tiny.yaml"), "--out", str(out), f"--sweep.{RATE}",
             "loguniform(0.1, 50)", "--rounds", "4", "--search", "successive_halving",
             "--search.shortest", "2", "--search.eta", "2"]  # fmt: skip
    assert main([*words, "--search.trials", "4"]) == 0
    said = capsys.readouterr()
    assert said.err.count("stopped") == 4 and said.err.count("finished") == 2
    assert "[6/6]" in said.err and "stopped_after" in said.out
    assert main([*words, "--search.trials", "6", "--quiet"]) == 0
    found = pl.read_csv(out / "sweep.csv")
    assert found.height == 6 and found["status"].to_list().count("finished") >= 3


def test_a_job_of_another_process_stops_at_the_rung_too(place, whole):
    (trial, *_) = plan(place, "jobs").more([])
    assert trial.until == 2 and trial.config.rounds == 9
    job = {"runs": [workers.spelled(trial)], "searched": [RATE], "workers": 1,
           "out": str(place / "jobs"), "lock": str(place / "jobs" / "lock")}  # fmt: skip
    (ended,) = workers.played(json.loads(json.dumps(job)), [])
    assert ended == {"out": str(trial.out), "status": "stopped", "error": ""}
    assert sweep._there(trial).status == "stopped"
    assert sweep._there(replace(trial, until=3)) is sweep._there(replace(trial, until=None)) is None
    (mine,) = [one.out for one in whole[0] if one.point == trial.point]
    assert timeless(trial.out) == timeless(mine)[:2]


def test_hyperband_plays_its_brackets(place):
    section = {"class_path": "hyperband", "init_args": {"shortest": 3, "seed": 4}}
    found = plan(place, "brackets", section)
    ended = sweep.run_sweep(found, place / "brackets", 2)
    assert len(ended) == 3 + 2 and found.total == (3 + 1) + 2
    rounds = [len(timeless(one.out)) for one in ended]
    assert sorted(rounds[:3]) == [3, 3, 9] and rounds[3:] == [9, 9]


@with_optuna
def test_a_sampler_of_optuna_asks_population_by_population(place, monkeypatch):
    heard, real = [], search._trial
    monkeypatch.setattr(
        search, "_trial", lambda there, one, *rest: heard.append(one) or real(there, one, *rest)
    )
    asks = {"class_path": "optuna", "init_args": {"trials": 8, "batch": 4, "seed": 1}}
    section = {"class_path": "successive_halving",
               "init_args": {"asks": asks, "eta": 2, "shortest": 3}}  # fmt: skip
    ended = halved(place, "optuna", section=section)
    assert len(ended) == 8 and len(heard) == 4
    rounds = sorted(one.rounds or 9 for one in heard)
    assert rounds == [3, 3, 6, 9] and all(one.value is not None for one in heard)
    left = [one for one in ended if one.status == "finished"]
    assert len(left) == 2
    again = halved(place, "optuna", section=section)
    assert again == ended


@pytest.mark.parametrize(
    ("given", "changes", "told"),
    [
        ({"eta": 1, "trials": 4}, {}, "eta=1"),
        ({"shortest": 0, "trials": 4}, {}, "shortest=0"),
        ({"trials": 2}, {}, "eta=3 takes one of so many, and there are 2 at a time"),
        ({}, {}, "neither is given"),
        ({"trials": 4, "asks": {"class_path": "random", "init_args": {"trials": 4}}}, {}, "both"),
        ({"asks": "median"}, {}, "no factory 'median'"),
        ({"trials": 4, "shortest": 9}, {}, "leaves no rung below rounds=9"),
        ({"trials": 4, "shortest": 6}, {"evaluation": {"every": 9}}, "every=9 leaves no rung"),
        ({"trials": 4}, {"data": "without validation"}, "no validation part"),
        ({"trials": 4, "halve": 2}, {}, "halve"),
    ],
)  # fmt: skip
def test_bad_input_ends_in_one_line_and_writes_nothing(place, given, changes, told):
    section = {"class_path": "successive_halving", "init_args": given}
    if "data" in changes:
        split = {"class_path": "ratio", "init_args": {"validation": 0.0}}
        changes = {"data": {"source": str(place / "tiny"), "split": split}}
    with pytest.raises(ConfigError) as error:
        plan(place, "bad", section, **changes)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not (place / "bad").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/sweeps").glob("halving*.yaml")), ids=str)
def test_shipped_sweeps_are_read_to_the_last_rung(place, path, monkeypatch):
    monkeypatch.setattr(trials, "_check_compared", lambda config: None)  # needs the data
    found = sweep.planned(path, {}, place / "shipped")
    (first, *_) = found.more([])
    assert first.config.rounds > first.until > 0 and not first.out.exists()


def test_runs_of_other_rounds_are_not_compared(place):
    axes = {RATE: [1.0, 2.0, 3.0], "rounds": [9, 8]}
    found = plan(place, "unlike", axes=axes)
    with pytest.raises(ConfigError, match="rounds is 9 of one setting and 8 of another"):
        sweep.run_sweep(found, place / "unlike", 1)


def test_early_stopping_goes_with_it(place):
    rule = {"metric": "validation_hr@5", "patience": 1}
    stops = [{"class_path": "early_stopping", "init_args": rule}]
    ended = halved(place, "early", callbacks=stops)
    assert {one.status for one in ended} <= {"finished", "stopped"}
    assert len(halved(place, "early", callbacks=stops)) == 9
