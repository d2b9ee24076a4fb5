"""Attacks named in a configuration: added accounts are clients, and no metric counts them."""

import json
from pathlib import Path

import numpy as np
import pytest
from small_data import USERS, write_config, write_folder

from fedjax_rec.experiment import config
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.experiment.run import run

A = "fedjax_rec.attacks"
MEASURED = {"metrics": ["hr@5", "er@5", "target_ndcg@5"], "targets": [39]}
SPLIT = {"class_path": f"{A}.random_profiles", "init_args": {"targets": [39], "filler": 4}}
RULE = {
    "class_path": f"{A}.attacked",
    "init_args": {
        "aggregator": {"class_path": "fedjax_rec.aggregate.total"},
        "attack": {
            "class_path": f"{A}.pieck_uea",
            "init_args": {"targets": [39], "popular": 5, "mining": 1, "rate": 5.0},
        },
        "malicious": {"class_path": f"{A}.from_id", "init_args": {"first": USERS}},
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("data") / "toy")


def test_a_run_under_attack_measures_real_users_alone(source, tmp_path, compiled_fast, monkeypatch):
    monkeypatch.setattr("fedjax_rec.report.figures.draw_all", lambda path: None)
    parts = {"aggregator": RULE, "stages": []}
    path = write_config(
        tmp_path / "a.yaml", source, evaluation=MEASURED,
        data={"source": str(source), "split": SPLIT}, rounds=4,
        cohorts={"class_path": "fedjax_rec.simulate.full"},
        strategy={"class_path": "fedjax_rec.strategies.fedmf", "init_args": parts},
    )  # fmt: skip
    made = config.read(path)
    experiment = prepare(made)
    assert experiment.dataset.num_clients == USERS + 3
    assert experiment.dataset.test.users.shape == (USERS,)
    assert experiment.measure.protocol.names == ("hr@5", "er@5", "target_ndcg@5")
    run(made, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("er@5", "validation_er@5", "target_ndcg@5"):
        assert lines[0][name] < 0.1 and lines[-1][name] > 0.3
    assert np.load(tmp_path / "run" / "per_user.npz")["values"].shape == (USERS, 3)


def test_titles_that_a_split_changes_are_what_models_read(tmp_path):
    source = write_folder(tmp_path / "named")
    lines = [f"i{i}\tFilm {i}" for i in range(40)]
    text = "\n".join(["item_id:token\tmovie_title:token_seq", *lines])
    (source / "named.item").write_text(text + "\n")
    split = {"class_path": f"{A}.renamed", "init_args": {"targets": [3], "to": "Star, {title}"}}
    plain, poisoned = (
        prepare(config.read(write_config(tmp_path / "a.yaml", source, data=found))).read.late
        for found in ({"source": str(source)}, {"source": str(source), "split": split})
    )
    wanted = list(plain["titles"])
    wanted[3] = f"Star, {wanted[3]}"
    assert poisoned["titles"] == wanted and wanted[3].startswith("Star, Film")


@pytest.mark.parametrize(
    ("evaluation", "complaint"),
    [
        ({"metrics": ["hr@5", "er@5"]}, "targets=\\[\\] with metrics"),
        ({"metrics": ["hr@5"], "targets": [1]}, "targets=\\[1\\] with metrics"),
        ({"metrics": ["er@5", "hr@5"], "targets": [1]}, "the first metric of held-out items"),
        ({"metrics": ["hr@5", "er@5"], "targets": [40]}, "does not exist; use ids from 0 to 39"),
    ],
)
def test_targets_that_do_not_fit_are_one_line(source, tmp_path, evaluation, complaint):
    path = write_config(tmp_path / "a.yaml", source, evaluation=evaluation)
    with pytest.raises(ValueError, match=complaint) as error:
        prepare(config.read(path))
    assert "\n" not in str(error.value)


CHOICES = {
    "pieck_ml100k": (
        "none", "uea", "ipe", "bandwagon", "ipm", "alie", "mimic", "sign_flip", "psmu", "cluster",
        "optimal_ipm", "optimal_alie", "label_flip",
    ),
    "spattack_ml100k": ("none", "o_dense", "o_sparse_5", "l_dense_5", "l_sparse"),
    "titles_ml100k": ("none", "renamed", "before", "words"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHOICES)
def test_the_attacks_of_committed_files_are_read(name):
    path = Path(__file__).parents[2] / f"configs/robust/{name}.yaml"
    for choice in CHOICES[name]:
        made = config.read(path, {"choose": choice})
        assert made.evaluation.targets == (() if name == "spattack_ml100k" else (1430,))
        assert made.make_strategy


@pytest.mark.parametrize("choice", ["none", "a_ra", "a_hum"])
def test_attacks_that_want_a_model_are_read_with_one(choice):
    path = Path(__file__).parents[2] / "configs/robust/a_hum_ml1m.yaml"
    made = config.read(path, {"choose": choice})
    assert made.evaluation.targets == (1492,) and made.make_strategy
