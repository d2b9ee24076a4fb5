"""Runs whose clients add the noise: what they say they guarantee, and what they refuse to say.

Every run trains 60 users on 40 items for a few rounds of 20.
"""

import json

import numpy as np
import pytest
import yaml
from small_data import timeless, write_config, write_folder

from fedjax_rec.experiment import config as configs
from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.simulate import Cohorts

library = pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
pytestmark = pytest.mark.usefixtures("compiled_fast", "quick")
ROOM = "fedjax_rec.privacy"
CLIP, Z, THERE, STEP, DELTA = 1.0, 2.0, 16, 2.0**-8, 1e-3


def of(name: str, **given) -> dict:
    return {"class_path": f"{ROOM}.{name}", "init_args": given}


def hidden(noise=None, **given) -> dict:
    noise = noise or of("skellam", clip=CLIP, noise_multiplier=Z, there=THERE)
    return of(
        "secure_aggregation",
        **{"bound": 1.0, "clients": 20, "bits": 24, "step": STEP, "noise": noise, **given},
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("in_shares")
    source = write_folder(place / "tiny")
    strategy = {"class_path": "fedjax_rec.strategies.fedmf", "init_args": {"aggregator": hidden()}}
    turns = {"class_path": "fedjax_rec.simulate.in_turns", "init_args": {"size": 20}}
    write_config(place / "plain.yaml", source, strategy=strategy)
    told = {"delta": DELTA}
    write_config(place / "turns.yaml", source, strategy=strategy, cohorts=turns, privacy=told)
    return place


def skellam_epsilon(times: int, numbers: int, delta: float) -> float:
    """By the formula of Agarwal, Kairouz & Liu (NeurIPS 2021), written out, and the accountant of
    dp_accounting: rounds in which a client is, of sums of THERE shares."""
    from dp_accounting import rdp

    c, d, scale = CLIP / STEP, numbers, 1.0
    two = min((c + d**0.5) ** 2, c**2 + d / 4 + c + d**0.5 / 2)
    one = min(d**0.5 * two**0.5, two)
    mu = (Z * CLIP / STEP) ** 2
    orders = [*range(2, 257), *(2**k for k in range(9, 15))]
    divergences = [
        a * two / (2 * mu)
        + min(((2 * a - 1) * scale * two + 6 * one) / (4 * scale**3 * mu**2), 3 * one / (2 * mu))
        for a in orders
    ]
    return float(rdp.compute_epsilon(orders, [times * x for x in divergences], delta)[0])


def test_a_run_says_what_shares_guarantee_round_by_round(place, capsys):
    """Each user is in every third round."""
    out = place / "turns"
    assert main(["run", str(place / "turns.yaml"), "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert (
        "of any 16 clients that stay" in said and f"({skellam_epsilon(2, 160, DELTA):.3g}, " in said
    )
    told = json.loads((out / "summary.json").read_text())["privacy"]
    assert told["numbers"] == 160 and told["step"] == STEP and told["shares"] == THERE
    assert told["rounds_apart"] == 3 and told["delta"] == DELTA
    assert told["epsilon"] == pytest.approx(skellam_epsilon(2, 160, DELTA), rel=1e-9)
    for record, times in zip(timeless(out), (1, 1, 1, 2, 2), strict=True):
        assert record["epsilon"] == pytest.approx(skellam_epsilon(times, 160, DELTA), rel=1e-9)
    # What is written is read again, and rounds that are added are accounted for.
    assert main(["run", str(out / "config.yaml"), "--out", str(out), "--rounds", "7"]) == 0
    last = timeless(out)[-1]
    assert last["epsilon"] == pytest.approx(skellam_epsilon(3, 160, DELTA), rel=1e-9)


def test_without_a_section_clients_are_in_every_round_and_delta_is_that_of_their_number(place):
    told = prepare(configs.read(place / "plain.yaml")).guarantee
    assert told.delta == 60**-1.1 and told.sampling.apart is None
    assert told.after(5) == pytest.approx(skellam_epsilon(5, 160, 60**-1.1), rel=1e-9)


def test_numbers_are_those_that_are_sent(place):
    """A tenth of 40 rows of width 4; and blocks that are padded to a power of two."""
    for uplink, numbers in (
        (of("seeded_rows", fraction=0.1), 16),
        (of("seeded_rotation", block=64), 192),
    ):
        words = ["--strategy.uplink", json.dumps(uplink)]
        assert prepare(configs.read(place / "plain.yaml", words)).guarantee.numbers == numbers


def test_a_share_without_noise_promises_nothing(place, capsys):
    bare = hidden(of("skellam", clip=CLIP, noise_multiplier=0.0, there=THERE))
    words = ["--strategy.aggregator", json.dumps(bare), "--rounds", "1", "--out", str(place / "no")]
    assert main(["run", str(place / "plain.yaml"), *words]) == 0
    assert "no guarantee" in capsys.readouterr().err
    assert json.loads((place / "no" / "summary.json").read_text())["privacy"]["epsilon"] is None


def test_secure_aggregation_without_noise_says_nothing_of_epsilon(place):
    words = ["--strategy.aggregator", json.dumps(of("secure_aggregation", bound=1.0, clients=20))]
    assert prepare(configs.read(place / "plain.yaml", words)).guarantee is None


def test_epsilon_of_the_section_is_a_promise_that_is_held(place):
    told = prepare(configs.read(place / "turns.yaml")).guarantee.after(5)
    at = lambda epsilon: configs.read(place / "turns.yaml", ["--privacy.epsilon", str(epsilon)])
    assert prepare(at(1.001 * told)).guarantee.after(5) == told
    with pytest.raises(configs.ConfigError, match=r"use a larger strategy\.aggregator\.noise"):
        prepare(at(0.999 * told))


UNION = of("private_set_union", aggregator=hidden(), threshold=2, clients=20)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--privacy.noise_multiplier", "1"], "leave privacy.noise_multiplier out"),
        (["--privacy.clip", json.dumps(of("whole", bound=1.0))], "leave privacy.clip out"),
        (["--privacy.delta", "1"], "privacy.delta=1.0 is out of range"),
        (["--strategy.class_path", "fedjax_rec.strategies.fedrecon"], "may tell more of a client"),
        (["--evaluation.of", "personal"], "a probe tells of each client's own model"),
        (["--start_from", "runs/other"], "may have seen these clients"),
        (["--strategy.aggregator", json.dumps(UNION)], "touched each row is told without noise"),
        (
            ["--strategy.clock", "fedjax_rec.strategies.lognormal_clock"],
            "who is late hangs on what it holds",
        ),
    ],
)
def test_what_nobody_can_account_for_is_refused_before_anything_is_written(
    place, capsys, words, said
):
    out = place / "refused"
    assert main(["run", str(place / "turns.yaml"), "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert not (out / "summary.json").exists()


def twice() -> Cohorts:
    """Draws the first client at every place."""
    return Cohorts(lambda n: 2, lambda key, round, n: np.zeros(2, np.int32))


def test_cohorts_that_nobody_knows_are_refused(place):
    plain = yaml.safe_load((place / "plain.yaml").read_text())
    with pytest.raises(configs.ConfigError, match="or a client twice"):
        configs.read({**plain, "cohorts": {"class_path": f"{__name__}.twice"}})
    inner = {"cohorts": {"class_path": f"{__name__}.twice"}, "rate": 0.1}
    with pytest.raises(configs.ConfigError, match="or a client twice"):
        configs.read(
            {**plain, "cohorts": {"class_path": "fedjax_rec.simulate.dropout", "init_args": inner}}
        )
