"""Attacks on uploads against NumPy loops, and that they attack; honest uploads stay to the bit."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, attacks, rows, testing
from fedjax_rec.types import Aggregator, RoundInfo, Stage

sys.path.insert(0, str(Path(__file__).parents[1] / "aggregate"))
from robust_world import ABSENT, CLIENTS, ITEMS, LIARS, NOW, SHARED, flat, made, uploads

pytestmark = pytest.mark.usefixtures("compiled_fast")
MALICIOUS = attacks.named(LIARS)
HERE = [k for k in range(CLIENTS) if k != ABSENT]  # the clients of `flat`, in its order
LIES = np.isin(HERE, LIARS)


def seen_by_the_rule(attack, layout: str, malicious=MALICIOUS):
    """(uploads as they came, as the rule sees them), taken off by an aggregator that looks."""

    def finish(key, state, summary, now):
        return state, summary, None

    seer = Aggregator(lambda shared: (), lambda state, uploads, now: uploads, finish, False)
    rule = attacks.attacked(seer, attack, malicious)
    came, ids = uploads(layout), jnp.arange(CLIENTS, dtype=jnp.int32)

    @jax.jit
    def run(came):
        state = rule.init(SHARED)
        summary = rule.reduce(state, came, NOW)
        return rule.finish(jax.random.key(1), state, summary, NOW)[1]

    assert ids.shape == NOW.client.shape
    return came, run(came)


def by_loop(values, said, value):
    """What who lies says by value(mean, deviation): each number of what it touched, one by one."""
    told = values.copy()
    for k in np.flatnonzero(LIES):
        for i in np.flatnonzero(said[k]):
            honest = values[~LIES & said[:, i], i]
            told[k, i] = value(honest.mean(), honest.std()) if honest.size else value(0.0, 0.0)
    return told


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize(
    ("attack", "value"),
    [
        (attacks.ipm(0.7), lambda mean, deviation: -0.7 * mean),
        (attacks.alie(1.2), lambda mean, deviation: mean - 1.2 * deviation),
    ],
    ids=["ipm", "alie"],
)
def test_forgeries_are_the_formula_over_who_touched_the_row(attack, value, layout):
    came, seen = seen_by_the_rule(attack, layout)
    (before, said), (after, still) = flat(came), flat(seen)
    numbers = np.arange(before.shape[1]) < ITEMS * 3 + 4  # the last three are whole numbers
    np.testing.assert_array_equal(said, still)
    wanted = np.where(numbers, by_loop(before, said, value), before)
    np.testing.assert_allclose(after, wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(after - before)[LIES].max() > 0.5


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_a_mimic_sends_what_the_first_honest_client_sends(layout):
    came, seen = seen_by_the_rule(attacks.mimic(), layout)
    (before, said), (after, still) = flat(came), flat(seen)
    first = int(np.argmin(LIES))
    np.testing.assert_array_equal(after[LIES], before[[first] * LIES.sum()])
    np.testing.assert_array_equal(still[LIES], said[[first] * LIES.sum()])


@pytest.mark.parametrize(
    "attack", [attacks.ipm(), attacks.alie(), attacks.mimic(), attacks.pieck_uea([3], popular=4)]
)
@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_honest_uploads_and_weights_stay_to_the_bit(attack, layout):
    came, seen = seen_by_the_rule(attack, layout)
    honest = np.setdiff1d(np.arange(CLIENTS), LIARS)
    for old, new in zip(
        jax.tree.leaves((came.update, came.weight)),
        jax.tree.leaves((seen.update, seen.weight)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(old)[honest], np.asarray(new)[honest])
    np.testing.assert_array_equal(came.weight, seen.weight)


def test_a_share_of_nobody_is_the_rule_itself():
    rule = aggregate.uniform()
    assert attacks.attacked(rule, attacks.ipm(), attacks.drawn(9, share=0.0)) is rule


def test_whoever_is_not_there_forges_nothing():
    """The one malicious client weighs nothing: rows and means are of the others."""
    rule = attacks.attacked(aggregate.uniform(), attacks.ipm(5.0), attacks.named([ABSENT]))
    wanted = made(aggregate.uniform(), uploads("ids"))[1]
    np.testing.assert_allclose(made(rule, uploads("ids"))[1], wanted, rtol=1e-5, atol=1e-6)


def test_inner_product_manipulation_turns_the_mean():
    """With 2 of 11 clients the mean turns for a scale above 9 / 2, and not below."""
    dense = slice(ITEMS * 3, ITEMS * 3 + 4)  # everybody says something of the kernel
    honest = flat(uploads("whole"))[0][~LIES, dense].mean(0)
    for scale, sign in ((4.0, 1), (5.0, -1)):
        rule = attacks.attacked(aggregate.uniform(), attacks.ipm(scale), MALICIOUS)
        update = np.asarray(made(rule, uploads("whole"))[1])[dense]
        assert np.sign(update @ honest) == sign


def test_a_little_moves_the_mean_against_the_spread_and_krum_takes_it():
    """ALIE with z = .1 is nearer to others than they are to one another: Krum takes a liar."""
    malicious = attacks.named([0, 3, 7])
    rule = attacks.attacked(aggregate.krum(f=3), attacks.alie(0.1), malicious)
    verdicts = np.asarray(made(rule, uploads("ids"))[2])
    assert np.flatnonzero(verdicts).tolist()[0] in (0, 3, 7)
    plain = np.asarray(made(aggregate.krum(f=3), uploads("ids"))[2])
    assert np.flatnonzero(plain).tolist()[0] not in (0, 3, 7)


def sent(stage: Stage, client: int):
    upload = jax.tree.map(lambda x: x[client], uploads("whole"))
    now = NOW.__class__(NOW.round, SHARED, jnp.int32(client), NOW.cohort)
    send = jax.jit(lambda upload: stage.send(jax.random.key(3), (), upload, now)[1])
    return upload, send(upload)


@pytest.mark.parametrize(
    ("make", "factor"),
    [(lambda m: attacks.sign_flip(m, 2.0), -2.0), (lambda m: attacks.scaled(m, 7.0), 7.0)],
    ids=["sign_flip", "scaled"],
)
def test_stages_multiply_who_lies_and_leave_others_to_the_bit(make, factor):
    for client, times in ((LIARS[0], factor), (1, 1.0)):
        before, after = sent(make(MALICIOUS), client)
        for name in ("item", "kernel"):
            old, new = (rows.dense(x.update)[name] for x in (before, after))
            np.testing.assert_array_equal(new, np.float32(times) * old)
        np.testing.assert_array_equal(before.update["number"], after.update["number"])


def test_noise_has_its_deviation_on_touched_rows_alone():
    before, after = sent(attacks.gaussian(MALICIOUS, 0.5), LIARS[0])
    item, live = np.asarray(after.update["item"].values), np.asarray(before.update["item"].live)
    np.testing.assert_array_equal(item[~live], np.asarray(before.update["item"].values)[~live])
    drawn = np.concatenate([item[live].reshape(-1), np.asarray(after.update["kernel"]).reshape(-1)])
    assert 0.35 < drawn.std() < 0.65 and len(np.unique(drawn)) == drawn.size


def test_broken_uploads_are_nan_of_who_lies():
    assert np.isnan(sent(attacks.broken(MALICIOUS), LIARS[0])[1].update["kernel"]).all()
    assert np.isfinite(sent(attacks.broken(MALICIOUS), 1)[1].update["kernel"]).all()


LAWS = ("padding_stays_padding", "clients_do_not_meddle", "keys_are_consumed_once")


@pytest.mark.parametrize("law", [x for x in testing.laws("stage") if x.__name__ in LAWS])
def test_noise_keeps_the_laws_of_a_stage(law):
    law(attacks.gaussian(attacks.named([1, 4])))


def test_detection_counts_verdicts_of_who_was_there():
    info = RoundInfo(
        {}, np.float32([1, 1, 0, 2, 1]), None, None, verdicts=np.float32([0, 1, 0, 0, 1])
    )
    found = attacks.detection(info, np.array([8, 1, 2, 3, 4]), attacks.named([2, 3, 4]))
    assert found == {"precision": 0.5, "recall": 0.5}  # rejected 8 and 3; who lies: 3 and 4


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.drawn(10, 1.0), "share=1.0.*use 0 <= share < 1"),
        (lambda: attacks.drawn(10, -0.1), "share=-0.1.*use 0 <= share < 1"),
        (lambda: attacks.drawn(10, 0.01), "no malicious client.*use share >= 0.1"),
        (lambda: attacks.named([]), "names no clients"),
        (lambda: attacks.from_id(0), "use first >= 1"),
        (lambda: attacks.ipm(0.0), "scale > 0"),
        (lambda: attacks.pieck_uea([]), "names no items"),
        (lambda: attacks.pieck_ipe([2, 2]), "distinct"),
        (lambda: attacks.pieck_uea([20], popular=2).init(SHARED), "there is no item 20"),
        (lambda: attacks.pieck_uea([1], popular=20).init(SHARED), "use popular <= 19"),
        (lambda: attacks.pieck_uea([1]).init({"w": jnp.zeros(3)}), "has 0 tables"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_share_is_drawn_once_by_its_seed():
    ids = jnp.arange(103)  # three of them are padding
    first, again, other = (attacks.drawn(100, 0.07, seed).lies(ids) for seed in (1, 1, 2))
    assert int(first.sum()) == 7 and not first[100:].any()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
