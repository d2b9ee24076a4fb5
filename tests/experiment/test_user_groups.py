"""Whom a run serves, by what data tell of users and by activity, and gaps as goals of a page."""

import json

import numpy as np
import polars as pl
import pytest
from small_data import write_config, write_folder
from test_report import fake_run

from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.user_groups import by_attribute
from fedjax_rec.report import figures
from fedjax_rec.report.reading import find_runs, group
from fedjax_rec.report.results import results
from fedjax_rec.report.tables import by_metric

pytestmark = pytest.mark.usefixtures("compiled_fast")

VALUES = np.array([[1.0, 0.1], [0.0, 0.2], [0.5, np.nan], [1.0, 0.4]])


def test_groups_are_of_few_words_and_of_activity():
    """Of users 4, 0, 2 and 1 of five; ages are too many words, and who tells none is in none."""
    features = pl.DataFrame(
        {
            "gender": ["F", "M", None, "F", "M"],
            "age": [18, 25, 18, 35, 25],
            "zip": ["a", "b", "c", "d", "e"],
            "town": ["x"] * 5,
        }
    )
    many = pl.DataFrame({"word": [str(i) for i in range(9)]})
    users, activity = np.array([4, 0, 2, 1]), np.array([3, 9, 2, 10])
    told = by_attribute(["hr@10", "auc"], VALUES, activity, users, features)
    assert sorted(told) == ["activity", "age", "gender", "zip"]
    assert told["gender"]["hr@10"] == {
        "F": {"users": 1, "mean": 0.0}, "M": {"users": 2, "mean": 1.0},
    }  # fmt: skip
    assert told["activity"]["hr@10"]["active"] == {"users": 2, "mean": 0.5}
    assert told["activity"]["auc"]["inactive"] == {"users": 1, "mean": 0.1}
    alike = np.full(4, 7)
    assert by_attribute(["hr@10"], VALUES[:, :1], alike, users, None) == {}
    none = by_attribute(["hr@10"], VALUES[:, :1], activity, users, None)
    assert sorted(none) == ["activity"]
    assert sorted(by_attribute(["hr@10"], VALUES[:, :1], activity, users, many)) == ["activity"]


def test_a_run_tells_its_groups(tmp_path, monkeypatch):
    write_config(tmp_path / "tiny.yaml", write_folder(tmp_path / "tiny"), rounds=1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(figures, "draw_all", lambda folder: [])
    words = ["run", str(tmp_path / "tiny.yaml"), "--quiet", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    told = json.loads((tmp_path / "run" / "summary.json").read_text())["by_attribute"]["activity"]
    (each,) = group(find_runs([tmp_path / "run"]))
    users = each.runs[0].per_user
    assert users is not None
    values = users.values[:, users.metrics.index("hr@5")]
    more = users.activity > users.activity.mean()
    want = [float(np.mean(values[mine])) for mine in (more, ~more)]
    means = [told["hr@5"][name]["mean"] for name in ("active", "inactive")]
    np.testing.assert_allclose(means, want)
    np.testing.assert_allclose(each.best("gap:activity:hr@5"), [abs(want[0] - want[1])])
    assert np.isnan(each.best("gap:gender:hr@5")).all()


def test_a_name_with_a_point_is_no_path(tmp_path):
    """`gender_0.5` and `activity_0.5` do not both end in `5`."""
    for name, negatives in (("gender_0.5", "train"), ("activity_0.5", "paper")):
        fake_run(tmp_path / "runs" / name, name=name, negatives=negatives)
    targets = tmp_path / "targets.yaml"
    text = [f"- match: {{name: {n}_0.5}}\n  note: of {n}.\n" for n in ("gender", "activity")]
    targets.write_text("".join(text))
    page, *_ = results([tmp_path / "runs"], targets, tmp_path / "page.md")
    assert "`gender_0.5`: of gender." in page.read_text()


def test_a_gap_may_be_a_goal(tmp_path):
    for seed, women in ((1, 0.25), (2, 0.45)):
        path = fake_run(tmp_path / "runs" / str(seed), seed) / "summary.json"
        told = {"F": {"users": 2.0, "mean": women}, "M": {"users": 3.0, "mean": 0.5}}
        summary = json.loads(path.read_text()) | {"by_attribute": {"gender": {"hr@10": told}}}
        path.write_text(json.dumps(summary))
    targets = tmp_path / "targets.yaml"
    targets.write_text(
        "- match: {name: pfedrec_ml100k}\n  gap:gender:hr@10: {at_most: 0.2}\n  source: nobody\n"
    )
    page, *_ = results([tmp_path / "runs"], targets, tmp_path / "page.md")
    text = page.read_text()
    assert "gap by gender, HR@10" in text and "0.1500 ± 0.1414" in text and "inside" in text


def test_the_smallest_gap_comes_first(tmp_path):
    for name, negatives, women in (("wide", "paper", 0.25), ("narrow", "train", 0.45)):
        path = fake_run(tmp_path / name, negatives=negatives) / "summary.json"
        told = {"F": {"users": 2.0, "mean": women}, "M": {"users": 3.0, "mean": 0.5}}
        summary = json.loads(path.read_text()) | {"by_attribute": {"gender": {"hr@10": told}}}
        path.write_text(json.dumps(summary))
    ordered = by_metric(group(find_runs([tmp_path])), "gap:gender:hr@10")
    assert [each.runs[0].folder.name for each in ordered] == ["narrow", "wide"]
