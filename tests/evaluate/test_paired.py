"""Paired tests over users against SciPy's and a closed form."""

import numpy as np
import pytest
from scipy import stats

from fedjax_rec.evaluate import holm, paired


def two(size: int = 300, shift: float = 0.1):
    rng = np.random.default_rng(3)
    base = rng.normal(size=size)
    return base + shift + rng.normal(size=size) * 0.8, base


def test_numbers_are_those_of_scipy():
    a, b = two()
    told, d = paired(a, b, draws=40_000), a - b
    assert told["difference"] == pytest.approx(d.mean())
    assert told["p_wilcoxon"] == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert told["effect"] == pytest.approx(d.mean() / d.std(ddof=1))
    # The bootstrap of a mean of so many is the t test, nearly.
    t = stats.ttest_rel(a, b)
    assert told["p_bootstrap"] == pytest.approx(t.pvalue, abs=0.01)
    low, high = t.confidence_interval(0.95)
    assert (told["low"], told["high"]) == pytest.approx((low, high), abs=0.01)
    plus = stats.rankdata(np.abs(d))[d > 0].sum()
    assert told["rank_biserial"] == pytest.approx(2 * plus / stats.rankdata(np.abs(d)).sum() - 1)
    assert (told["users"], told["ties"]) == (300, 0)


def test_swapping_the_two_turns_every_sign_and_no_p():
    a, b = two()
    one, other = paired(a, b), paired(b, a)
    for key in ("difference", "effect", "rank_biserial"):
        assert one[key] == pytest.approx(-other[key])
    assert one["low"] == pytest.approx(-other["high"], abs=0.02)
    assert one["p_wilcoxon"] == pytest.approx(other["p_wilcoxon"])
    assert one["p_bootstrap"] == pytest.approx(other["p_bootstrap"], abs=0.02)


def test_a_test_errs_as_often_as_it_says():
    """Of 400 pairs that do not differ, 5% are called different at .05."""
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 2, size=(400, 2, 200)).astype(float)
    called = [paired(*pair, draws=800)["p_bootstrap"] <= 0.05 for pair in pairs]
    assert 8 <= sum(called) <= 34  # 20 expected, three deviations


def test_users_without_a_value_are_left_out_and_equal_models_do_not_differ():
    a, b = two(20)
    a[3], b[5] = np.nan, np.nan
    kept = ~np.isnan(a + b)
    assert paired(a, b) == paired(a[kept], b[kept])
    told = paired(b[kept], b[kept])
    assert (told["p_bootstrap"], told["p_wilcoxon"], told["effect"], told["ties"]) == (1, 1, 0, 18)


def test_holm_raises_p_in_their_order():
    p = np.array([0.02, np.nan, 0.001, 0.02, 0.6])
    np.testing.assert_allclose(holm(p), [0.06, np.nan, 0.004, 0.06, 0.6])
    assert holm([0.9, 0.8]).max() == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"second": [1.0]}, r"paired\(first: \(2,\), second: \(1,\)\); give one value"),
        ({"first": [np.nan, 1.0]}, "1 users have both values"),
        ({"level": 1.0}, r"paired\(level=1.0\) is out of range"),
        ({"draws": 0}, r"paired\(draws=0\)"),
    ],
)
def test_wrong_arguments(given, told):
    with pytest.raises(ValueError, match=told):
        paired(**{"first": [0.0, 1.0], "second": [1.0, 1.0], **given})


def test_no_probability():
    with pytest.raises(ValueError, match="holds no probabilities"):
        holm([0.1, 1.2])
