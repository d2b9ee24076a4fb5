"""Pooled and grouped AUC against all pairs in NumPy; held-out examples with their own client."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, evaluate
from fedjax_rec.data.splits import TEST, TRAIN
from fedjax_rec.evaluate.labelled import measures
from fedjax_rec.types import Model


def all_pairs(scores, labels):
    positive, negative = scores[labels == 1][:, None], scores[labels == 0][None]
    if not positive.size or not negative.size:
        return np.nan
    return np.mean((positive > negative) + 0.5 * (positive == negative))


@pytest.mark.parametrize("levels", [1, 3, 50, 10**6])
def test_auc_is_the_share_of_pairs_ties_half(levels):
    rng = np.random.default_rng(levels)
    scores = (rng.integers(0, levels, 700) - levels // 2).astype(np.float32)
    scores[:30] *= -1.0  # zeros of both signs
    labels, groups = rng.integers(0, 2, 700), rng.integers(0, 9, 700)
    labels[groups == 4] = 1
    np.testing.assert_allclose(evaluate.auc_of_all(scores, labels), all_pairs(scores, labels), 1e-6)
    want = [all_pairs(scores[groups == g], labels[groups == g]) for g in range(10)]
    found = evaluate.auc_by_group(jnp.asarray(scores), labels, jnp.asarray(groups), 10)
    np.testing.assert_allclose(found, want, 1e-6)


def test_auc_of_many_keeps_six_digits():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2**20)
    scores = (rng.normal(size=2**20) + 0.5 * labels).astype(np.float32)
    order = np.argsort(scores, kind="stable")
    assert len(np.unique(scores)) > 2**19  # ties are few: ranks give the AUC to 1e-6
    ones = labels.sum()
    ranks = (np.flatnonzero(labels[order]) + 1).sum(dtype=np.float64)
    want = (ranks - ones * (ones + 1) / 2) / (ones * (2**20 - ones))
    np.testing.assert_allclose(jax.jit(evaluate.auc_of_all)(scores, labels), want, rtol=3e-6)


def test_auc_of_a_large_client_beside_small_ones():
    """140,000 examples have more pairs than an int32 counts, and their sums lose no digits."""
    rng = np.random.default_rng(1)
    sizes = [300, 140_000, 7, 300]
    groups = np.repeat(np.arange(4), sizes).astype(np.int32)
    labels = rng.integers(0, 2, len(groups)).astype(np.float32)
    scores = (rng.normal(size=len(groups)) + labels).astype(np.float32)

    def by_ranks(s, y):
        order = np.argsort(s.astype(np.float64) + 0.0, kind="stable")
        _, first, count = np.unique(s[order], return_index=True, return_counts=True)
        middle = np.repeat(first + (count + 1) / 2, count)
        ones = y.sum(dtype=np.float64)
        total = middle[y[order] == 1].sum()
        return (total - ones * (ones + 1) / 2) / (ones * (len(y) - ones))

    want = [by_ranks(scores[groups == g], labels[groups == g]) for g in range(4)]
    held = data.HeldOut(
        {"labels": jnp.asarray(labels)}, jnp.arange(4), jnp.asarray(sizes), jnp.asarray(groups),
        max(sizes),
    )  # fmt: skip
    of_clients, over_all = jax.jit(measures)(jnp.asarray(scores), held)
    np.testing.assert_allclose(of_clients[:, 0], want, rtol=3e-6)
    np.testing.assert_allclose(over_all[1], np.average(want, weights=sizes), rtol=3e-6)
    loss = np.logaddexp(0, np.where(labels == 1, -1, 1) * scores.astype(np.float64))
    mine = [loss[groups == g].mean() for g in range(4)]
    np.testing.assert_allclose(of_clients[:, 1], mine, rtol=3e-6)


def test_losses_at_the_ends_and_of_nan():
    logits = jnp.array([jnp.inf, -jnp.inf, jnp.inf, -jnp.inf, jnp.nan, jnp.nan])
    labels = jnp.array([1.0, 0.0, 0.0, 1.0, 0.0, 1.0])
    each = jnp.arange(6)
    held = data.HeldOut({"labels": labels}, each, jnp.ones(6, jnp.int32), each, 1)
    of_clients, _ = measures(logits, held)
    inf, nan = np.inf, np.nan
    np.testing.assert_array_equal(of_clients[:, 1], np.float32([0, 0, inf, inf, nan, nan]))
    np.testing.assert_array_equal(of_clients[:, 2], [1, 1, 0, 0, 0, 0])


def test_nan_is_the_smallest_score():
    scores, labels = jnp.array([jnp.nan, 0.0, 1.0]), jnp.array([1, 0, 1])
    assert float(evaluate.auc_of_all(scores, labels)) == 0.5


@pytest.mark.parametrize("tiles", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 100))])
def test_each_example_is_predicted_with_the_private_part_of_its_client(tiles):
    rng = np.random.default_rng(1)
    n, clients = 150, 7
    client = np.minimum(rng.geometric(0.3, n) - 1, clients - 1)
    part = rng.choice([TRAIN, TEST], n).astype(np.int8)
    part[client == 2] = TRAIN
    fields = {"x": rng.normal(size=n).astype(np.float32), "labels": rng.integers(0, 2, n)}
    held = data.pack_examples(data.Examples("own", fields, client, part, 0, clients)).test
    own = rng.normal(size=clients).astype(np.float32)

    def predict(shared, private, batch):
        assert set(batch) == {"x", "labels", "mask"}
        return shared * batch["x"] + private

    model = Model(lambda key, common=None: None, lambda *_: None, predict=predict)
    of_clients, over_all = evaluate.evaluate_examples(model, 2.0, jnp.asarray(own), held, tiles)
    where = np.flatnonzero(part == TEST)
    logits, labels = 2 * fields["x"] + own[client], fields["labels"]
    loss = np.log1p(np.exp(-np.where(labels == 1, logits, -logits)))
    right = (logits > 0) == (labels == 1)
    rows, weighted, weights = [], 0.0, 0
    for k in np.unique(client[where]):
        mine = where[client[where] == k]
        auc = all_pairs(logits[mine], labels[mine])
        rows.append([auc, loss[mine].mean(), right[mine].mean()])
        if not np.isnan(auc):
            weighted, weights = weighted + len(mine) * auc, weights + len(mine)
    np.testing.assert_allclose(of_clients, rows, rtol=1e-4)
    pooled = all_pairs(logits[where], labels[where])
    chance = 1 / (1 + np.exp(-logits[where]))
    bins = np.minimum((15 * chance).astype(int), 14)
    apart = [(labels[where] - chance)[bins == b].sum() for b in range(15)]
    want = [pooled, weighted / weights, loss[where].mean(), right[where].mean()]
    want.append(np.abs(apart).sum() / len(where))
    np.testing.assert_allclose(over_all, want, rtol=1e-4)


def test_a_model_without_predict_is_refused():
    with pytest.raises(ValueError, match="give it predict"):
        evaluate.predict_examples(Model(*[lambda *_: None] * 2), None, None, None)


def test_users_have_an_auc_of_their_own_whatever_their_ids():
    """Clients of several users each; ids with gaps, and users with one label."""
    rng = np.random.default_rng(3)
    owner = np.sort(rng.integers(0, 3, 200)).astype(np.int32)
    users = 1000 * owner + 7 * rng.integers(0, 15, 200)
    logits, labels = rng.normal(size=200).round(1), (rng.random(200) < 0.5).astype(np.float32)
    labels[users == users[0]] = 1
    fields = {"labels": jnp.asarray(labels), "user": jnp.asarray(users)}
    held = data.HeldOut(fields, jnp.arange(3), jnp.bincount(owner), jnp.asarray(owner), 200)
    found = jax.jit(lambda z: measures(z, held)[1])(jnp.float32(logits))
    each = [(all_pairs(logits[users == u], labels[users == u]), (users == u).sum()) for u in users]
    known = np.array([one for one in each if one[0] == one[0]])
    assert len(known) < len(each)  # one term an example, so that users weigh theirs
    np.testing.assert_allclose(found[4], known[:, 0].mean(), rtol=1e-5)
    assert evaluate.labelled(by_user=True).summary_names[4] == "uauc"


def test_an_interval_of_auc_draws_users():
    rng = np.random.default_rng(4)
    users = np.repeat(np.arange(300), 4)
    scores, labels = rng.normal(size=1200).round(1), rng.integers(0, 2, 1200)
    told = evaluate.auc_interval(scores, labels, users, draws=200)
    assert told["auc"] == pytest.approx(all_pairs(scores, labels))
    # Some draws by hand: the same numbers, examples written as often as their user was drawn.
    times = np.random.default_rng(0).multinomial(300, np.full(300, 1 / 300), size=200)
    again = [np.repeat(np.arange(1200), row[users]) for row in times]
    by_hand = [all_pairs(scores[rows], labels[rows]) for rows in again]
    np.testing.assert_allclose(
        [told["low"], told["high"]], np.quantile(by_hand, [0.025, 0.975]), rtol=1e-9
    )
    # Users whose examples are all alike have as much to say as there are users.
    alike = evaluate.auc_interval(np.repeat(scores[:300], 4), np.repeat(labels[:300], 4), users)
    assert alike["high"] - alike["low"] > 1.5 * (told["high"] - told["low"])
    with pytest.raises(ValueError, match="give one each"):
        evaluate.auc_interval(scores, labels, users[:-1])


def test_a_difference_of_aucs_draws_the_same_users_for_both():
    rng = np.random.default_rng(5)
    users = np.repeat(np.arange(150), 3)
    labels = rng.integers(0, 2, 450)
    first, second = rng.normal(size=(2, 450)) + labels, rng.normal(size=450)
    told = evaluate.auc_difference(first, second, labels, users, draws=100)
    whole = np.mean([all_pairs(z, labels) for z in first]) - all_pairs(second, labels)
    assert told["difference"] == pytest.approx(whole) and told["users"] == 150
    times = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=100)
    gaps = []
    for row in times:
        rows = np.repeat(np.arange(450), row[users])
        one = np.mean([all_pairs(z[rows], labels[rows]) for z in first])
        gaps.append(one - all_pairs(second[rows], labels[rows]))
    np.testing.assert_allclose([told["low"], told["high"]], np.quantile(gaps, [0.025, 0.975]))
    assert told["p_bootstrap"] == pytest.approx(2 / 101)  # no draw has the other ahead
    same = evaluate.auc_difference(second, second, labels, users, draws=50)
    assert same["difference"] == same["low"] == same["high"] == 0 and same["p_bootstrap"] == 1
    with pytest.raises(ValueError, match=r"auc_difference\(scores"):
        evaluate.auc_difference(first, second[:-1], labels, users)
