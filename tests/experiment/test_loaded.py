"""Runs from Python: `fr.run`, and what `fr.load_run` makes of a folder."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest
from jax import export
from safetensors.numpy import load_file
from small_data import write_config, write_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

import fedjax_rec as fr
from fedjax_rec import data, evaluate
from fedjax_rec.experiment import config as configuration
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("loaded")
    folder = write_folder(place / "tiny")
    # Titles of all items but the last.
    lines = ["item_id:token\ttitle:token_seq", *(f"i{i}\tFilm {i}" for i in range(39))]
    (folder / "tiny.item").write_text("\n".join(lines) + "\n")
    write_config(
        place / "tiny.yaml", folder, data={"source": str(folder), "evaluation_negatives": 9}
    )
    return place


@pytest.fixture(scope="module", autouse=True)
def without_figures(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(figures, "draw_all", lambda folder: [])
        yield


@pytest.fixture(scope="module")
def done(place, without_figures):
    """Rates so high that the best round is not the last."""
    return fr.run(
        place / "tiny.yaml", out=place / "run", show=False, rounds=6,
        strategy={"user_learning_rate": 20.0, "item_learning_rate": 20.0},
    )  # fmt: skip


def test_a_run_from_python_is_that_of_the_command_line(place, done):
    words = ["--rounds", "6", "--strategy.user_learning_rate", "20.0"]
    words += ["--strategy.item_learning_rate", "20.0"]
    read = configuration.read(place / "tiny.yaml", words)
    assert done.config == read.plain
    assert fr.load_run(place / "run").metrics.equals(done.metrics)
    assert done.metrics["round"].to_list() == [1, 2, 3, 4, 5, 6]
    assert "best validation_hr@5" in repr(done)


def test_both_states_are_kept_and_give_the_numbers_of_their_rounds(done):
    best, final = done.summary["best"], done.summary["final"]
    assert best["round"] < final["round"], "choose rates that make the best round another"
    assert int(done.best.round) == best["round"] and int(done.state.round) == final["round"]
    for which, record in (("best", best), ("last", final)):
        for part, prefix in (("test", ""), ("validation", "validation_")):
            again = done.evaluate(part, which)
            assert again == pytest.approx({name: record[prefix + name] for name in again})
    assert set(again) == {"hr@5", "mrr"}


def test_other_measurements_of_the_same_state(done):
    values = done.evaluate(metrics=["hr@5", "recall@40"])
    assert values["recall@40"] == 1.0  # of 40 items
    assert values["hr@5"] == pytest.approx(done.summary["best"]["hr@5"])
    assert 0 <= done.evaluate(candidates="sampled")["hr@5"] <= 1


def test_it_recommends_the_unseen_items_of_the_highest_scores(place, done):
    rows = data.load(place / "tiny")
    user = int(np.flatnonzero(rows.user_names == "u7")[0])
    mine = rows.items[rows.users == user]
    table = done.recommend("u7", k=40)
    # All but what is seen: the last item in time is held out for the test, and may come up.
    seen = set(rows.item_names[mine[:-1]])
    assert set(table["item"]) == set(rows.item_names) - seen
    assert table["rank"].to_list() == list(range(1, len(table) + 1))
    assert table.filter(table["held_out"])["item"].to_list() == [rows.item_names[mine[-1]]]
    # FedMF scores by the product of the client's vector and the item's.
    state = done.best
    (vector,) = (np.asarray(x)[user] for x in jax.tree.leaves(state.private))
    (items,) = (np.asarray(x) for x in jax.tree.leaves(state.shared))
    scores = items @ vector.reshape(-1)
    places = {name: i for i, name in enumerate(rows.item_names)}
    expected = [scores[places[name]] for name in table["item"]]
    np.testing.assert_allclose(table["score"], expected, rtol=1e-5)
    assert expected == sorted(expected, reverse=True)
    titles = dict(zip(table["item"], table["title"], strict=True))
    assert all(titles[f"i{i}"] == f"Film {i}" for i in range(39) if f"i{i}" in titles)
    assert done.recommend("u7", k=3).equals(table.head(3))
    assert not done.recommend("u7", k=40, which="last").equals(table)


def test_without_a_folder_it_runs_in_one_that_goes_with_it(place):
    cohorts = {"class_path": "uniform", "init_args": {"size": 20}}
    source = {"data": {"source": str(place / "tiny")}}
    done = fr.run(source, rounds=1, show=False, model=fr.models.fedmf, cohorts=cohorts)
    assert done.config["model"]["class_path"] == "fedjax_rec.models.fedmf"
    path = done.path
    assert path.is_dir() and len(done.recommend("u0", 5)) == 5
    del done
    assert not path.exists()


def test_a_configuration_that_was_read_runs_with_changes(place, tmp_path):
    read = configuration.read(place / "tiny.yaml")
    done = fr.run(read, out=tmp_path / "run", show=False, rounds=1, seed=3, keep_best=False)
    assert done.summary["name"] == "tiny" and done.config["seed"] == 3
    assert len(done.recommend("u0", 2)) == 2  # the only round is the best


def test_where_only_the_last_state_was_kept_it_says_so(done, tmp_path):
    shutil.copytree(done.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "best")
    loaded = fr.load_run(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="only the state after the last round is here"):
        loaded.recommend("u0")
    assert len(loaded.recommend("u0", which="last")) == 10


def test_what_is_wrong_is_said_in_one_line(done, tmp_path):
    def told(call, *args, error=ValueError, **kwargs) -> str:
        with pytest.raises(error) as caught:
            call(*args, **kwargs)
        (line,) = str(caught.value).splitlines()
        return line

    assert "there is no such run" in told(fr.load_run, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no run is in this folder" in told(fr.load_run, tmp_path / "empty")
    shutil.copytree(done.path, tmp_path / "half")
    (tmp_path / "half" / "summary.json").unlink()
    assert "the run is unfinished" in told(fr.load_run, tmp_path / "half")
    assert "no such user (did you mean 'u59'?)" in told(done.recommend, "u599")
    assert "use k >= 1" in told(done.recommend, "u0", k=0)
    assert "use one of 'best', 'last'" in told(done.recommend, "u0", which="first")
    assert "part='training') is unknown" in told(done.evaluate, "training")
    assert "did you mean 'metrics'" in told(done.evaluate, metric=["mrr"])
    assert "right after training" in told(done.evaluate, of="personal")
    assert "did you mean 'rounds'" in told(fr.run, round=3)
    assert "cannot be written to a configuration" in told(fr.run, model={"scale": object()})


def test_json_of_the_summary_is_what_is_loaded(done):
    assert done.summary == json.loads((done.path / "summary.json").read_text())


def test_similar_items_are_those_of_the_smallest_angles(done):
    rows = np.asarray(done.best.shared["item"].values, np.float64)
    names = done.experiment.read.split.interactions.item_names
    one = int(np.flatnonzero(names == "i5")[0])
    cosine = [rows[one] @ x / np.linalg.norm(rows[one]) / np.linalg.norm(x) for x in rows]
    order = [i for i in np.argsort(-np.array(cosine)) if i != one][:3]
    found = done.similar_items("i5", k=3)
    assert found["item"].to_list() == [str(names[i]) for i in order]
    np.testing.assert_allclose(found["similarity"], [cosine[i] for i in order], rtol=1e-5)
    assert found["title"].to_list() == [f"Film {names[i][1:]}" for i in order] or 39 in order
    with pytest.raises(ValueError, match="has no such item"):
        done.similar_items("i77")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_scores_and_weights_are_exported(done, tmp_path, kind):
    scores, weights, items = done.export(tmp_path / "out", k=4, format=kind)
    read = {"parquet": pl.read_parquet, "csv": pl.read_csv}[kind]
    table = read(scores)
    known = done.experiment.read.split.interactions
    assert table["user"].n_unique() == known.num_users and table["rank"].max() == 4
    for user in ("u0", "u13"):
        mine, alone = table.filter(pl.col("user") == user), done.recommend(user, k=4)
        assert mine["item"].to_list() == alone["item"].to_list()
        np.testing.assert_allclose(mine["score"], alone["score"], rtol=1e-5)
    held = load_file(weights)
    assert held.keys() == {"shared/item", "private/user"}
    np.testing.assert_array_equal(held["shared/item"], done.best.shared["item"].values)
    assert held["private/user"].shape[0] == known.num_users
    told = json.loads(items.read_text())
    assert told["items"] == [str(name) for name in known.item_names]
    texts = [f"Film {name[1:]}" for name in known.item_names if name != "i39"]
    assert sorted({*told["texts"]} - {"item i39"}) == sorted(texts)
    with pytest.raises(ValueError, match="format='xlsx'"):
        done.export(tmp_path, format="xlsx")


def test_the_scorer_goes_out_as_a_program(done, tmp_path):
    program, names, *_ = done.export(tmp_path / "out", k=4, scorer=True)
    ids = json.loads(names.read_text())
    assert (
        ids["history"] == 0
        and len(ids["users"]) == done.experiment.read.split.interactions.num_users
    )
    # Of the same arguments and result, whose program is not its own but that of the file.
    other = export.export(
        jax.jit(lambda *_: np.zeros(len(ids["items"]), np.float32), keep_unused=True)
    )
    made = other(*[jax.ShapeDtypeStruct((), np.int32)] * 2)
    made = dataclasses.replace(made, mlir_module_serialized=program.read_bytes())
    for user in ("u0", "u13"):
        scores = np.asarray(made.call(*map(np.int32, ids["users"][user])))
        alone = done.recommend(user, k=4)
        mine = [scores[ids["items"].index(item)] for item in alone["item"]]
        np.testing.assert_allclose(mine, alone["score"], rtol=1e-5)
    readable = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    (tmp_path / "plain").touch()
    assert readable == {(tmp_path / "plain").stat().st_mode & 0o777}
    with pytest.raises(ValueError, match="plain' is a file; name a folder"):
        done.export(tmp_path / "plain")


def test_all_lists_together(done, capsys):
    told = done.beyond_accuracy(k=3)
    known = done.experiment.read.split.interactions
    lists = [done.recommend(user, k=3)["item"].to_list() for user in known.user_names]
    shown = [item for one in lists for item in one]
    assert told["coverage"] == pytest.approx(len(set(shown)) / known.num_items)
    share = np.unique(shown, return_counts=True)[1] / len(shown)
    assert told["entropy"] == pytest.approx(-(share * np.log(share)).sum())
    train = done.experiment.read.split.part == data.splits.TRAIN
    phi = {x: int((known.item_names[known.items[train]] == x).sum()) for x in set(shown)}
    assert told["popularity"] == pytest.approx(np.mean([phi[x] for x in shown]))
    assert main(["lists", str(done.path), "-k", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == told
    with pytest.raises(ValueError, match=r"beyond_accuracy\(k=0\)"):
        done.beyond_accuracy(k=0)


def test_all_lists_beside_what_users_chose(done, capsys):
    """Numbers of `evaluate` of these lists and histories; words of titles as categories."""
    told = done.beyond_accuracy(k=3)
    assert "calibration" not in told
    split = done.experiment.read.split
    known, train = split.interactions, split.part == data.splits.TRAIN
    place = {name: i for i, name in enumerate(known.item_names)}
    lists = [
        [place[i] for i in done.recommend(user, k=3)["item"].to_list()] for user in known.user_names
    ]
    history = known.users[train], known.items[train]
    phi = np.bincount(history[1], minlength=known.num_items)
    apart = evaluate.popularity_deviation(lists, *history, phi)
    assert told["upd"] == pytest.approx(apart.mean()) and apart.mean() > 0
    lift = evaluate.popularity_lift(lists, *history, phi)
    assert told["popularity_lift"] == pytest.approx(lift["all"])
    assert told["popularity_lift_niche"] > told["popularity_lift_blockbuster"]
    words = ["lists", str(done.path), "-k", "3", "--json", "--categories"]
    assert main([*words, "title"]) == 0
    named = json.loads(capsys.readouterr().out)
    titles, has = data.categories(known, "title")
    assert titles[-1] == "Film" and len(titles) == 40 and not has[place["i39"]].any()
    wanted = np.nanmean(evaluate.calibration(lists, *history, has))
    assert named.pop("calibration") == pytest.approx(wanted) and named == told
    assert main([*words, "titel"]) == 2
    assert "did you mean 'title'" in capsys.readouterr().err
    assert main(["reliability", str(done.path)]) == 2
    assert "predicts no labelled examples" in capsys.readouterr().err


def test_adapters_of_a_run_go_out_by_the_names_of_its_base(place, done, tmp_path):
    texts = {
        "class_path": "fedjax_rec.models.text_encoder",
        "init_args": {"weights": tiny_bert.folder(), "rank": 2, "trained_layers": 2,
                      "components": 3, "width": 4},
    }  # fmt: skip
    (place / "tiny" / "tiny.item").write_text(
        "\n".join(["item_id:token\ttitle:token_seq"]
                  + [f"i{i}\t{x}" for i, x in enumerate(tiny_bert.titles(40))]) + "\n"
    )  # fmt: skip

    def run(rule: str):
        chosen = {"class_path": f"fedjax_rec.strategies.{rule}", "init_args": {"steps": 1}}
        return fr.run(place / "tiny.yaml", out=tmp_path / rule, show=False, rounds=2, model=texts,
                      strategy=chosen)  # fmt: skip

    one = run("fedit")
    one.export_peft(tmp_path / "out", base="tiny")
    held = load_file(tmp_path / "out" / "adapter_model.safetensors")
    name = "base_model.model.encoder.layer.{}.attention.self.value.lora_{}.weight"
    layer = one.best.shared["layers"]["value"]
    for i in range(2):  # the last two of three
        np.testing.assert_array_equal(held[name.format(i + 1, "A")].T, layer["lora_a"][i])
        np.testing.assert_array_equal(held[name.format(i + 1, "B")].T, layer["lora_b"][i])
    told = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == "tiny" and told["lora_alpha"] == 16
    with pytest.raises(ValueError, match="all have the same adapters; leave it out"):
        one.export_peft(tmp_path / "out", client=0)
    with pytest.raises(ValueError, match=r"is another at (query|value); name the base"):
        run("flora").export_peft(tmp_path / "out", which="last")
    own = run("fedsa_lora")
    with pytest.raises(ValueError, match="clients keep adapters; name one"):
        own.export_peft(tmp_path / "out")
    own.export_peft(tmp_path / "out", client=3)
    held = load_file(tmp_path / "out" / "adapter_model.safetensors")
    theirs = own.best.private["layers"]["value"]["lora_b"]
    np.testing.assert_array_equal(held[name.format(2, "B")].T, theirs[3, 1])
    with pytest.raises(ValueError, match="the run's model is of no pretrained weights"):
        done.export_peft(tmp_path / "out")


def test_the_command_line_asks_a_finished_run(done, capsys, tmp_path):
    run = str(done.path)
    assert main(["recommend", run, "--user", "u3", "-k", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["item"] for row in told] == done.recommend("u3", k=2)["item"].to_list()
    assert main(["recommend", run, "--user", "u3", "-k", "2"]) == 0
    assert told[0]["item"] in capsys.readouterr().out
    assert main(["similar", run, "--item", "i5", "-k", "1", "--which", "last"]) == 0
    assert main(["export", run, "--out", str(tmp_path / "all"), "--format", "csv",
                 "--scorer"]) == 0  # fmt: skip
    assert (tmp_path / "all" / "scorer.mlirbc").is_file()
    assert (tmp_path / "all" / "scores.csv").is_file()
    capsys.readouterr()
    for words in (["recommend", run, "--user", "nobody"], ["recommend", run],
                  ["recommend", str(done.path / "config.yaml"), "--user", "u3"]):  # fmt: skip
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "no such user" in line or "required: --user" in line or "is a file; name" in line
