"""Spread over users: values by hand, NaN left out, equal groups, one-line errors."""

import json

import numpy as np
import pytest

from fedjax_rec.evaluate import (
    bootstrap_interval,
    by_activity,
    by_popularity,
    gini_index,
    jain_index,
    mean_and_interval,
    quantiles,
    worst_share,
)


def test_normal_interval_by_hand():
    found = mean_and_interval(np.float32([1, 2, 3, 4, np.nan]))
    half = 1.959964 * np.sqrt(5 / 3) / 2
    assert found == pytest.approx({"mean": 2.5, "low": 2.5 - half, "high": 2.5 + half, "users": 4})
    assert np.isnan(mean_and_interval([0.5])["low"])


def test_intervals_agree_and_cover_the_mean_about_as_often_as_they_say():
    draw = np.random.default_rng(0)
    values = draw.random(2000)
    normal, bootstrap = mean_and_interval(values), bootstrap_interval(values, resamples=2000)
    assert bootstrap == pytest.approx(normal, abs=2e-3)
    assert bootstrap == bootstrap_interval(values, resamples=2000)  # same seed, same bits
    samples = (draw.random((400, 50)) < 0.7).astype(float)
    covered = [found["low"] <= 0.7 <= found["high"] for found in map(mean_and_interval, samples)]
    assert 0.90 < np.mean(covered) < 0.98


def test_quantiles_by_hand():
    values = [*range(11), np.nan]
    assert quantiles(values, [0, 0.1, 0.5, 1]) == {"p0": 0, "p10": 1, "p50": 5, "p100": 10}


def test_activity_groups_are_equal_and_ordered():
    counts = np.array([50, 10, 30, 20, 40, 60, 5, 99])
    values = counts / 100.0
    values[7] = np.nan
    found = by_activity(values, counts, groups=3)
    assert [group["users"] for group in found.values()] == [3, 2, 2]
    assert found["q1"] == pytest.approx({"low": 5, "high": 20, "users": 3, "mean": 0.35 / 3})
    assert found["q3"] == pytest.approx({"low": 50, "high": 60, "users": 2, "mean": 0.55})
    sizes = np.array([group["users"] for group in found.values()])
    means = np.array([group["mean"] for group in found.values()])
    assert sizes @ means / sizes.sum() == pytest.approx(np.nanmean(values))


def test_popularity_groups_follow_the_held_out_item():
    popularity = np.array([100, 1, 10, 1000])
    targets = np.array([0, 1, 2, 3, -1])
    found = by_popularity([0.4, 0.1, 0.2, 0.9, 0.7], targets, popularity, groups=2)
    assert found["q1"] == pytest.approx({"low": 1, "high": 10, "users": 2, "mean": 0.15})
    assert found["q2"] == pytest.approx({"low": 100, "high": 1000, "users": 2, "mean": 0.65})
    several = by_popularity([1.0, 0.0], [[0, 1], [2, -1]], popularity, groups=2)
    assert several["q1"]["high"] == 10 and several["q2"]["low"] == 50.5


def test_worst_share_by_hand():
    values = np.append(np.arange(30) / 30, np.nan)
    assert worst_share(values, 0.1) == pytest.approx(1 / 30)
    assert worst_share([0.3, 0.1, 0.2]) == 0.1  # at least one user


def test_inequality_by_hand_and_by_the_definition():
    values = np.random.default_rng(2).random(40)
    pairs = np.abs(values[:, None] - values[None, :]).mean() / (2 * values.mean())
    assert gini_index(values) == pytest.approx(pairs)
    assert gini_index([0, 0, 0, 1]) == pytest.approx(0.75)
    assert jain_index([0, 0, 0, 1]) == pytest.approx(0.25)
    assert jain_index([1, 2, np.nan]) == pytest.approx(0.9)
    for equal in ([0.4] * 5, [0.0] * 5):
        assert jain_index(equal) == pytest.approx(1) and gini_index(equal) == pytest.approx(0)


def test_results_are_plain_json():
    values, counts = np.float32([0.1, 0.2, 0.3, 0.4]), np.int32([1, 2, 3, 4])
    results = [
        mean_and_interval(values), bootstrap_interval(values, resamples=5), quantiles(values),
        by_activity(values, counts), by_popularity(values, np.arange(4), counts),
        worst_share(values), jain_index(values), gini_index(values),
    ]  # fmt: skip
    assert json.loads(json.dumps(results)) == results


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_and_interval([]), "no user"),
        (lambda: quantiles([np.nan]), "no user"),
        (lambda: mean_and_interval([[1.0]]), "shape"),
        (lambda: mean_and_interval([1.0], level=95), "level=95"),
        (lambda: bootstrap_interval([1.0], resamples=0), "resamples=0"),
        (lambda: quantiles([1.0], [50]), "q=50"),
        (lambda: worst_share([1.0], 0), "share=0"),
        (lambda: by_activity([1.0, 2.0], [1, 2], groups=3), "groups=3"),
        (lambda: by_activity([1.0, 2.0], [1], groups=1), "do not match"),
        (lambda: by_popularity([1.0], [9], [1, 2], groups=1), "item 9"),
    ],
)
def test_wrong_input_is_one_line_with_the_value(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
