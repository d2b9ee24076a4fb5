"""A configuration whose source gives labelled examples: a whole run, and what is refused."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from fedjax_rec.experiment import config, run
from fedjax_rec.experiment.config import ConfigError
from fedjax_rec.experiment.loaded import load_run
from fedjax_rec.experiment.main import main
from fedjax_rec.types import Cohort

ROOT = Path(__file__).resolve().parents[2]

CLICKS = """
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
from flax import nnx
from fedjax_rec import data, models, strategies
from fedjax_rec.types import Model, Strategy


def clicks(n: int = 600) -> data.Examples:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 50, (n, 2))
    labels = rng.random(n) < 1 / (1 + np.exp(-3 * rng.normal(size=50)[ids].sum(1)))
    part = rng.choice([0, 0, 0, 1, 2], n).astype(np.int8)
    fields = {"ids": ids, "labels": labels}
    return data.Examples("clicks", fields, rng.integers(0, 12, n), part, 50)


class Sum(nnx.Module):
    def __init__(self, rows):
        self.table = models.Rows(jnp.zeros((rows, 1)), fields=("ids",))

    def predict(self, batch):
        return self.table[batch["ids"]].sum((1, 2))

    def loss(self, batch, key):
        return models.bce()(self.predict(batch), batch)


def model(num_items: int) -> Model:
    return models.from_nnx(lambda rngs: Sum(num_items))


def blind(model, examples, probe) -> Strategy:
    made = strategies.fedavg(model, examples, probe)
    return replace(made, model=replace(made.model, predict=None))
"""

CLUSTERS = {
    "class_path": "fedjax_rec.strategies.ifca",
    "init_args": {
        "clusters": 2,
        "optimizer": {"class_path": "optax.sgd", "init_args": {"learning_rate": 1.0}},
    },
}


@pytest.fixture
def read(tmp_path, monkeypatch):
    (tmp_path / "ourlab.py").write_text(CLICKS)
    monkeypatch.syspath_prepend(tmp_path)

    def read(changes=()):
        page = {
            "data": {"source": {"class_path": "ourlab.clicks"}},
            "model": {"class_path": "ourlab.model"},
            "examples": {"class_path": "fedjax_rec.data.examples"},
            "strategy": {
                "class_path": "fedjax_rec.strategies.fedavg",
                "init_args": {
                    "optimizer": {
                        "class_path": "fedjax_rec.clients.sgd",
                        "init_args": {"learning_rate": 10.0},
                    }
                },
            },
            "evaluation": {"candidates": "examples", "every": 5},
            "rounds": 20,
            **dict(changes),
        }
        path = tmp_path / "page.yaml"
        path.write_text(yaml.safe_dump(page))
        return config.read(path)

    yield read
    sys.modules.pop("ourlab", None)


def test_a_run_learns_and_reports(read, tmp_path, capsys):
    summary = run.run(read(), tmp_path / "out", show=False)
    assert summary["selected_by"] == "validation_auc"
    assert summary["best"]["auc"] > 0.8 and summary["best"]["gauc"] > 0.75
    assert set(summary["distribution"]) == {"auc", "log_loss", "accuracy"}
    assert summary["data"]["examples"] == 600 and summary["data"]["fields"]["ids"] == "int64[2]"
    assert summary["final"]["log_loss"] < np.log(2)
    done = load_run(tmp_path / "out")
    table = done.reliability(bins=15)
    weight = table["examples"] / table["examples"].sum()
    wanted = (weight * (table["rate"] - table["confidence"]).abs()).sum()
    assert summary["best"]["ece"] == pytest.approx(wanted, abs=1e-5) and wanted > 0
    assert table["examples"].sum() == done.experiment.read.cases["test"].fields["labels"].shape[0]
    inside = (table["confidence"] >= table["low"]) & (table["confidence"] <= table["high"])
    assert inside.all()
    assert main(["reliability", str(tmp_path / "out"), "--bins", "0"]) == 2
    assert "reliability(bins=0)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"evaluation": {}}, "candidates=full ranks items"),
        ({"evaluation": {"candidates": "examples", "of": "personal"}}, "use aggregated"),
        ({"evaluation": {"candidates": "examples", "groups": ["tail"]}}, "are of items; leave"),
        ({"examples": {"class_path": "fedjax_rec.data.pointwise"}}, "use examples: "),
        ({"model": {"class_path": "fedjax_rec.models.fedmf"}}, "predicts no labelled examples"),
        ({"strategy": {"class_path": "ourlab.blind"}}, "blind makes a model that predicts no lab"),
        ({"data": {"source": "synthetic"}}, "needs labelled examples"),
        (
            {
                "data": {"source": "synthetic"},
                "examples": {"class_path": "fedjax_rec.data.pointwise"},
                "evaluation": {},
            },
            r"model=ourlab.model scores no items; give it a method score\(items, user\)",
        ),
    ],
)
def test_parts_made_for_interactions_are_refused(read, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        run.prepare(read(changes))


def test_a_strategy_of_of_clusters_predicts_by_that_of_the_client(read):
    """Clients that have trained stand in a cluster each, whose model predicts their examples."""
    made = run.prepare(read({"strategy": CLUSTERS}))
    key, store = jax.random.key(0), made.dataset.store
    state = made.strategy.init(key, store.num_clients)
    cohort = Cohort(jnp.arange(store.num_clients), store)
    state, info = jax.jit(made.strategy.round)(key, state, cohort)
    of_clients, over_all = made.measure.values(state, info, cohort.ids)
    assert of_clients["test"].shape[1] == 3 and np.isfinite(over_all["test"]).all()


@pytest.mark.parametrize("model", ["dlrm", "dcn", "deepfm"])
def test_click_configurations_are_read_and_take_an_embedding(model):
    changes = "--data.source.num_clients 12 --data.source.num_rows 200"
    table = "--model.embedding fedjax_rec.models.hashed --model.embedding.rows 50"
    table += " --model.embedding.dtype bfloat16"
    server = "--strategy.server fedjax_rec.strategies.stochastic_step --cohorts.size 5"
    given = f"--choose {model} {changes} {table} {server}".split()
    read = config.read(ROOT / "configs" / "large" / "clicks.yaml", given)
    made = run.prepare(read)
    shared = jax.eval_shape(lambda: made.strategy.init(jax.random.key(0), 12)).shared
    table = shared["table"]["table"].values
    assert table.shape[0] == 50 and table.dtype == jnp.bfloat16
    assert made.read.described["rows"] == 200
