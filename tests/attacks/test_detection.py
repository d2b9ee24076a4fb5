"""Precision and recall among the metrics of a run: those of `attacks.detection`, of each round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, attacks, data, models, simulate, strategies, trees
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")
USERS, KEY = 20, jax.random.key(1)
LIARS = attacks.named([2, 5, 11])
PRECISION, RECALL = "detection_precision", "detection_recall"


@pytest.fixture(scope="module")
def store():
    split = data.leave_one_out()(data.synthetic(USERS, 60, 4))
    return data.pack(split, evaluation_negatives=0).store


def strategy_of(rule, stages=()):
    model = models.fedmf(60, width=4)
    return strategies.fedmf(model, data.pointwise(1), aggregator=rule, stages=list(stages))


RULES = {
    "forged": (lambda rule: attacks.attacked(rule, attacks.ipm(50.0), LIARS), []),
    "by a stage": (
        lambda rule: attacks.with_detection(rule, LIARS), [attacks.sign_flip(LIARS, 50.0)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_a_round_tells_what_detection_says_of_it(store, name):
    """Client 5, who lies, is not there; 12 of 19 are taken, none of the two who lie."""
    around, stages = RULES[name]
    strategy = strategy_of(around(aggregate.multi_krum(f=4, m=12)), stages)
    ids = jnp.arange(USERS, dtype=jnp.int32).at[5].set(USERS)
    state, info = jax.jit(strategy.round)(KEY, strategy.init(KEY, USERS), Cohort(ids, store))
    wanted = attacks.detection(info, ids, LIARS)
    found = trees.told(state.server)
    assert found[PRECISION] == pytest.approx(wanted["precision"], rel=1e-6)
    assert found[RECALL] == pytest.approx(wanted["recall"], rel=1e-6) == 1
    assert 0 < wanted["precision"] < 1


def test_a_run_has_them_and_the_share_that_the_rule_rejects(store):
    rule = attacks.attacked(aggregate.multi_krum(f=4, m=15), attacks.ipm(50.0), LIARS)
    steps = [step.metrics for step in simulate.simulate(strategy_of(rule), store, 2, KEY)]
    for metrics in steps:
        assert metrics[RECALL] == 1 and metrics[PRECISION] == pytest.approx(3 / 5)
        assert metrics["rejected_by_rule"] == pytest.approx(5 / 20) and metrics["rejected"] == 0


def test_where_there_are_no_verdicts_there_is_nothing_to_say(store):
    rule = attacks.attacked(aggregate.total(), attacks.ipm(2.0), LIARS)
    (step,) = simulate.simulate(strategy_of(rule), store, 1, KEY)
    assert np.isnan([step.metrics[PRECISION], step.metrics[RECALL]]).all()
    assert "rejected_by_rule" not in step.metrics


def test_of_nobody_it_is_the_rule_itself():
    rule = aggregate.krum(f=1)
    assert attacks.with_detection(rule, attacks.drawn(9, share=0.0)) is rule


def test_a_name_that_two_tell_is_numbered():
    state = {"a": trees.Told({"x": 1.0, "y": 2.0}), "b": (trees.Told({"x": 3.0}), 4.0)}
    assert trees.told(state) == {"x": 1.0, "y": 2.0, "x_2": 3.0}
