"""Lists put together and ranked anew, against loops over items."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import models
from fedjax_rec.models.lists.reordered import first_items
from fedjax_rec.models.lists.weighted_scores import standardised

RNG = np.random.default_rng(0)
ITEMS, SHARES = 23, np.float32([0.7, 0.3])
SCORES = RNG.normal(size=(2, ITEMS)).astype(np.float32) * [[1.0], [40.0]] + [[0.0], [-300.0]]
REAL = RNG.random(ITEMS) < 0.7


def z_loop(scores, real):
    known = [s for s, r in zip(scores, real, strict=True) if r and np.isfinite(s)]
    mean, deviation = np.mean(known), np.std(known)
    low = min((s - mean) / (deviation or 1) for s in known)
    return [(s - mean) / (deviation or 1) if np.isfinite(s) else low for s in scores]


def test_weighted_scores_are_standardised_over_what_may_be_shown():
    want = sum(w * np.array(z_loop(s, REAL)) for w, s in zip(SHARES, SCORES, strict=True))
    got = jax.jit(models.weighted_scores().fuse)(SCORES, SHARES, REAL)
    np.testing.assert_allclose(got[REAL], want[REAL], rtol=1e-4, atol=1e-4)
    # Neither scale nor origin of a model is anything, and nothing of what is not shown.
    other = np.where(REAL, SCORES * [[1.0], [0.01]] + [[5.0], [9.0]], 1e6)
    moved = models.weighted_scores().fuse(jnp.float32(other), SHARES, REAL)
    np.testing.assert_allclose(moved[REAL], got[REAL], rtol=1e-3, atol=1e-3)


def test_what_is_not_finite_is_the_lowest_and_equal_scores_say_nothing():
    scores = jnp.float32([3.0, -jnp.inf, jnp.nan, 1.0, 2.0])
    z = standardised(scores, jnp.ones(5, bool))
    np.testing.assert_allclose(z, z_loop([3.0, -np.inf, np.nan, 1.0, 2.0], [1] * 5), rtol=1e-5)
    assert (standardised(jnp.full(5, 7.0), jnp.ones(5, bool)) == 0).all()
    assert (standardised(scores, jnp.zeros(5, bool)) == 0).all()


@pytest.mark.parametrize("constant", [0.0, 60.0])
def test_reciprocal_ranks_share_the_last_rank_of_a_tie(constant):
    scores = np.round(SCORES / [[0.5], [20.0]])
    want = np.zeros(ITEMS)
    for share, own in zip(SHARES, scores, strict=True):
        for i in range(ITEMS):
            rank = sum(own[j] >= own[i] for j in range(ITEMS) if REAL[j])
            want[i] += share / (constant + rank) if REAL[i] else 0.0
    got = jax.jit(models.reciprocal_ranks(constant).fuse)(jnp.float32(scores), SHARES, REAL)
    np.testing.assert_allclose(got[REAL], want[REAL], rtol=1e-5)


def test_a_score_that_is_no_number_ranks_last():
    both = jnp.float32([[1.0, jnp.nan, 3.0], [1.0, 2.0, 3.0]])
    got = models.reciprocal_ranks(0).fuse(both, jnp.float32([1, 0]), jnp.ones(3, bool))
    np.testing.assert_allclose(got, [1 / 2, 1 / 3, 1.0], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 5, ITEMS])
def test_a_list_comes_first_in_its_new_order_and_the_rest_stays(k):
    scores = np.round(SCORES[0] * 2)  # with ties
    better = RNG.normal(size=k).astype(np.float32)
    items = np.asarray(first_items(jnp.float32(scores), jnp.ones(ITEMS, bool), k))
    assert items.tolist() == sorted(range(ITEMS), key=lambda i: (-scores[i], i))[:k]
    got = np.asarray(jax.jit(models.reordered)(jnp.float32(scores), items, better))
    order = [int(items[p]) for p in sorted(range(k), key=lambda p: -better[p])]
    rest = [i for i in range(ITEMS) if i not in order]
    assert np.argsort(-got, kind="stable").tolist()[:k] == order
    for i in rest:
        for j in rest:
            assert np.sign(got[i] - got[j]) == np.sign(scores[i] - scores[j])
    assert not rest or got[rest].max() < got[order].min()


def test_a_list_may_have_places_without_an_item():
    scores, real = jnp.float32([1, 2, 3, 4]), jnp.array([True, False, True, False])
    items = first_items(scores, real, 3)
    assert items.tolist() == [2, 0, -1]
    got = models.reordered(scores, items, jnp.float32([0.0, 0.0, 9.0]))
    assert got.tolist() == [2.0, -2.0, 3.0, 0.0]  # equal ones as the list has them
    got = models.reordered(scores, items, jnp.float32([jnp.nan, 0.0, 9.0]))
    assert got.tolist() == [3.0, -2.0, 2.0, 0.0]


@pytest.mark.parametrize("fusion", [models.weighted_scores(), models.reciprocal_ranks()])
def test_shares_that_do_not_fit_are_refused(fusion):
    with pytest.raises(ValueError, match=r"shares: \[3\]\); give the scores of each model"):
        fusion.fuse(SCORES, jnp.ones(3), REAL)
    with pytest.raises(ValueError, match="has one below 0; use shares of 0 or more"):
        fusion.fuse(SCORES, jnp.float32([1.0, -0.5]), REAL)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"reciprocal_ranks\(constant=-1\) is too small"):
        models.reciprocal_ranks(-1)
    with pytest.raises(ValueError, match="a list that is no longer than the catalogue"):
        models.reordered(jnp.ones(2), jnp.arange(3), jnp.ones(3))
