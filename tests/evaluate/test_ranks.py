"""Ranks against a plain NumPy double loop: ties, NaN, padding, filters, both algorithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.evaluate import ranks, sampled_ranks


def looped(scores, targets, excluded):
    """The definition, item by item: (ranks, candidates, ties)."""
    scores = [-np.inf if np.isnan(s) else float(s) for s in scores]
    relevant = {int(t) for t in targets if 0 <= t < len(scores)}
    pool = [j for j in range(len(scores)) if j in relevant or not excluded[j]]
    found, done, ties = [], set(), []
    for t in map(int, targets):
        if t not in relevant or t in done:
            found.append(0)
            ties.append(0)
            continue
        ties.append(sum(scores[j] == scores[t] for j in pool if j not in relevant))
        done.add(t)
        rank = 1
        for j in pool:
            tied_before = scores[j] == scores[t] and (j not in relevant or j < t)
            rank += j != t and (scores[j] > scores[t] or tied_before)
        found.append(rank)
    return found, len(pool), ties


@st.composite
def users(draw):
    """Few distinct scores (many ties), infinities, both zeros and NaN; any targets, any filter."""
    num_items = 30
    num_targets = draw(st.sampled_from([2, 24]))  # 24 takes the binned path
    few = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0, np.inf, np.nan])
    scores = draw(st.lists(few, min_size=num_items, max_size=num_items))
    ids = st.integers(-1, num_items)  # both ends are padding; repeats occur
    targets = draw(st.lists(ids, min_size=num_targets, max_size=num_targets))
    excluded = draw(st.lists(st.booleans(), min_size=num_items, max_size=num_items))
    return np.float32(scores), np.int32(targets), np.array(excluded)


jitted, jitted_sampled = map(jax.jit, (ranks, sampled_ranks))


@settings(max_examples=100, deadline=None)
@given(users())
def test_ranks_equal_the_definition(user):
    scores, targets, excluded = user
    want, candidates, ties = looped(scores, targets, excluded)
    ranking = jitted(scores, targets, excluded)
    np.testing.assert_array_equal(ranking.ranks, want)
    np.testing.assert_array_equal(ranking.ties, ties)
    assert int(ranking.candidates) == candidates


@settings(max_examples=60, deadline=None)
@given(users(), st.integers(0, 2**32 - 1))
def test_sampled_ranks_equal_full_ranks_of_the_same_list(user, seed):
    scores, _, mask = user
    draw = np.random.default_rng(seed)
    negatives = draw.choice(np.append(scores, 0.5), 99).astype(np.float32)
    negative_mask = draw.random(99) < 0.8
    together = np.concatenate([scores, negatives])
    targets = np.where(mask, np.arange(scores.size), -1)
    dropped = ~np.concatenate([mask, negative_mask])
    want, candidates, ties = looped(together, targets, dropped)
    ranking = jitted_sampled(scores, negatives, mask, negative_mask)
    np.testing.assert_array_equal(ranking.ties, ties)
    np.testing.assert_array_equal(ranking.ranks, want)
    assert int(ranking.candidates) == candidates


def test_by_hand():
    scores = jnp.float32([0.9, 0.5, 0.5, 0.5, 0.1])
    assert jitted(scores, jnp.int32([2])).ranks.tolist() == [4]  # behind 0 and the tied 1 and 3
    assert jitted(scores, jnp.int32([3, 2, -1])).ranks.tolist() == [4, 3, 0]
    seen = jnp.array([True, False, False, True, False])
    ranking = jitted(scores, jnp.int32([2, 3]), seen)  # 3 is relevant, so its filter is ignored
    assert ranking.ranks.tolist() == [2, 3] and int(ranking.candidates) == 4
    sampled = jitted_sampled(jnp.float32([0.5]), jnp.float32([0.5, 0.7, 0.1]))
    assert sampled.ranks.tolist() == [3] and int(sampled.candidates) == 4


def test_a_catalogue_of_one_item():
    ranking = jitted(jnp.float32([np.nan]), jnp.int32([0]), jnp.array([True]))
    assert ranking.ranks.tolist() == [1] and int(ranking.candidates) == 1


def test_a_constant_or_nan_model_is_worst_not_best():
    for score in (0.0, np.nan):
        for targets in ([4], list(range(30))):
            got = jitted(jnp.full(100, score), jnp.int32(targets)).ranks
            assert got.tolist() == list(range(101 - len(targets), 101))


@pytest.mark.parametrize("num_targets", [5, 40])
def test_monotone_transforms_change_nothing(num_targets):
    draw = np.random.default_rng(3)
    scores = draw.integers(-20, 20, 500).astype(np.float32)  # all transforms are exact
    targets = draw.permutation(500)[:num_targets].astype(np.int32)
    excluded = draw.random(500) < 0.3
    want = jitted(scores, targets, excluded)
    levels = np.searchsorted(np.unique(scores), scores).astype(np.float32)
    for transformed in (4 * scores + 1, scores**3, levels - 7):
        got = jitted(transformed, targets, excluded)
        np.testing.assert_array_equal(got.ranks, want.ranks)
        assert got.candidates == want.candidates


@pytest.mark.parametrize("num_targets", [1, 40])
def test_vmap_agrees_with_a_loop_over_users(num_targets):
    draw = np.random.default_rng(7)
    scores = draw.integers(0, 30, (5, 200)).astype(np.float32)
    targets = draw.integers(-1, 200, (5, num_targets)).astype(np.int32)
    excluded = draw.random((5, 200)) < 0.3
    masked = jax.jit(jax.vmap(ranks))(scores, targets, excluded)
    for user in range(5):
        want, candidates, ties = looped(scores[user], targets[user], excluded[user])
        np.testing.assert_array_equal(masked.ties[user], ties)
        np.testing.assert_array_equal(masked.ranks[user], want)
        assert int(masked.candidates[user]) == candidates


def test_large_catalogue_of_distinct_scores_gives_the_sorted_position():
    draw = np.random.default_rng(11)
    scores = draw.permutation(50_000).astype(np.float32)
    for num_targets in (2, 300):
        targets = draw.permutation(50_000)[:num_targets].astype(np.int32)
        ranking = jitted(scores, targets)
        np.testing.assert_array_equal(ranking.ranks, 50_000 - scores[targets].astype(int))
        assert int(ranking.candidates) == 50_000


def test_half_precision_scores_rank_as_they_are():
    scores = jnp.array([1.0, 2.0, jnp.nan, 2.0], jnp.bfloat16)
    assert jitted(scores, jnp.int32([0, 2, 3])).ranks.tolist() == [3, 4, 2]
