"""Sweeps: the points, the runs that share a program, their table, and what disturbs them.

Every run trains 60 users on 40 items for five rounds.
"""

import json

import numpy as np
import polars as pl
import pytest
from filelock import FileLock
from small_data import timeless, write_config, write_folder

from fedjax_rec.experiment import playing, sweep
from fedjax_rec.experiment import swept as swept_tables
from fedjax_rec.experiment.grid import axes_of, drawn, named, points
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
RATE = "strategy.item_learning_rate"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("sweeps")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"))
    return place


def swept(place, name, axes, *words):
    runs = sweep.trials(place / "tiny.yaml", axes, place / name, words)
    return sweep.run_sweep(runs, place / name, workers=2)


def close(found: list[dict], expected: list[dict]):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(value, other[name], rtol=1e-5, err_msg=name)


def test_runs_of_numbers_and_seeds_share_a_program_and_are_those_alone(place, programs):
    ended = swept(place, "rates", {RATE: [1, 5.0, 20.0], "seed": "range(2)"})
    assert len(programs) == 1 and [one.status for one in ended] == ["finished"] * 6
    for one in (ended[1], ended[5]):
        words = [f"--{RATE}={one.point[RATE]}", f"--seed={one.point['seed']}"]
        out = place / f"alone-{one.point['seed']}"
        assert main(["run", str(place / "tiny.yaml"), "--quiet", "--out", str(out), *words]) == 0
        close(timeless(one.out), timeless(out))
    found = pl.read_parquet(place / "rates" / "sweep.parquet")
    assert found.height == 6 and found["status"].to_list() == ["finished"] * 6
    assert (
        found[RATE].to_list() == [1.0, 5.0, 20.0] * 2
        and found["seed"].to_list() == [0] * 3 + [1] * 3
    )
    summary = json.loads((ended[5].out / "summary.json").read_text())
    assert found["hr@5"][5] == summary["best"]["hr@5"]
    assert found["validation"][5] == summary["best"]["validation_hr@5"]
    assert (place / "rates" / "sweep.csv").read_text().count("\n") == 7


def test_what_changes_shapes_has_a_program_for_each_value(place, programs):
    ended = swept(place, "widths", {"model.width": [2, 4], RATE: [1.0, 5.0]})
    assert len(programs) == 2 and all(one.status == "finished" for one in ended)


def test_a_number_that_shapes_depend_on_is_not_traced(place, programs):
    uplink = {"class_path": "fedjax_rec.compress.top_k", "init_args": {"fraction": 0.5}}
    axes = {"strategy.uplink.fraction": [0.2, 0.6], RATE: [1.0, 5.0]}
    ended = swept(place, "kept", axes, f"--strategy.uplink={json.dumps(uplink)}")
    assert len(programs) == 2
    sent = [sum(r["bytes_up"] for r in timeless(one.out)) for one in ended]
    assert max(sent[:2]) < 0.6 * min(sent[2:])


def test_own_models_are_measured_on_the_cases_of_their_seed(place, programs):
    axes = {"seed": "range(2)"}
    words = ["--model=pfedrec", "--strategy=pfedrec", "--evaluation.of=personal",
             "--evaluation.candidates=sampled", "--data.evaluation_negatives=9"]  # fmt: skip
    ended = swept(place, "own", axes, *words)
    assert len(programs) == 1
    out = place / "own alone"
    given = ["run", str(place / "tiny.yaml"), "--quiet", "--out", str(out), "--seed=1", *words]
    assert main(given) == 0
    close(timeless(ended[1].out), timeless(out))


def test_cold_users_fit_what_is_known_of_them_in_their_seed(place):
    words = ["--data.split=cold_users", "--evaluation.fit.learning_rate=2.0", "--rounds=1"]
    ended = swept(place, "cold", {"data.split.seed": [0, 1], "seed": [0, 1]}, *words)
    assert [one.status for one in ended] == ["finished"] * 4, ended
    out = place / "cold alone"
    given = ["run", str(place / "tiny.yaml"), "--quiet", "--out", str(out), *words]
    assert main([*given, "--seed=1", "--data.split.seed=1"]) == 0
    (mine,) = [one for one in ended if set(one.point.values()) == {1}]
    close(timeless(mine.out), timeless(out))


def test_labelled_examples_share_a_program(place, programs):
    config = {
        "data": {"source": {"class_path": "fedjax_rec.data.clicks", "init_args": {
            "num_clients": 8, "examples_per_client": 10, "num_rows": 104}}},
        "model": {"class_path": "fedjax_rec.models.dlrm", "init_args": {"width": 2, "top": [4]}},
        "examples": "fedjax_rec.data.examples",
        "strategy": "fedjax_rec.strategies.fedavg",
        "evaluation": {"candidates": "examples"},
        "rounds": 1,
    }  # fmt: skip
    runs = sweep.trials(config, {"seed": [0, 1]}, place / "clicks")
    ended = sweep.run_sweep(runs, place / "clicks", 2)
    assert [one.status for one in ended] == ["finished"] * 2, ended
    assert len(programs) == 1 and timeless(ended[0].out) != timeless(ended[1].out)


def test_a_run_that_diverges_ends_alone_and_is_not_played_again(place, capsys, monkeypatch):
    axes = {RATE: [1e30, 5.0]}
    ended = swept(place, "apart", axes)
    assert [one.status for one in ended] == ["diverged", "finished"]
    assert "lower the learning rates" in ended[0].error
    found = pl.read_csv(place / "apart" / "sweep.csv")
    assert found["status"].to_list() == ["diverged", "finished"]
    assert found["validation"].is_null().to_list() == [True, False]
    monkeypatch.setattr(playing, "carry_out", lambda *_, **__: pytest.fail("played again"))
    again = swept(place, "apart", axes)
    assert again == ended


def test_a_run_that_fails_leaves_the_others_and_is_tried_again(place, monkeypatch):
    axes, out, real = {RATE: [1.0, 3.0, 9.0]}, place / "failing", playing.carry_out

    def broken(config, *rest, **more):
        if config.plain["strategy"]["init_args"]["item_learning_rate"] == 1.0:
            raise RuntimeError("a cable\ncame off")
        return real(config, *rest, **more)

    monkeypatch.setattr(playing, "carry_out", broken)
    ended = swept(place, "failing", axes)
    assert [one.status for one in ended] == ["failed", "finished", "finished"]
    assert ended[0].error == f"RuntimeError: a cable came off ({out / 'failed.log'} shows where)"
    assert "raise RuntimeError" in (out / "failed.log").read_text()
    assert pl.read_csv(out / "sweep.csv")["status"].to_list() == [one.status for one in ended]
    monkeypatch.setattr(playing, "carry_out", real)
    told: list = []
    runs = sweep.trials(place / "tiny.yaml", axes, out)
    sweep.run_sweep(runs, out, 1, told.append)
    assert [one.point[RATE] for one in told] == [3.0, 9.0, 1.0]  # what is there is told first
    assert {one.status for one in told} == {"finished"} and not (out / "failed.log").exists()
    # A run that ends amid its pictures is not finished.
    monkeypatch.setattr(figures, "draw_all", lambda run: run.no_pencil)
    (cut,) = swept(place, "failing", {RATE: [9.0]}, "--rounds=6")
    assert cut.status == "failed" and "no_pencil" in cut.error
    monkeypatch.setattr(figures, "draw_all", lambda run: [])
    assert swept(place, "failing", {RATE: [9.0]}, "--rounds=6")[0].status == "finished"
    # More rounds go on where these ended; fewer are none of theirs.
    (more,) = swept(place, "failing", {RATE: [3.0]}, "--rounds=7")
    assert [one["round"] for one in timeless(more.out)] == list(range(1, 8))
    (fewer,) = swept(place, "failing", {RATE: [3.0]}, "--rounds=6")
    assert fewer.status == "failed" and "rounds=6 is less than the 7" in fewer.error
    assert fewer.error.endswith("another --out, or remove that one.")  # no --overwrite of a sweep


def test_the_lowest_error_is_the_best_setting():
    rows = [(0.1, 0.9, "finished"), (0.2, 0.7, "finished"), (0.3, None, "failed")]
    for metric, best in (("rmse", 0.2), ("hr@5", 0.1)):
        found = pl.DataFrame(
            [
                {"rate": r, "status": s, "validation": x, "best_round": 1, metric: x}
                for r, x, s in rows
            ]
        )
        by = swept_tables.of_settings(found, ["rate"])
        assert by["rate"][0] == best and by["rate"][2] == 0.3
        assert by["lost"].to_list() == [0, 0, 1]


def test_a_sweep_that_was_stopped_goes_on_to_the_same_table(place, monkeypatch):
    axes = {RATE: [1.0, 3.0, 9.0], "seed": [0, 1]}
    swept(place, "unbroken", axes)
    runs = sweep.trials(place / "tiny.yaml", axes, place / "broken")

    def stop(ended):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run_sweep(runs, place / "broken", 2, stop)
    done = [t.out for t in runs if (t.out / "summary.json").is_file()]
    assert 0 < len(done) < 6
    kept = {path: (path / "summary.json").stat().st_mtime_ns for path in done}
    sweep.run_sweep(runs, place / "broken", 2)
    assert all((path / "summary.json").stat().st_mtime_ns == kept[path] for path in done)
    less = ["seconds", "folder"]
    first, second = (
        pl.read_parquet(place / name / "sweep.parquet").drop(less)
        for name in ("unbroken", "broken")
    )
    assert first.equals(second)


def test_the_command_reads_axes_of_the_file_and_of_the_line(place, capsys):
    config = place / "axes.yaml"
    config.write_text((place / "tiny.yaml").read_text() + f"sweep: {{{RATE}: [1.0, 4.0]}}\n")
    out = place / "command"
    words = ["sweep", str(config), "--sweep.seed", "range(2)", "--rounds", "2", "--out", str(out)]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err.count("finished") == 4
    rows = [line for line in said.out.splitlines() if "±" in line]
    assert len(rows) == 2 and "item_learning_rate" in said.out and "test hr@5" in said.out
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == [
        f"item_learning_rate={rate}-{seed}" for rate in (1, 4) for seed in (0, 1)
    ]
    assert main(["run", str(config), "--out", str(out / "x")]) == 2
    assert "use fedjax-rec sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ({"strategy.item_learning_rat": "[1, 2]"}, "item_learning_rat is no key"),
        ({RATE: "[]"}, "is no list of values"),
        ({RATE: "log_uniform(1, 2)"}, "did you mean 'loguniform'"),
        ({RATE: "loguniform(1, 2)"}, "say how often, --search.trials 20"),
        ({RATE: "uniform(2, 1)"}, "2 is not below 1"),
        ({RATE: "uniform(1, 1)"}, "1 is not below 1"),
        ({RATE: "loguniform(0, 1)"}, "0 has no logarithm"),
        ({RATE: "loguniform(-1, 1)"}, "-1 has no logarithm"),
        ({RATE: "range(1.5)"}, "1.5 is no whole number"),
        ({RATE: "[1, fast]"}, "fast"),
        ({"seed": "[0.5]"}, "holds no seeds"),
        ({RATE: "[1, 1.0]"}, "item_learning_rate=1-0 stands twice"),
        ({"seed": "uniform(0, 1)"}, "uniform(0, 1) holds no seeds"),
        ({"devices": "[1, 2]"}, "use devices=1"),
        ({}, "no axis"),
    ],
)
def test_bad_axes_end_in_one_line_and_write_nothing(place, capsys, axes, told):
    words = [word for key, value in axes.items() for word in (f"--sweep.{key}", value)]
    out = place / "bad"
    assert main(["sweep", str(place / "tiny.yaml"), "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1 and not out.exists()


def test_two_sweeps_in_one_folder(place):
    runs = sweep.trials(place / "tiny.yaml", {RATE: [1.0]}, place / "held")
    (place / "held").mkdir()
    with FileLock(place / "held" / ".lock"), pytest.raises(ValueError, match="another process"):
        sweep.run_sweep(runs, place / "held")


def test_a_folder_of_another_run_is_refused_by_words_of_a_sweep(place, capsys):
    other = place / "others" / "item_learning_rate=1-0"
    other.mkdir(parents=True)
    (other / "config.yaml").write_text("seed: 3\n")
    words = [
        "sweep",
        str(place / "tiny.yaml"),
        "--out",
        str(other.parent),
        f"--sweep.{RATE}",
        "[1]",
    ]
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run of another configuration" in line and "or remove that one." in line


def test_axes_of_words_choices_and_factories(place):
    """Words are words, the configuration says name and seed, and each run has a folder."""
    config = place / "choices.yaml"
    changes = {"seed": 7, "name": "mine", "choices": {"a": {"rounds": 3}, "b": {"rounds": 4}}}
    write_config(config, place / "tiny", **changes)
    uplink = {"class_path": "fedjax_rec.compress.top_k", "init_args": {"fraction": 0.5}}

    def of(axes, *words):
        return sweep.trials(config, axes, place, words)

    by_choice = of({"choose": ["a", "b"]}, "--seed=8")
    assert [(t.config.rounds, t.config.seed, t.point["seed"]) for t in by_choice] == [
        (3, 8, 8), (4, 8, 8)
    ]  # fmt: skip
    assert [t.out.name for t in by_choice] == ["choose=a-8", "choose=b-8"]
    words = of({"evaluation.candidates": ["full", "sampled"]})
    assert [t.config.evaluation.candidates for t in words] == ["full", "sampled"]
    assert words[1].config.name == "mine,candidates=sampled" and words[1].config.seed == 7
    nothing, some = (
        t.config.plain["strategy"]["init_args"]["uplink"]
        for t in of({"strategy.uplink": [None, uplink]})
    )
    assert nothing is None and some["init_args"]["fraction"] == 0.5
    long = [t.out.name for t in of({"start_from": ["a/b", "a_b", "c" * 300, "c" * 301]})]
    assert len(set(long)) == 4 and max(map(len, long)) < 200 and "a_b~" in long[0]
    assert [t.out.name for t in of({"seed": [1, 2]})] == ["mine-1", "mine-2"]
    assert named({"a.width": 1, "b.width": 2, "b.rate": 0.5}) == "a.width=1,b.width=2,rate=0.5"
    assert points({"a": "linspace(12345, 12346, 2)"})[1]["a"] == 12346.0


def test_points_that_are_drawn():
    axes, seeds = axes_of({"a": "loguniform(0.01, 1)", "b": [1, 2], "seed": "range(2)"})
    assert seeds == [0, 1]
    found = [drawn(axes, 3, i) for i in range(40)]
    assert found[7:] == [drawn(axes, 3, i) for i in range(7, 40)]
    numbers = [one["a"] for one in found]
    assert all(0.01 <= a <= 1 and a == float(f"{a:.4g}") for a in numbers)
    assert len(set(numbers)) > 35 and sum(a < 0.1 for a in numbers) in range(10, 30)
    assert {one["b"] for one in found} == {1, 2} and drawn(axes, 4, 0) != found[0]
    assert points({"a": "logspace(0.1, 10, 3)"}) == [{"a": a, "seed": 0} for a in (0.1, 1.0, 10.0)]
