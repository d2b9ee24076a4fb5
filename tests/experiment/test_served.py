"""Runs among popular candidates and with groups of items, and who is served in the report."""

import json

import numpy as np
import pytest
from small_data import write_config, write_folder
from test_report import fake_run

from fedjax_rec import evaluate
from fedjax_rec.experiment.folder import fingerprint
from fedjax_rec.experiment.main import main
from fedjax_rec.report import figures
from fedjax_rec.report.reading import find_runs, group
from fedjax_rec.report.served import served

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("served")
    write_config(place / "tiny.yaml", write_folder(place / "tiny"), rounds=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        patch.setattr(figures, "draw_all", lambda folder: [])
        words = ["--evaluation.candidates=sampled", "--data.evaluation_negatives=6", "--quiet"]
        words += ["--evaluation.groups=[head, tail, cold]"]
        popular = ["--data.evaluation_draws=popularity_draws", "--data.evaluation_draws.alpha=0.5"]
        for name, more in (("uniform", []), ("popular", popular)):
            out = ["--out", str(place / name)]
            assert main(["run", str(place / "tiny.yaml"), *words, *more, *out]) == 0
    return place


def test_the_record_says_how_candidates_were_drawn(place):
    uniform, popular = (
        json.loads((place / name / "summary.json").read_text()) for name in ("uniform", "popular")
    )
    assert uniform["evaluation"] == "sampled-6"
    assert popular["evaluation"] == "popularity^0.5-6"
    assert uniform["best"]["hr@5"] != popular["best"]["hr@5"]
    assert main(["report", str(place), "--out", str(place / "report")]) == 0
    text = (place / "report" / "report.md").read_text()
    assert "## tiny, sampled-6" in text and "## tiny, popularity^0.5-6" in text


def test_too_few_popular_items_are_one_line(place, capsys):
    words = ["--evaluation.candidates=sampled", "--data.evaluation_negatives=30"]
    words += ["--data.evaluation_draws=popularity_draws", "--out", str(place / "few")]
    assert main(["run", str(place / "tiny.yaml"), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "evaluation_negatives=30 takes 60 items, and user 'u" in line
    assert not (place / "few").exists()


def test_groups_are_measured_and_told(place):
    (each,) = group(find_runs([place / "uniform"]))
    run = each.runs[0]
    assert run.summary["evaluation"] == "sampled-6"  # the same way of measuring, more closely
    assert {"head_hr@5", "tail_mrr", "validation_cold_hr@5"} <= set(run.records[0])
    values = dict(zip(run.per_user.metrics, run.per_user.values.T, strict=True))
    inside = ~np.isnan(values["head_hr@5"])  # one held-out item a user
    np.testing.assert_array_equal(values["head_hr@5"][inside], values["hr@5"][inside])
    quarters = run.summary["by_activity"]["hr@5"]
    assert sum(q["users"] for q in quarters.values()) == 60
    told = evaluate.by_activity(values["hr@5"], run.per_user.activity)
    assert {k: q["mean"] for k, q in quarters.items()} == {k: q["mean"] for k, q in told.items()}
    titles, rows = served([each])
    assert titles[-2:] == ["head", "tail"]  # nothing is cold here
    assert rows[0][1] == "HR@5"
    assert rows[0][2:6] == [f"{q['mean']:.4f}" for q in quarters.values()]
    assert rows[0][6] == f"{run.summary['best']['head_hr@5']:.4f}"


def test_the_report_says_who_is_served_over_seeds(tmp_path):
    for seed in (1, 2):
        fake_run(tmp_path / str(seed), seed)
    each = group(find_runs([tmp_path]))
    titles, ((name, metric, *cells),) = served(each)
    assert len(titles) == 6 and (name, metric) == ("pfedrec_ml100k", "HR@10")
    means = [
        [
            q["mean"]
            for q in evaluate.by_activity(r.per_user.values[:, 0], r.per_user.activity).values()
        ]
        for r in each[0].runs
    ]
    assert cells == [f"{x:.4f}" for x in np.mean(means, 0)]
    assert (
        main(
            [
                "report",
                str(tmp_path),
                "--out",
                str(tmp_path / "r"),
                "--html",
                str(tmp_path / "p.html"),
            ]
        )
        == 0
    )
    for text in ((tmp_path / "r" / "report.md").read_text(), (tmp_path / "p.html").read_text()):
        assert "Who is served" in text and "most active" in text and cells[0] in text
    (tmp_path / "1" / "per_user.npz").unlink()
    assert served(group(find_runs([tmp_path])))[1] == []


def test_keys_that_came_later_change_no_run_without_them(tmp_path):
    old = {"data": {"source": "x"}, "evaluation": {"fit": None, "every": 1}}
    new = {"data": {"source": "x", "evaluation_draws": None},
           "evaluation": {"fit": None, "groups": None, "every": 1}}  # fmt: skip
    assert fingerprint(old) == fingerprint(new)
    new["evaluation"]["groups"] = ["tail"]
    assert fingerprint(old) != fingerprint(new)
