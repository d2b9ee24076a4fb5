"""Ranking metrics against ir-measures (trec_eval, MS MARCO), a NumPy loop and values by hand."""

import math

import ir_measures
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.evaluate import (
    auc,
    evaluate_user,
    hit_ratio,
    metrics,
    mrr,
    ndcg,
    precision,
    ranks,
    recall,
)

REFERENCE = {
    "hr@1": "Success@1", "hr@10": "Success@10", "ndcg@5": "nDCG@5", "ndcg@10": "nDCG@10",
    "ndcg@200": "nDCG@200", "recall@5": "R@5", "recall@20": "R@20", "precision@5": "P@5",
    "precision@100": "P@100", "mrr": "RR", "mrr@3": "RR@3", "map": "AP", "map@10": "AP@10",
}  # fmt: skip
NUM_USERS, NUM_ITEMS, NUM_TARGETS = 60, 80, 20


def of(names, at, candidates):
    """float32[M], the named metrics of one user, jitted."""
    chosen = metrics(names)
    one = jax.jit(lambda r, c: evaluate_user(chosen, r, c, jnp.zeros_like(r)))
    return np.asarray(one(jnp.asarray(at, jnp.int32), jnp.int32(candidates)))


def random_users():
    """Users with 1 to 20 relevant items, few score levels (ties everywhere) and filtered items."""
    draw = np.random.default_rng(0)
    levels = draw.integers(2, 25, (NUM_USERS, 1))
    scores = draw.integers(0, levels, (NUM_USERS, NUM_ITEMS)).astype(np.float32)
    targets = np.full((NUM_USERS, NUM_TARGETS), -1, np.int32)
    for user in range(NUM_USERS):
        count = 1 + user % NUM_TARGETS
        targets[user, :count] = draw.permutation(NUM_ITEMS)[:count]
    excluded = draw.random((NUM_USERS, NUM_ITEMS)) < 0.25
    return scores, targets, excluded


def computed(names, scores, targets, excluded):
    """float32[N, M] by this library, jitted and vmapped over users."""
    chosen = metrics(names)
    one = lambda *user: evaluate_user(chosen, *ranks(*user))
    return np.asarray(jax.jit(jax.vmap(one))(scores, targets, excluded))


def test_trec_eval_breaks_ties_by_document_id_descending_and_msmarco_ascending():
    qrels = {"0": {"a": 1, "z": 0}}
    run = {"0": {"a": 1.0, "z": 1.0}}
    first = ir_measures.parse_measure("Success@1")
    assert ir_measures.pytrec_eval.calc_aggregate([first], qrels, run)[first] == 0
    reciprocal = ir_measures.parse_measure("RR@1")
    assert ir_measures.msmarco.calc_aggregate([reciprocal], qrels, run)[reciprocal] == 1


def test_every_metric_agrees_with_ir_measures_on_tied_rankings():
    scores, targets, excluded = random_users()
    got = computed(list(REFERENCE), scores, targets, excluded)
    providers = {"RR@3": ir_measures.msmarco}
    for column, (name, reference) in enumerate(REFERENCE.items()):
        measure = ir_measures.parse_measure(reference)
        # The relevant items must lose ties: the id that sorts first in msmarco sorts last in trec.
        ascending = reference in providers
        relevant_prefix, other_prefix = ("z", "a") if ascending else ("a", "z")
        qrels, run = {}, {}
        for user in range(NUM_USERS):
            relevant = set(targets[user].tolist()) - {-1}
            pool = [j for j in range(NUM_ITEMS) if j in relevant or not excluded[user, j]]
            pool.sort(key=lambda j: (-scores[user, j], j in relevant))  # for the stable sorter
            name_of = {j: f"{relevant_prefix if j in relevant else other_prefix}{j}" for j in pool}
            qrels[str(user)] = {name_of[j]: int(j in relevant) for j in pool}
            run[str(user)] = {name_of[j]: float(scores[user, j]) for j in pool}
        provider = providers.get(reference, ir_measures.pytrec_eval)
        values = {m.query_id: m.value for m in provider.iter_calc([measure], qrels, run)}
        want = [values[str(user)] for user in range(NUM_USERS)]
        np.testing.assert_allclose(got[:, column], want, rtol=1e-5, atol=1e-6, err_msg=name)
        assert 0.0 < np.mean(want) < 1.0


def test_every_metric_agrees_with_a_plain_loop():
    scores, targets, excluded = random_users()
    names = ["hr@3", "ndcg@7", "recall@9", "precision@4", "mrr", "mrr@2", "map", "map@6", "auc"]
    got = computed(names, scores, targets, excluded)
    for user in range(NUM_USERS):
        relevant = set(targets[user].tolist()) - {-1}
        pool = [j for j in range(NUM_ITEMS) if j in relevant or not excluded[user, j]]
        ordered = sorted(pool, key=lambda j: (-scores[user, j], j in relevant, j))
        at = [place for place, j in enumerate(ordered, 1) if j in relevant]
        n, others = len(at), len(pool) - len(at)
        ahead = sum(
            1.0 * (scores[user, t] > scores[user, j]) + 0.5 * (scores[user, t] == scores[user, j])
            for t in relevant
            for j in pool
            if j not in relevant
        )
        gain = lambda places: sum(1 / math.log2(1 + r) for r in places if r <= 7)
        want = [
            float(at[0] <= 3),
            gain(at) / gain(range(1, n + 1)),
            sum(r <= 9 for r in at) / n,
            sum(r <= 4 for r in at) / 4,
            1 / at[0],
            1 / at[0] if at[0] <= 2 else 0.0,
            sum(i / r for i, r in enumerate(at, 1)) / n,
            sum(i / r for i, r in enumerate(at, 1) if r <= 6) / n,
            ahead / (n * others),
        ]
        np.testing.assert_allclose(got[user], want, rtol=1e-5, atol=1e-6)


def test_one_relevant_item_by_hand():
    names = ["hr@10", "ndcg@10", "recall@10", "precision@10", "mrr", "map@10", "auc"]
    values = of(names, [3], 100)
    want = [1, 0.5, 1, 0.1, 1 / 3, 1 / 3, 97 / 99]  # ln 2 / ln 4 = 1/2
    np.testing.assert_allclose(values, want, rtol=1e-6)
    beyond = of(names, [11], 100)
    np.testing.assert_allclose(beyond, [0, 0, 0, 0, 1 / 11, 0, 89 / 99], rtol=1e-6)


def test_several_relevant_items_by_hand():
    # relevant at 1, 2 and 5 of 6 candidates, one padding
    third = 1 / math.log2(3)
    want = {
        "hr@1": 1.0,
        "ndcg@2": 1.0,
        "ndcg@5": (1 + third + 1 / math.log2(6)) / (1.5 + third),
        "map@2": 2 / 3,  # over all three relevant items, as trec_eval
        "map": (1 + 1 + 3 / 5) / 3,
        "recall@2": 2 / 3,
        "precision@4": 0.5,
        "mrr": 1.0,
        "auc": 7 / 9,  # of 9 pairs, the item at 5 loses 2
    }
    np.testing.assert_allclose(of(want, [5, 0, 1, 2], 6), list(want.values()), rtol=1e-6)


def test_user_without_relevant_items_is_nan_and_leaves_the_mean():
    names = ["hr@10", "ndcg@10", "recall@10", "precision@10", "mrr", "mrr@5", "map", "auc"]
    chosen = metrics(names)
    at = jnp.int32([[0, 0], [1, 0], [0, 4]])
    values = jax.jit(jax.vmap(lambda r: evaluate_user(chosen, r, jnp.int32(50), 0 * r)))(at)
    assert np.isnan(values[0]).all() and not np.isnan(values[1:]).any()
    np.testing.assert_allclose(np.nanmean(values[:, 4]), (1 + 0.25) / 2)
    assert np.isnan(
        auc().compute(jnp.int32([1, 2]), jnp.int32(2), jnp.zeros(2, jnp.int32))
    )  # nothing to lose against


def test_perfect_and_worst_rankings_reach_the_bounds():
    n, pool = 4, 20
    for at, bound in ((range(1, n + 1), 1.0), (range(pool - n + 1, pool + 1), 0.0)):
        names = ["ndcg@4", "recall@4", "map@4", "hr@4", "mrr@4", "precision@4", "auc"]
        values = of(names, list(at), pool)
        np.testing.assert_allclose(values, bound, atol=1e-6)


def test_constant_scores_have_an_auc_of_a_half_and_no_hit():
    for some in ([3], [3, 7, 9], list(range(20))):
        found = ranks(jnp.zeros(40), jnp.int32(some), jnp.arange(40) > 35)
        got = evaluate_user(metrics(["auc", "hr@5"]), *found)
        np.testing.assert_allclose(got, [0.5, 0.0], atol=1e-6)


def test_auc_keeps_its_digits_on_a_million_items():
    at = np.random.default_rng(1).choice(10**6, 500, replace=False) + 1
    ahead = (np.sort(at) - np.arange(1, 501)).astype(float)
    want = 1 - ahead.sum() / (500 * (10**6 - 500))
    got = auc().compute(jnp.asarray(at, jnp.int32), jnp.int32(10**6), jnp.zeros(500, jnp.int32))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_names_and_types():
    names = ["hr@10", "ndcg@5", "recall@20", "precision@1", "mrr", "mrr@10", "map", "map@5", "auc"]
    assert [metric.name for metric in metrics(names)] == names
    values = of(names, [2], 10)
    assert values.shape == (9,) and values.dtype == jnp.float32
    assert evaluate_user([], jnp.int32([2]), jnp.int32(10), jnp.int32([0])).shape == (0,)
    assert hit_ratio(np.int64(10)).name == "hr@10"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ndgc@10", "did you mean 'ndcg@10'"), ("HR@10", "did you mean 'hr@10'"),
        ("hit_ratio@5", "did you mean 'hr@5'"), ("zzzzzz", "use one of hr, ndcg"),
        ("hr", "use 'hr@10'"), ("hr@", "integer of 1 or more"), ("ndcg@0", "integer of 1 or more"),
        ("mrr@-1", "integer of 1 or more"), ("auc@10", "use 'auc'"), (7, "use one of hr, ndcg"),
    ],
)  # fmt: skip
def test_wrong_names_are_one_line_with_a_remedy(name, remedy):
    with pytest.raises(ValueError, match=remedy) as error:
        metrics(["hr@10", name])
    assert repr(name) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("factory", [hit_ratio, ndcg, recall, precision, mrr])
@pytest.mark.parametrize("k", [0, -3, 2.5, "10"])
def test_cutoffs_are_positive_integers(factory, k):
    with pytest.raises(ValueError, match=f"{factory.__name__}\\(k="):
        factory(k)


def test_one_string_is_not_a_list_of_names():
    with pytest.raises(ValueError, match="use a list"):
        metrics("hr@10")
