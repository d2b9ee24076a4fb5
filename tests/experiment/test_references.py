"""Central references: whole runs of them, and the lines and shares that the page of results has."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_data import ITEMS, USERS, write_config, write_folder
from test_report import best, cells, edit, fake_run

from fedjax_rec.experiment.main import main
from fedjax_rec.report.results import results

pytestmark = pytest.mark.usefixtures("compiled_fast")

FITS = {
    "popularity": ("item_scores", {}),
    "item_knn": ("item_weights", {"neighbours": 5, "shrinkage": 1.0}),
    "ease": ("item_weights", {"l2": 2.0}),
    "ials": ("fedmf", {"sweeps": 2}),
    "lightgcn": ("fedmf", {"layers": 2}),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs of every fit on one small data set, in `runs/<fit>`."""
    place = tmp_path_factory.mktemp("references")
    source = write_folder(place / "tiny")
    for fit, (model, numbers) in FITS.items():
        part = {"class_path": f"fedjax_rec.models.{fit}", "init_args": numbers}
        changes = {
            "model": {"class_path": f"fedjax_rec.models.{model}"},
            "strategy": {"class_path": "fedjax_rec.strategies.central", "init_args": {"fit": part}},
            "cohorts": "fedjax_rec.simulate.full",
            "evaluation": {"metrics": ["hr@5"], "candidates": "both"},
            "data": {"source": str(source), "evaluation_negatives": 8},
            "rounds": 2 if model == "fedmf" else 1,
        }
        config = write_config(place / f"{fit}.yaml", source, **changes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
            assert main(["run", str(config), "--out", str(place / "runs" / fit), "--quiet"]) == 0
    return place


def rows_of(source: Path) -> np.ndarray:
    """int[n, 2]: the users and items of `tiny.inter`, in the order of time."""
    lines = (source / "tiny.inter").read_text().splitlines()[1:]
    pairs = [line.split("\t")[:2] for line in lines]
    return np.array([[int(user[1:]), int(item[1:])] for user, item in pairs])


def test_a_run_of_ease_ranks_as_numpy_does(place):
    """Split, fit, ranking and HR@5, from the file on disk."""
    met = rows_of(place / "tiny")
    last = {user: met[met[:, 0] == user][:, 1] for user in range(USERS)}
    x = np.zeros((USERS, ITEMS))
    for user, items in last.items():
        x[user, items[:-2]] = 1
    inverse = np.linalg.inv(x.T @ x + 2.0 * np.eye(ITEMS))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    scores, hits = x @ weights, {"validation_hr@5": [], "hr@5": []}
    for user, items in last.items():
        for name, held, seen in (("validation_hr@5", -2, items[:-2]), ("hr@5", -1, items[:-1])):
            others = np.setdiff1d(np.arange(ITEMS), [*seen, items[held]])
            above = (scores[user, others] >= scores[user, items[held]] - 1e-6).sum()
            hits[name].append(above < 5)
    record = json.loads((place / "runs/ease/metrics.jsonl").read_text())
    assert 0 < np.mean(hits["hr@5"]) < 1
    for name, hit in hits.items():
        np.testing.assert_allclose(record[name], np.mean(hit), atol=1e-6)
    assert record["bytes_up"] == record["bytes_down"] == 0 and record["clients"] == USERS


def test_a_run_of_popularity_ranks_by_counts(place):
    met = rows_of(place / "tiny")
    items = [met[met[:, 0] == user][:, 1] for user in range(USERS)]
    count = np.bincount(np.concatenate([mine[:-2] for mine in items]), minlength=ITEMS)
    # Among equals the held-out item comes last.
    others = [np.setdiff1d(np.arange(ITEMS), mine) for mine in items]
    pairs = zip(items, others, strict=True)
    hits = [(count[other] >= count[mine[-1]]).sum() < 5 for mine, other in pairs]
    record = json.loads((place / "runs/popularity/metrics.jsonl").read_text())
    np.testing.assert_allclose(record["hr@5"], np.mean(hits), atol=1e-6)


@pytest.mark.parametrize("fit", ["ials", "lightgcn"])
def test_fits_go_on_from_round_to_round(place, fit):
    lines = (place / f"runs/{fit}/metrics.jsonl").read_text().splitlines()
    first, second = (json.loads(line)["loss"] for line in lines)
    assert second < first


def test_a_pair_that_makes_no_sense_is_one_line_and_leaves_nothing(place, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    out = place / "refused"
    words = ["run", str(place / "ease.yaml"), "--out", str(out), "--model", "fedmf"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "central(fit=...) fills shared['weights'] [40, 40]" in error and not out.exists()


def run_of(folder, level, fit=None, *, name, clients=USERS, sampled=None, **about):
    """A fake run, of `central` if it has a `fit`; sampled: HR@10 beside it, also on validation."""
    about = {"evaluation": "full catalogue", "negatives": "train", "model": "fedmf", **about}
    fake_run(folder, level=level, name=name, strategy="central" if fit else "fedavg", **about)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    if fit:
        part = {"class_path": f"fedjax_rec.models.{fit}", "init_args": {}}
        config["strategy"] = {"class_path": "strategies.central", "init_args": {"fit": part}}
    summary = json.loads((folder / "summary.json").read_text())
    summary["data"]["clients"] = clients
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    if sampled is not None:
        beside = {"sampled_hr@10": sampled, "validation_sampled_hr@10": sampled}
        edit(folder, lambda record: record.update(beside))


BOTH = "full catalogue and sampled-99"


@pytest.fixture
def runs(tmp_path):
    """Two closed forms under both protocols, and what is held against them."""
    run_of(tmp_path / "pop", 0.3, "popularity", name="pop", evaluation=BOTH, sampled=0.5)
    run_of(tmp_path / "ease", 0.8, "ease", name="ease", evaluation=BOTH, sampled=0.75)
    run_of(tmp_path / "other", 0.9, "ease", name="other", data="ml-1m", evaluation=BOTH)
    run_of(tmp_path / "fedavg", 0.6, name="fedavg")
    run_of(tmp_path / "paper", 0.5, name="paper", negatives="paper")
    run_of(tmp_path / "low", 0.2, name="low", model="gmf", negatives="paper")
    run_of(tmp_path / "gmf", 0.4, name="gmf", model="gmf", clients=1)
    run_of(tmp_path / "alone", 0.7, name="alone", clients=1, cohort=1)
    run_of(tmp_path / "own", 0.6, name="own", evaluation="sampled-99, own model")
    return tmp_path


def shown(folder, *folders, **more):
    page, *_ = results([folder / name for name in folders] or [folder], None, folder / "page.md")
    return page.read_text()


def test_rows_keep_a_share_of_the_best_closed_form(runs):
    text = shown(runs)
    table = cells(text.split("### ")[0].split("## Rounds")[0])
    rows = {(row["run"], row["evaluation"]): row for row in table}
    share = lambda of, by: f"{best(runs / of, 'hr@10') / by:.0%}"
    full = {name: best(runs / name, "hr@10") for name in ("pop", "ease", "fedavg", "low", "alone")}
    of_fedavg = rows["fedavg", "full catalogue"]["share"]
    central = f"{full['fedavg'] / full['alone']:.0%} of itself trained centrally"
    assert of_fedavg == f"{share('fedavg', full['ease'])} of ease; {central}"
    # What was trained in one place is a line itself, of its model with its negatives alone.
    assert rows["alone", "full catalogue"]["share"] == f"{share('alone', full['ease'])} of ease"
    assert rows["paper", "full catalogue"]["share"] == f"{share('paper', full['ease'])} of ease"
    # Other negatives change no closed form.
    low = f"{share('low', full['ease'])} of ease; below popularity"
    assert rows["low", "full catalogue"]["share"] == low
    assert rows["own", "sampled-99, own model"]["share"] == f"{share('own', 0.75)} of ease"


def test_references_are_the_first_rows_under_each_protocol(runs):
    text = shown(runs)
    table = cells(text.split("## Rounds")[0])
    lines = [(row["run"], row["evaluation"], row["HR@10"], row["share"]) for row in table[:5]]
    full = {name: best(runs / name, "hr@10") for name in ("pop", "ease", "alone")}
    part = f"{full['pop'] / full['ease']:.0%} of ease"
    alone = f"{full['alone'] / full['ease']:.0%}"
    assert lines == [
        ("pop", "full catalogue", f"{full['pop']:.4f}", part),
        ("alone", "full catalogue", f"{full['alone']:.4f}", f"{alone} of ease"),
        ("ease", "full catalogue", f"{full['ease']:.4f}", "best central fit"),
        ("pop", "sampled-99", "0.5000", "67% of ease"),
        ("ease", "sampled-99", "0.7500", "best central fit"),
    ]
    # ml-1m has no other row, and so no line; what is nobody's reference is a row.
    assert sorted(row["run"] for row in table[5:]) == ["fedavg", "gmf", "low", "own", "paper"]
    assert [row["negatives"] for row in table[:5]] == ["", "train", "", "", ""]
    assert "The first rows are lines of reference" in text
    settings = yaml.safe_load((runs / "page/settings.yaml").read_text())
    assert list(settings)[:2] == ["row 6", "row 7"] and "ml-1m" not in text
    names = {key: told["run"].split(",")[0] for key, told in settings.items() if "ref" in key}
    assert names == {"reference 1": "pop", "reference 2": "alone", "reference 3": "ease"}


def test_a_line_that_has_a_target_keeps_it(runs):
    goals = runs / "targets.yaml"
    goals.write_text("- match: {name: alone}\n  hr@10: {at_least: 0.1}\n  note: It holds all.\n")
    text = results([runs], goals, runs / "page.md")[0].read_text()
    rows = {row["run"]: row for row in cells(text.split("## Rounds")[0])}
    assert rows["alone"]["verdict"].startswith("HR@10 inside") and "`alone`: It holds all" in text
    assert rows["ease"]["target"] == "" and rows["fedavg"]["target"] == "none"
    assert "not run" not in text


def test_the_table_of_rounds_has_them_too(runs):
    rounds = shown(runs).split("## Rounds to target: ml-100k, full catalogue")[1]
    rows = cells(rounds.split("## Settings")[0])
    assert [row["strategy"] for row in rows[:3]] == ["pop", "alone", "ease"]
    assert rows[2]["share"] == "best central fit" and rows[2]["rounds to 80%"] == ""
    assert next(row for row in rows if row["strategy"] == "low")["share"].endswith("popularity")


def test_a_line_that_reaches_nothing_is_no_measure(runs):
    for name in ("ease", "pop"):
        edit(runs / name, lambda record: record.update({"hr@10": 0.0}))
    rows = {row["run"]: row for row in cells(shown(runs, "ease", "pop", "low"))}
    assert rows["low"]["share"] == rows["pop"]["share"] == "ease reaches 0"


def test_another_split_is_no_reference(runs):
    config = yaml.safe_load((runs / "fedavg/config.yaml").read_text())
    config["data"]["split"] = {"class_path": "fedjax_rec.data.temporal_ratio"}
    (runs / "fedavg/config.yaml").write_text(yaml.safe_dump(config))
    [row] = cells(shown(runs, "ease", "pop", "fedavg").split("## Rounds")[0])
    assert row["run"] == "fedavg" and row["share"] == ""


def test_features_split_nothing(runs):
    config = yaml.safe_load((runs / "fedavg/config.yaml").read_text())
    config["data"]["features"] = {"class_path": "fedjax_rec.data.features"}
    (runs / "fedavg/config.yaml").write_text(yaml.safe_dump(config))
    table = cells(shown(runs, "ease", "pop", "fedavg").split("## Rounds")[0])
    assert [row["run"] for row in table][-1] == "fedavg" and "of ease" in table[-1]["share"]


def test_references_by_themselves_are_ordinary_rows(runs):
    rows = cells(shown(runs, "ease", "pop"))
    assert [(row["run"], row["evaluation"]) for row in rows] == [("ease", BOTH), ("pop", BOTH)]
    assert rows[0]["share"] == "best central fit"


def test_without_references_nothing_is_said_of_them(runs):
    text = shown(runs, "fedavg", "gmf")
    assert "share" not in cells(text.split("## Rounds")[0])[0] and "reference" not in text
