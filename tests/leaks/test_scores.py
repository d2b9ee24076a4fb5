"""AUC, F1 and intervals against counts by hand."""

import numpy as np

from fedjax_rec import leaks


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    score, true = rng.integers(0, 5, 60), rng.random(60) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in score[true] for b in score[~true]]
    assert abs(leaks.auc(score, true) - np.mean(pairs)) < 1e-12
    assert np.isnan(leaks.auc(score, np.ones(60, bool)))


def test_f1_of_what_is_said_and_of_guesses():
    guess = leaks.Guess(7, np.arange(10), np.arange(10.0), np.arange(10) >= 6)
    found = leaks.scored("mine", [guess], {7: np.array([2, 8, 9])}, "positives")
    assert (found.by["precision"].mean, found.by["recall"].mean) == (0.5, 2 / 3)
    assert abs(found.by["f1"].mean - 4 / 7) < 1e-12
    assert abs(found.by["auc"].mean - (7 + 7 + 2) / 21) < 1e-12
    # 4 of 10 said at random hit 4 * .3 of 3; all 10 hit 3.
    assert abs(found.random - 2 * 1.2 / 7) < 1e-12 and abs(found.everything - 6 / 13) < 1e-12


def test_what_is_no_candidate_is_missed():
    guess = leaks.Guess(0, np.array([1, 2]), np.array([1.0, 0.0]), np.array([True, False]))
    found = leaks.scored("mine", [guess], {0: np.array([1, 5])}, "positives")
    assert (found.by["precision"].mean, found.by["recall"].mean) == (1.0, 0.5)


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    inside = [
        found.low <= 0.0 <= found.high
        for found in (leaks.interval(rng.normal(size=80), draws=300) for _ in range(300))
    ]
    assert 0.90 < np.mean(inside) < 0.98
    assert np.isnan(leaks.interval([np.nan]).mean)
