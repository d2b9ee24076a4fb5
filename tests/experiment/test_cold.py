"""The key `evaluation.fit`: what it does to cold users, what it says, and what it refuses."""

import json
from pathlib import Path

import pytest
from small_data import write_config, write_folder

from fedjax_rec.experiment.main import main

COLD = {"class_path": "fedjax_rec.data.cold_users", "init_args": {"fraction": 0.3}}
WORDS = ["--evaluation.fit.learning_rate=2.0", "--evaluation.fit.epochs=2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("cold")
    source = write_folder(root / "small", shortest=8)
    write_config(root / "cold.yaml", source, rounds=1, data={"source": str(source), "split": COLD})
    write_config(root / "warm.yaml", source, rounds=1)
    return root


def ran(place: Path, name: str, *words: str) -> dict:
    out = place / f"{name}-{len(words)}"
    assert main(["run", str(place / f"{name}.yaml"), "--out", str(out), *words]) == 0
    return json.loads((out / "summary.json").read_text())


def test_cold_users_are_fitted_and_tables_say_so(place, monkeypatch):
    monkeypatch.setattr("fedjax_rec.report.figures.draw_all", lambda path: None)
    plain, fitted = ran(place, "cold"), ran(place, "cold", *WORDS)
    assert plain["evaluation"] == "full catalogue"
    assert fitted["evaluation"] == "full catalogue, cold users fitted"
    assert plain["best"]["loss"] == fitted["best"]["loss"]
    assert plain["best"]["mrr"] != fitted["best"]["mrr"]


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("warm", WORDS, "no user is cold and has known rows; use data.split: cold_users"),
        ("cold", ["--evaluation.fit.learning_rate=0"], "evaluation.fit(learning_rate=0"),
        ("cold", [*WORDS, "--evaluation.of=personal"], "evaluation.of=personal"),
        (
            "cold", [*WORDS, "--data.clients.class_path=fedjax_rec.data.by_hash",
                     "--data.clients.init_args.num_clients=4", "--cohorts.size=4"],
            "holds cold users and others",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_fitted_is_one_line(place, capsys, name, words, told):
    assert main(["run", str(place / f"{name}.yaml"), "--out", str(place / "no"), *words]) != 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("fedjax-rec:")]
    assert told in line
