"""Searches of a sweep: what is asked for, what is told, and that a killed one goes on as it was.

Every run trains 60 users on 40 items for two rounds.
"""

import importlib.util
import json
import math

import numpy as np
import polars as pl
import pytest
from small_data import timeless, write_config, write_folder

import fedjax_rec as fr
from fedjax_rec.experiment import playing, search, sweep
from fedjax_rec.experiment.factories import ConfigError
from fedjax_rec.experiment.grid import axes_of, drawn
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.search import Told

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
RATE = "strategy.item_learning_rate"
there = importlib.util.find_spec("optuna") is not None
with_optuna = pytest.mark.skipif(
    not there, reason="optuna is not installed; pip install 'fedjax-rec[optuna]'"
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("searches")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"), rounds=2)
    return place


def plan(place, out, section, axes=None):
    config = place / f"{out}.yaml"
    write_config(config, place / "tiny", rounds=2, search=section)
    return sweep.planned(config, axes or {RATE: "loguniform(0.1, 50)"}, place / out)


def test_the_command_draws_by_seed_and_number_and_more_are_added(place, capsys):
    words = ["sweep", str(place / "tiny.yaml"), "--out", str(place / "drawn"), "--quiet",
             f"--sweep.{RATE}", "loguniform(0.1, 50)", "--sweep.seed", "[0, 1]"]  # fmt: skip
    assert main([*words, "--search.trials", "2", "--search.seed", "5"]) == 0
    expected = [drawn(axes_of({RATE: "loguniform(0.1, 50)"})[0], 5, i)[RATE] for i in range(3)]
    table = lambda: pl.read_parquet(place / "drawn" / "sweep.parquet")
    assert table()[RATE].to_list() == [x for x in expected[:2] for _ in range(2)]
    assert table()["seed"].to_list() == [0, 1] * 2
    done = {path: path.stat().st_mtime_ns for path in (place / "drawn").rglob("summary.json")}
    assert main([*words, "--search.trials", "3", "--search.seed", "5"]) == 0
    assert all(path.stat().st_mtime_ns == at for path, at in done.items())
    assert table()[RATE].to_list() == [x for x in expected for _ in range(2)]
    capsys.readouterr()
    assert main([*words, "--search.trials", "3", "--search.seed", "6"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds another search (fedjax_rec.experiment.search.random with {'seed': 5}" in line


def greedy(trials: int, batch: int = 2) -> search.Search:
    """Goes on from the best of what it was told, by how many have a value; writes down all."""

    def ask(axes, told, n):
        HEARD.append(list(told))
        known = [one for one in told if one.value is not None]
        best = max(known, key=lambda one: one.value).setting[RATE] if known else 1.0
        return [{RATE: best + (i + 1) * 0.5 + len(known)} for i in range(n)]

    return search.Search(trials, batch, ask)


HEARD: list = []


def test_a_batch_is_told_the_validation_means_and_shares_a_program(place, programs, monkeypatch):
    monkeypatch.setattr(search, "random", greedy)
    HEARD.clear()
    axes = {RATE: "uniform(0, 100)", "seed": [0, 1]}
    found = plan(place, "greedy", {"class_path": "random", "init_args": {"trials": 4}}, axes)
    ended = sweep.run_sweep(found, place / "greedy", 2)
    assert len(programs) == 1 and len(ended) == 8 == found.total
    assert [len(told) for told in HEARD] == [0, 2]
    for i, one in enumerate(HEARD[1]):
        summaries = [
            json.loads((run.out / "summary.json").read_text()) for run in ended[2 * i : 2 * i + 2]
        ]
        assert one.setting == {RATE: ended[2 * i].point[RATE]}
        assert one.metric == "validation_hr@5" and not one.diverged
        assert one.value == np.mean([s["best"]["validation_hr@5"] for s in summaries])


def test_a_killed_search_goes_on_to_the_same_runs(place, monkeypatch):
    monkeypatch.setattr(search, "random", greedy)
    section = {"class_path": "random", "init_args": {"trials": 4}}
    axes = {RATE: "uniform(0, 100)"}
    unbroken = sweep.run_sweep(plan(place, "unbroken", section, axes), place / "unbroken", 2)

    for after in (1, 3):  # amid the first batch, and amid the second
        done: list = []

        def stop(ended, done=done, after=after):
            done.append(ended)
            if len(done) == after:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            sweep.run_sweep(plan(place, "broken", section, axes), place / "broken", 1, stop)
        kept = {p: p.stat().st_mtime_ns for p in (place / "broken").rglob("summary.json")}
        assert len(kept) >= after
    again = sweep.run_sweep(plan(place, "broken", section, axes), place / "broken", 2)
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert [one.point for one in again] == [one.point for one in unbroken]
    folders = sorted(path.name for path in (place / "broken").iterdir() if path.is_dir())
    assert folders == sorted(one.out.name for one in again)
    for one, other in zip(again, unbroken, strict=True):
        for mine, theirs in zip(timeless(one.out), timeless(other.out), strict=True):
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), rtol=1e-5)


def test_what_was_asked_for_stays_when_a_failed_run_comes_right(place, monkeypatch):
    monkeypatch.setattr(search, "random", greedy)
    section = {"class_path": "random", "init_args": {"trials": 4}}
    axes, real = {RATE: "uniform(0, 100)"}, playing.carry_out

    def broken(config, *rest, **more):
        if config.plain["strategy"]["init_args"]["item_learning_rate"] == 2.0:
            raise RuntimeError("a cable came off")
        return real(config, *rest, **more)

    monkeypatch.setattr(playing, "carry_out", broken)
    HEARD.clear()
    first = sweep.run_sweep(plan(place, "failing", section, axes), place / "failing", 2)
    assert [one.status for one in first] == ["finished", "failed", "finished", "finished"]
    assert HEARD[1][1] == Told({RATE: 2.0}, None)
    monkeypatch.setattr(playing, "carry_out", real)
    second = sweep.run_sweep(plan(place, "failing", section, axes), place / "failing", 2)
    assert [one.status for one in second] == ["finished"] * 4
    assert [one.point for one in second] == [one.point for one in first]


@pytest.mark.parametrize(
    ("section", "axes", "told"),
    [
        ({"class_path": "random", "init_args": {"trials": 0}}, None, "trials=0"),
        ({"class_path": "random", "init_args": {"trial": 3}}, None, "did you mean 'trials'"),
        ({"class_path": "random"}, None, "trials"),
        ("randon", None, "has no factory 'randon'"),
        ("fedjax_rec.experiment.search.Told", None, "setting"),
        ({"class_path": "random", "init_args": {"trials": 2}}, {"seed": [0]}, "no axis but seeds"),
    ],
)
def test_bad_searches_end_in_one_line_and_write_nothing(place, section, axes, told):
    with pytest.raises(ConfigError) as error:
        plan(place, "bad", section, axes)
    assert told in str(error.value) and "\n" not in str(error.value)
    assert not (place / "bad").exists()


def test_a_missing_optuna_is_said_in_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ValueError, match="pip install optuna"):
        search.optuna(4)


AXES = {"rate": "loguniform(0.01, 100)", "width": "range(2, 20, 2)", "kind": "[a, b, {c: 1}]"}


def played(trials: int, batch: int, sampler: str, lower: bool = False) -> list[Told]:
    """A search over a bowl, best at rate 1, width 8 and kind b."""
    axes, told = axes_of(AXES)[0], []
    metric = "validation_rmse" if lower else "validation_mrr"
    while len(told) < trials:
        asked = search.optuna(trials, batch, 1, sampler).ask(axes, told, batch)
        for one in asked:
            cost = math.log10(one["rate"]) ** 2 + abs(one["width"] - 8) / 8 + (one["kind"] != "b")
            gone = one["rate"] > 50
            value = None if gone else (cost if lower else -cost)
            told.append(Told(one, value, gone, metric))
    return told


@with_optuna
@pytest.mark.parametrize("lower", [False, True])
def test_optuna_finds_more_than_chance_and_hangs_on_nothing_but_what_it_is_told(lower):
    found = played(48, 8, "TPESampler", lower)
    assert found == played(48, 8, "TPESampler", lower)
    cost = lambda told: [abs(one.value) for one in told if one.value is not None]
    late, early = cost(found[24:]), cost(found[:16])
    assert np.mean(late) < 0.6 * np.mean(early)
    assert len({json.dumps(one.setting) for one in found}) > 40
    assert all(one.setting["width"] in range(2, 20, 2) for one in found)
    assert all(one.setting["kind"] in ["a", "b", {"c": 1}] for one in found)
    assert all(0.01 <= one.setting["rate"] <= 100 for one in found)


@with_optuna
def test_optuna_is_not_told_of_the_test_part_and_names_its_samplers():
    axes = axes_of({"rate": "uniform(0, 1)"})[0]
    with pytest.raises(ConfigError, match="no validation part"):
        search.optuna(4).ask(axes, [Told({"rate": 0.5}, 0.1, metric="hr@10")], 1)
    with pytest.raises(ValueError, match=r"sampler='TPE'\) is none .* TPESampler"):
        search.optuna(4, sampler="TPE")


@with_optuna
def test_optuna_in_a_sweep_from_python(place):
    axes = {RATE: "loguniform(0.1, 50)"}
    wanted = {"class_path": "optuna", "init_args": {"trials": 4, "batch": 2}}
    given = {"out": place / "optuna", "workers": 2, "search": wanted}
    found = fr.sweep(place / "tiny.yaml", axes, **given)
    assert found["status"].to_list() == ["finished"] * 4 and found[RATE].n_unique() == 4
    assert fr.sweep(place / "tiny.yaml", axes, **given).equals(found)
