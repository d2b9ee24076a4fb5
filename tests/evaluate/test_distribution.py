"""Spread over users: values by hand, NaN left out, equal groups, one-line errors."""

import json

import numpy as np
import pytest

from fedjax_rec.evaluate import (
    by_activity,
    by_group,
    mean_and_interval,
    quantiles,
    worst_share,
)


def test_normal_interval_by_hand():
    found = mean_and_interval(np.float32([1, 2, 3, 4, np.nan]))
    half = 1.959964 * np.sqrt(5 / 3) / 2
    assert found == pytest.approx({"mean": 2.5, "low": 2.5 - half, "high": 2.5 + half, "users": 4})
    assert np.isnan(mean_and_interval([0.5])["low"])


def test_intervals_cover_the_mean_about_as_often_as_they_say():
    draw = np.random.default_rng(0)
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


def test_worst_share_by_hand():
    values = np.append(np.arange(30) / 30, np.nan)
    assert worst_share(values, 0.1) == pytest.approx(1 / 30)
    assert worst_share([0.3, 0.1, 0.2]) == 0.1  # at least one user


def test_results_are_plain_json():
    values, counts = np.float32([0.1, 0.2, 0.3, 0.4]), np.int32([1, 2, 3, 4])
    results = [
        mean_and_interval(values),
        quantiles(values),
        by_activity(values, counts),
        worst_share(values),
    ]
    assert json.loads(json.dumps(results)) == results


def test_what_no_user_has_a_value_of_is_nan_and_no_error():
    for none in ([], [np.nan, np.nan]):
        found = mean_and_interval(none)
        assert found["users"] == 0 and np.isnan([found[k] for k in ("mean", "low", "high")]).all()
        assert np.isnan(quantiles(none)["p50"]) and np.isnan(worst_share(none))


@pytest.mark.filterwarnings("error")
def test_an_infinite_error_of_one_user_is_infinite_over_all_and_warns_of_nothing():
    values = [1.0, 2.0, np.inf, np.inf]
    assert mean_and_interval(values)["mean"] == np.inf and np.isnan(
        mean_and_interval(values)["low"]
    )
    assert quantiles(values, [0.0])["p0"] == 1 and worst_share(values) == 1


def test_groups_by_name_leave_out_who_has_no_value_or_no_group():
    found = by_group([0.5, np.nan, 1.0, 0.25, 0.0], ["M", "F", "F", None, "M"])
    assert found == {"F": {"users": 1, "mean": 1.0}, "M": {"users": 2, "mean": 0.25}}
    assert list(found) == ["F", "M"] and by_group([np.nan], ["F"]) == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_and_interval([[1.0]]), "shape"),
        (lambda: mean_and_interval([1.0], level=95), "level=95"),
        (lambda: quantiles([1.0], [50]), "q=50"),
        (lambda: worst_share([1.0], 0), "share=0"),
        (lambda: by_activity([1.0, 2.0], [1, 2], groups=3), "groups=3"),
        (lambda: by_activity([1.0, 2.0], [1], groups=1), "do not match"),
        (lambda: by_group([1.0, 2.0], ["F"]), "labels for 1 users"),
    ],
)
def test_wrong_input_is_one_line_with_the_value(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
