"""The section `privacy`: what a run says it guarantees, and what it refuses to say.

Every run trains 60 users on 40 items for five rounds.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from small_data import timeless, write_config, write_folder

from fedjax_rec import privacy, simulate
from fedjax_rec.experiment import config as configs
from fedjax_rec.experiment import private, sweep
from fedjax_rec.experiment.folder import fingerprint, free_of
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.types import Cohort

pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
CLIP = {"class_path": "fedjax_rec.privacy.whole", "init_args": {"bound": 0.5}}
POISSON = {"class_path": "fedjax_rec.simulate.poisson", "init_args": {"rate": 0.3}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("private")
    source = write_folder(place / "tiny")
    write_config(place / "tiny.yaml", source, cohorts=POISSON)
    mine = {"clip": CLIP, "epsilon": 3.0, "delta": 1e-3}
    write_config(place / "private.yaml", source, cohorts=POISSON, privacy=mine)
    mine = {"clip": CLIP, "noise_multiplier": 1.0}
    write_config(place / "noise.yaml", source, cohorts=POISSON, privacy=mine)
    turns = {"class_path": "fedjax_rec.simulate.in_turns", "init_args": {"size": 30}}
    banded = {"class_path": "banded", "init_args": {"bands": 2}}
    mine = {"clip": CLIP, "epsilon": 3.0, "delta": 1e-3, "correlated": banded}
    write_config(place / "turns.yaml", source, cohorts=turns, privacy=mine)
    return place


def test_a_run_says_what_it_guarantees_round_by_round(place, capsys):
    out = place / "run"
    assert main(["run", str(place / "private.yaml"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "differential privacy of all that one client trains on" in said
    told = json.loads((out / "summary.json").read_text())["privacy"]
    sampling = privacy.poisson_sampled(0.3, 60, simulate.poisson(0.3).size(60))
    z = told["noise_multiplier"]
    assert z == privacy.noise_for(3.0, 1e-3, 5, sampling)
    assert 2.9 < told["epsilon"] <= 3 and told["delta"] == 1e-3 and told["rounds"] == 5
    for record in timeless(out):
        expected = privacy.epsilon_of(z, record["round"], sampling, 1e-3)
        assert record["epsilon"] == pytest.approx(expected)
    # What is written is read again, and the run is resumed; noise for five rounds is not for six.
    assert main(["run", str(out / "config.yaml"), "--out", str(out)]) == 0
    capsys.readouterr()
    assert main(["run", str(place / "private.yaml"), "--out", str(out), "--rounds", "6"]) == 2
    assert "rounds" in capsys.readouterr().err


def test_noise_that_is_correlated_over_turns_is_told(place):
    """Five rounds of 30 of 60 users: each is in three at most."""
    out = place / "turns"
    assert main(["run", str(place / "turns.yaml"), "--out", str(out), "--quiet"]) == 0
    told = json.loads((out / "summary.json").read_text())["privacy"]
    order = privacy.in_order(2, clients=60)
    made = privacy.banded(2).over(5, order)
    assert told["rounds_apart"] == 2 and told["sensitivity"] == made.sensitivity(5)
    assert told["neighbours"] == order.adjacency and 2.9 < told["epsilon"] <= 3
    z = told["noise_multiplier"]
    assert z == privacy.noise_for(3.0, 1e-3, 5, order, made)
    for record in timeless(out):
        expected = privacy.epsilon_of(z, record["round"], order, 1e-3, correlated=made)
        assert record["epsilon"] == pytest.approx(expected)
    plain = configs.read(place / "turns.yaml").plain
    fixed = {**plain, "privacy": {**plain["privacy"], "epsilon": None, "noise_multiplier": 1.0}}
    assert "rounds" not in free_of(fixed)
    alone = {**fixed, "privacy": {**fixed["privacy"], "correlated": None}}
    assert "rounds" in free_of(alone)
    bare = {k: v for k, v in alone["privacy"].items() if k != "correlated"}
    assert fingerprint(alone) == fingerprint({**alone, "privacy": bare}) != fingerprint(fixed)


def test_the_model_is_the_mean_of_clipped_updates_with_noise(place):
    """With nothing clipped and no noise it is the mean over the clients expected; noise moves all
    rows, those too that nobody touched."""
    words = ["--quiet", "--rounds", "1", "--evaluation.every", "1"]
    loose = ["--privacy.noise_multiplier", "0.0", "--privacy.clip.init_args.bound", "1e6"]
    plain = ["--strategy.aggregator", "fedjax_rec.aggregate.uniform"]
    for name, file, more in (
        ("loose", "noise", loose), ("plain", "tiny", plain), ("noisy", "noise", []),
    ):  # fmt: skip
        out = str(place / name)
        assert main(["run", str(place / f"{file}.yaml"), "--out", out, *words, *more]) == 0
    models = {name: _table(place / name) for name in ("loose", "plain", "noisy")}
    first, cohort = _table_at_start(place), timeless(place / "loose")[0]["clients"]
    got, mean = models["loose"] - first, models["plain"] - first
    np.testing.assert_allclose(got, mean * cohort / (0.3 * 60), rtol=1e-3, atol=1e-5)
    assert (np.abs(models["noisy"] - first) > 0).all()
    assert json.loads((place / "loose" / "summary.json").read_text())["privacy"]["epsilon"] is None


def _table(folder):
    from fedjax_rec.experiment.loaded import load_run

    return np.asarray(load_run(folder).state.shared["item"].values)


def _table_at_start(place):
    made = prepare(configs.read(place / "tiny.yaml"))
    of_run = simulate.program(made.made).of(jax.random.key(0), made.inputs())
    return np.asarray(of_run.start(made.dataset.store).shared["item"].values)


def test_runs_of_several_noises_share_a_program(place, monkeypatch):
    made, one = [], simulate.program
    monkeypatch.setattr(simulate, "program", lambda *parts: made.append(1) or one(*parts))
    runs = sweep.trials(
        place / "noise.yaml", {"privacy.noise_multiplier": [0.5, 2.0]}, place / "sweep"
    )
    table = sweep.run_sweep(runs, place / "sweep", workers=2)
    assert len(table) == 2 and len(made) == 1
    folder = next(p for p in (place / "sweep").rglob("summary.json") if _noise(p) == 2.0).parent
    words = ["--quiet", "--privacy.noise_multiplier", "2.0", "--out", str(place / "alone")]
    assert main(["run", str(place / "noise.yaml"), *words]) == 0
    for a, b in zip(timeless(folder), timeless(place / "alone"), strict=True):
        assert a.keys() == b.keys()
        for key, value in a.items():
            np.testing.assert_allclose(value, b[key], rtol=1e-4, err_msg=key)


def _noise(summary) -> float:
    return json.loads(summary.read_text())["privacy"]["noise_multiplier"]


MODELS = {"fedncf": "neumf", "pfedrec": "pfedrec"}


@pytest.mark.parametrize("name", sorted(path.rpartition(".")[2] for path in private.COVERED))
def test_every_recipe_that_is_covered_sums_by_the_mechanism(place, name):
    """The noise is on every number of what the server has after a round."""
    model = f"fedjax_rec.models.{MODELS.get(name, 'fedmf')}"
    plain = yaml.safe_load((place / "noise.yaml").read_text())
    strategy = f"fedjax_rec.strategies.{name}"
    made = prepare(configs.read({**plain, "model": model, "strategy": strategy}))
    store, key = made.dataset.store, jax.random.key(0)
    before = made.strategy.init(key, store.num_clients)
    cohort = Cohort(jnp.arange(3, dtype=jnp.int32), store)
    after, _ = jax.jit(made.strategy.round)(key, before, cohort)
    for x, y in zip(*map(jax.tree.leaves, (before.shared, after.shared)), strict=True):
        assert (np.asarray(x) != np.asarray(y)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--privacy.epsilon", "0"], "privacy.epsilon=0.0 is out of range"),
        (["--privacy.delta", "1"], "privacy.delta=1.0 is out of range"),
        (["--privacy.noise_multiplier", "1"], "give one of them"),
        (["--strategy", "fedjax_rec.strategies.scaffold"], "may tell more of a client"),
        (["--strategy.aggregator", "fedjax_rec.aggregate.mean"], "leave strategy.aggregator out"),
        (["--evaluation.of", "personal"], "a probe tells of each client's own model"),
        (["--start_from", "runs/other"], "may have seen these clients"),
        (
            ["--cohorts", "{class_path: fixed, init_args: {ids: [1, 2]}}"],
            "not drawn as an accountant assumes",
        ),
        (["--privacy.clip.init_args.bound", "0"], "must be positive"),
        (
            ["--privacy.correlated", "banded", "--privacy.correlated.bands", "4"],
            "simulate.in_turns",
        ),
        (["--privacy.correlated", "bandit"], "did you mean 'banded'?"),
    ],
)
def test_what_nobody_can_account_for_is_refused_before_anything_is_written(
    place, capsys, words, said
):
    out = place / "refused"
    assert main(["run", str(place / "private.yaml"), "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (out / "summary.json").exists()


def test_a_section_without_a_clip_is_not_complete(place):
    file = place / "bare.yaml"
    plain = yaml.safe_load((place / "tiny.yaml").read_text())
    file.write_text(yaml.safe_dump({**plain, "privacy": {"epsilon": 1.0}}))
    with pytest.raises(configs.ConfigError, match=r"privacy\.clip is missing"):
        configs.read(file)


def test_a_configuration_without_the_section_stays_as_it_was(place):
    assert "privacy" not in configs.read(place / "tiny.yaml").plain
