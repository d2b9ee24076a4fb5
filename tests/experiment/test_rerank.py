"""Lists of two small runs, put together and ranked anew, against loops over users and items."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_data import ITEMS, write_config, write_folder

from fedjax_rec import models
from fedjax_rec.experiment import exported
from fedjax_rec.experiment.config import ConfigError
from fedjax_rec.experiment.loaded import load_run
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.rerank import rerank, written
from fedjax_rec.experiment.rerank_file import read_reranking
from fedjax_rec.report.reranked import chosen, read_reranked, section, table

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_llama

pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
ROOT = Path(__file__).resolve().parents[2]
K, HISTORY, USERS, SOME = 7, 3, 50, 20
CENTRAL = "fedjax_rec.strategies.central"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two fits and a popularity count on the same interactions, and one without titles."""
    place = tmp_path_factory.mktemp("rerank")
    folder = write_folder(place / "tiny")
    lines = ["item_id:token\ttitle:token_seq", *(f"i{i}\t{i} {7 * i % 50}" for i in range(ITEMS))]
    (folder / "tiny.item").write_text("\n".join(lines) + "\n")
    write_folder(place / "bare", shortest=4)
    for name, fit, source in (
        ("ease", "ease", "tiny"),
        ("knn", "item_knn", "tiny"),
        ("popular", "popularity", "tiny"),
        ("untitled", "ease", "bare"),
    ):
        model = "item_scores" if fit == "popularity" else "item_weights"
        strategy = {"class_path": CENTRAL, "init_args": {"fit": f"fedjax_rec.models.{fit}"}}
        path = write_config(
            place / f"{name}.yaml", place / source, rounds=1, strategy=strategy,
            model=f"fedjax_rec.models.{model}", cohorts="fedjax_rec.simulate.full",
            evaluation={"metrics": ["ndcg@5", "hr@5"]},
        )  # fmt: skip
        assert main(["run", str(path), "--out", str(place / name), "--quiet"]) == 0
    return place


def keys(place: Path, **changes) -> dict:
    words = {"source": tiny_llama.folder(), "opening": "499", "item": "{title} 3", "most": 8}
    return {
        "out": str(place / "out"), "runs": {"a": str(place / "ease"), "b": str(place / "knn")},
        "judge": {"class_path": "title_likelihood", "init_args": words}, "k": K,
        "history": HISTORY, "metrics": ["ndcg@5", "hr@5"], "users": USERS, "subtract": [0.5],
        "weights": [1], "shares": [0.25], "beside": {"popularity": str(place / "popular")},
        **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(place):
    plan = read_reranking(keys(place))
    made = rerank(plan)
    return plan, made, written(plan, made)


def z(values):
    return (values - np.mean(values)) / (np.std(values) or 1.0)


def test_lists_are_those_of_a_loop(place, found):
    plan, made, _ = found
    runs = [load_run(place / name) for name in ("ease", "knn")]
    split = runs[0].experiment.read.split
    known = split.interactions
    judge = models.title_likelihood(
        [f"{i.removeprefix('i')} {7 * int(i.removeprefix('i')) % 50}" for i in known.item_names],
        **plan.judge["init_args"],
    )
    alone = models.alone(judge, np.arange(known.num_items), K)
    whole = [_scores(run) for run in runs]
    hits = {name: [] for name in ("fused", "judge", "fused + judge")}
    for row, user in enumerate(made.users[:SOME]):
        mine = known.users == user
        seen = set(known.items[mine & (split.part != 2)].tolist())
        (target,) = known.items[mine & (split.part == 2)]
        free = np.array([i for i in range(known.num_items) if i not in seen])
        every = [scores[user][free] for scores in whole]
        fused = 0.25 * z(every[0]) + 0.75 * z(every[1])
        order = sorted(range(len(free)), key=lambda j: (-fused[j], free[j]))[:K]
        items = free[order]
        history = [int(i) for i in known.items[mine & (split.part != 2)]][-HISTORY:]
        said, _ = models.judged(judge, [[-1] * (HISTORY - len(history)) + history], [items])
        heard = z(said[0] - 0.5 * alone[items])
        both = z(fused[order]) + heard
        last = items[np.argsort(-both, kind="stable")]
        # No order of a list without what is held out changes a number: nobody is asked.
        assert made.items[row].tolist() == (last if target in items else items).tolist()
        hits["judge"].append(target in items[np.argsort(-heard, kind="stable")][:5])
        hits["fused + judge"].append(target in last[:5])
        of_target = fused[free.tolist().index(target)]
        hits["fused"].append((fused >= of_target).sum() <= 5)
    for name, want in hits.items():
        np.testing.assert_array_equal(made.values[name][:SOME, 1] > 0, want)
    assert sum(hits["fused"]) > 0


def _scores(run) -> np.ndarray:
    """float[users, items], as files for other programs have them; NaN of what was seen."""
    known = run.experiment.read.split.interactions
    scores = np.full((known.num_users, known.num_items), np.nan)
    users = {name: u for u, name in enumerate(known.user_names)}
    items = {name: i for i, name in enumerate(known.item_names)}
    told = exported.scores(run.experiment, run.read_config, run.state_of("best"), ITEMS)
    for user, _, item, score in told.iter_rows():
        scores[users[user], items[item]] = score
    return scores


def test_rows_of_runs_are_those_of_their_folders(place, found):
    _, made, _ = found
    for name, folder in (("a", "ease"), ("b", "knn"), ("popularity", "popular")):
        own = load_run(place / folder).files.per_user
        rows = np.searchsorted(own.users, made.users)
        columns = [own.metrics.index(metric) for metric in made.metrics]
        np.testing.assert_allclose(made.values[name], own.values[rows][:, columns], atol=1e-6)


def test_histories_that_are_cut_are_counted(found):
    _, made, _ = found
    # A title is three tokens: two of the last three find room among eight, one of which opens.
    assert made.cut == (USERS, USERS)


def test_the_judge_is_asked_once(place, found, monkeypatch):
    monkeypatch.setattr(models, "judged", None)
    monkeypatch.setattr(models, "alone", None)
    plan = read_reranking(keys(place, weights=[0.5, 2], subtract=[0, 0.5, 1]))
    again = rerank(plan)
    assert again.chosen["fused + judge"]["weight"] in (0.5, 2)
    np.testing.assert_array_equal(again.values["fused"], found[1].values["fused"])


def test_a_table_and_a_section_come_of_it(place, found, capsys):
    plan, made, files = found
    told = read_reranked(plan.out)
    rows = {row["list"]: row for row in table(told)}
    assert list(rows) == ["popularity", "a", "b", "fused", "judge", "fused + judge"]
    for name, row in rows.items():
        mean = made.values[name][:, 0].mean()
        assert row["ndcg@5"]["mean"] == pytest.approx(mean, abs=1e-6)
        assert row["ndcg@5"]["low"] <= mean + 1e-6 and mean <= row["ndcg@5"]["high"] + 1e-6
        below = name != "popularity" and made.values["popularity"][:, 0].mean() > mean
        assert row["below"] == (["popularity"] if below else [])
    assert "0.25 of a, 0.75 of b" in chosen(told)
    text = "\n".join(section(told, "file.yaml"))
    assert f"{USERS} users" in text and "| fused + judge |" in text
    path, page = place / "lists.yaml", place / "page.md"
    path.write_text(yaml.safe_dump(keys(place, section="Lists", page=str(page))))
    assert main(["rerank", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["list"] for row in told["rows"]] == list(rows) and str(page) in told["files"]
    assert "## Lists" in page.read_text() and "| fused + judge |" in page.read_text()
    assert files[0].is_file()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"k": ITEMS + 1}, r"rerank\(k=41\): the catalogue has 40 items; use k <= 40"),
        ({"k": 0}, r"rerank\(k=0\) is too small"),
        ({"runs": {"a": "x"}}, "nothing to put together; name two finished runs"),
        ({"runs": {"fused": "x", "b": "y"}}, "a run is called fused, and another list"),
        ({"beside": {"a": "x"}}, "a run is called a, and another list"),
        ({"shares": [2]}, r"shares=\[2\] is no list of numbers from 0 to 1"),
        ({"weights": []}, "weights=.. is no list of numbers"),
        ({"which": "first"}, "which=first is no state"),
        ({"fusion": "fedmf"}, "fusion"),
        ({"judge": {"class_path": "weighted_scores"}}, "judge"),
        ({"hist": 3}, "hist"),
        ({"section": "x"}, "section and page stand together"),
        ({"metrics": ["hr@3"]}, r"popularity .* has not measured hr@3"),
    ],
)
def test_what_makes_no_sense_is_one_line(place, changes, line):
    with pytest.raises((ConfigError, ValueError), match=line) as caught:
        rerank(read_reranking(keys(place, **changes)))
    assert "\n" not in str(caught.value)


def test_runs_of_other_data_and_data_without_titles_are_refused(place):
    bare, ease = str(place / "untitled"), str(place / "ease")
    with pytest.raises(ValueError, match="b is of other data, or another split, than a"):
        rerank(read_reranking(keys(place, runs={"a": ease, "b": bare})))
    with pytest.raises(ValueError, match="has no titles, and a judge reads nothing else"):
        rerank(read_reranking(keys(place, runs={"a": bare, "b": bare}, beside={})))


@pytest.mark.parametrize("file", sorted((ROOT / "configs" / "rerank").glob("*.yaml")), ids=str)
def test_shipped_files_are_read(file):
    plan = read_reranking(file)
    assert set(plan.judge["init_args"]) <= {"source", "opening", "item", "ask", "most"}
    assert plan.k > 10 and plan.section and Path(ROOT / str(plan.page)).is_file()
    assert all(sum(shares) == pytest.approx(1.0) for shares in plan.shares)
