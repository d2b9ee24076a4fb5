"""Steck's calibration against the paper's own example and loops; popularity likewise."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr

from fedjax_rec.evaluate import (
    calibration,
    popularity_deviation,
    popularity_groups,
    popularity_lift,
)

RNG = np.random.default_rng(0)
ITEMS, USERS, GENRES, K = 40, 25, 5, 6
CATEGORIES = (RNG.random((ITEMS, GENRES)) < 0.35).astype(int)
CATEGORIES[7] = 0  # of no genre
LISTS = np.stack([RNG.choice(ITEMS, K, replace=False) for _ in range(USERS)])
LISTS[3, 2:] = -1
LISTS[4] = -1
WHO = np.sort(RNG.integers(0, USERS, 300))
WHO = WHO[WHO != 5]  # user 5 has no history
WHAT = RNG.zipf(1.6, WHO.size) % ITEMS
POPULARITY = np.bincount(WHAT, minlength=ITEMS)


def of_user(u: int) -> np.ndarray:
    return np.equal(WHO, u)


def share(items: list[int]) -> np.ndarray:
    """p(g) of a list of items, by the loop of equation 2."""
    told, count = np.zeros(GENRES), 0
    for i in items:
        if CATEGORIES[i].sum():
            told += CATEGORIES[i] / CATEGORIES[i].sum()
            count += 1
    return told / count if count else np.full(GENRES, np.nan)


def test_seventy_thirty():
    """The paper's user: 70 romantic and 30 action films, served romance alone: the KL is that of
    (.7, .3) against (.997, .003); 7 and 3 of them are calibrated."""
    genres = np.array([[1, 0]] * 100 + [[0, 1]] * 100)
    history = np.r_[0:70, 100:130]
    lists = [[*range(70, 80)], [*range(70, 77), 130, 131, 132]]
    users = np.repeat([0, 1], 100)
    told = calibration(lists, users, np.tile(history, 2), genres)
    wanted = 0.7 * math.log(0.7 / 0.997) + 0.3 * math.log(0.3 / 0.003)
    assert told == pytest.approx([wanted, 0.0], abs=1e-12)
    # With all of one genre and nothing of it in the list it is log(1 / a), the most there is.
    most = calibration([[100]], [0, 0], [0, 1], genres)
    assert most == pytest.approx([math.log(100)])


@pytest.mark.parametrize("smoothing", [0.01, 0.3])
def test_calibration_is_the_formula(smoothing):
    told = calibration(LISTS, WHO, WHAT, CATEGORIES, smoothing)
    for u in range(USERS):
        p, q = share(WHAT[of_user(u)].tolist()), share([i for i in LISTS[u].tolist() if i >= 0])
        wanted = rel_entr(p, (1 - smoothing) * q + smoothing * p).sum()
        np.testing.assert_allclose(told[u], wanted, rtol=1e-10)
    assert np.isnan(told[[4, 5]]).all() and np.isfinite(np.delete(told, [4, 5])).all()
    # Shares count, not what an item's row adds up to.
    np.testing.assert_allclose(calibration(LISTS, WHO, WHAT, 7.0 * CATEGORIES, smoothing), told)


def test_groups_have_a_fifth_of_what_was_touched():
    """20 + 60 + 20: one item is the head, ten of the last are the tail."""
    counts = np.r_[20, np.full(10, 6), np.full(10, 2), 0]
    found = popularity_groups(counts)
    assert found.tolist() == [0] + [1] * 10 + [2] * 11
    order = np.random.default_rng(1).permutation(counts.size)
    again = popularity_groups(counts[order])
    assert [np.bincount(again).tolist(), again[order == 0].tolist()] == [[1, 10, 11], [0]]
    # An item that alone has more than a fifth is the head and not the tail.
    assert popularity_groups([0, 9, 0]).tolist() == [2, 0, 2]
    for counts in (POPULARITY, RNG.integers(0, 1000, 500)):
        group = popularity_groups(counts, 0.2)
        bound = counts.sum() / 5
        head, tail = counts[group == 0], counts[group == 2]
        assert head.sum() >= bound > head.sum() - head.min()
        assert tail.sum() <= bound < tail.sum() + counts[group == 1].min()
        assert head.min() >= counts[group == 1].max() and counts[group == 1].min() >= tail.max()


def test_deviation_is_scipys_jensen_shannon():
    group = popularity_groups(POPULARITY)
    told = popularity_deviation(LISTS, WHO, WHAT, POPULARITY)
    for u in range(USERS):
        mine = np.bincount(group[WHAT[of_user(u)]], minlength=3)
        given = np.bincount(group[LISTS[u][LISTS[u] >= 0]], minlength=3)
        if u in (4, 5):
            assert np.isnan(told[u])
        else:
            assert told[u] == pytest.approx(jensenshannon(mine, given) ** 2, abs=1e-12)
    # Nothing in common is log 2, the same shares are 0.
    ends = np.flatnonzero(group == 0)[:1], np.flatnonzero(group == 2)[:1]
    apart = popularity_deviation([ends[0], ends[0]], [0, 1], [*ends[1], *ends[0]], POPULARITY)
    assert apart == pytest.approx([math.log(2), 0.0])


def test_lift_is_that_of_loops():
    told = popularity_lift(LISTS, WHO, WHAT, POPULARITY)
    mean = lambda items: float(np.mean([POPULARITY[i] for i in items]))
    known = [u for u in range(USERS) if u not in (4, 5)]
    mine = {u: mean(WHAT[of_user(u)]) for u in known}
    given = {u: mean([i for i in LISTS[u] if i >= 0]) for u in known}
    ranked = sorted(known, key=lambda u: (mine[u], u))
    for name, some in {"all": known, "niche": ranked[:5], "blockbuster": ranked[-5:]}.items():
        before = np.mean([mine[u] for u in some])
        assert told[name] == pytest.approx((np.mean([given[u] for u in some]) - before) / before)
    # Lists that are the histories have none.
    same = popularity_lift([[0, 1], [2, 3]], [0, 0, 1, 1], [0, 1, 2, 3], [8, 4, 2, 1])
    assert same["all"] == 0 and math.isnan(same["niche"])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: calibration([0], [0], [0], [[1]]), r"lists: \(1,\)\): give int\[U, k\]"),
        (lambda: calibration([[1]], [0], [0], [[1]]), "of items below 1, or -1"),
        (lambda: calibration([[0]], [1], [0], [[1]]), r"\(users\): give ids from 0 to 0"),
        (lambda: calibration([[0]], [0], [3], [[1]]), r"\(items\): give ids from 0 to 0"),
        (lambda: calibration([[0]], [0, 0], [0], [[1]]), r"give int\[n\] of both"),
        (lambda: calibration([[0]], [0], [0], [1]), r"give \[I, G\]"),
        (lambda: calibration([[0]], [0], [0], [[-1]]), r"give \[I, G\]"),
        (lambda: calibration([[0]], [0], [0], [[1]], 0.0), "use 0 < smoothing < 1"),
        (lambda: popularity_groups([1, 2], 0.6), "use 0 < share <= 0.5"),
        (lambda: popularity_groups([0, 0]), "has no interaction"),
        (lambda: popularity_deviation([[2]], [0], [0], [1, 1]), "of items below 2"),
        (lambda: popularity_lift([[2]], [0], [0], [1, 1]), "of items below 2"),
    ],
)
def test_wrong_arguments(call, told):
    with pytest.raises(ValueError, match=told):
        call()
