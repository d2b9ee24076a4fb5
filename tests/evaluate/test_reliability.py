"""Expected calibration error against a loop over bins, and cases whose error is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.evaluate import calibration_error, reliability


def by_loops(logits, labels, bins):
    p = 1 / (1 + np.exp(-np.asarray(logits, np.float64)))
    edges, error, rows = np.linspace(0, 1, bins + 1), 0.0, []
    for low, high in itertools.pairwise(edges):
        inside = (p >= low) & ((p < high) | (high == 1))
        if inside.any():
            error += inside.mean() * abs(labels[inside].mean() - p[inside].mean())
        rows.append((inside.sum(), p[inside].sum(), labels[inside].sum()))
    return error, np.array(rows)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_it_is_the_loop_over_bins(bins):
    rng = np.random.default_rng(bins)
    logits = rng.normal(0, 2, 3001).astype(np.float32)
    labels = (rng.random(3001) < 0.3).astype(np.float32)
    told = jax.jit(lambda z, y: reliability(z, y, bins))(logits, labels)
    error, rows = by_loops(logits, labels, bins)
    assert float(told.error) == pytest.approx(error, rel=1e-5)
    np.testing.assert_array_equal(told.count, rows[:, 0])
    some = rows[:, 0] > 0
    np.testing.assert_allclose(told.confidence[some], rows[some, 1] / rows[some, 0], rtol=1e-5)
    np.testing.assert_allclose(told.rate[some], rows[some, 2] / rows[some, 0], rtol=1e-5)
    assert np.isnan(np.asarray(told.rate)[~some]).all()


def test_probabilities_that_are_right_have_no_error_and_ranking_does_not_see_it():
    rng = np.random.default_rng(0)
    p = rng.uniform(0.02, 0.98, 50_000)
    labels = rng.random(p.size) < p
    right = np.log(p / (1 - p))
    assert float(calibration_error(right, labels)) < 0.02
    # Twice the logit ranks alike and is overconfident; by hand, in a large sample.
    sure = 1 / (1 + np.exp(-2 * right))
    place = np.minimum((sure * 15).astype(int), 14)
    wanted = sum(abs((p - sure)[place == b].sum()) for b in range(15)) / p.size
    assert float(calibration_error(2 * right, labels)) == pytest.approx(wanted, abs=0.01)
    assert wanted > 0.05


def test_ends_and_nothing():
    assert float(calibration_error(jnp.array([jnp.inf, -jnp.inf]), jnp.array([1, 0]))) == 0
    assert float(calibration_error(jnp.array([jnp.inf, -jnp.inf]), jnp.array([0, 1]))) == 1
    assert np.isnan(calibration_error(jnp.array([jnp.nan, 0.0]), jnp.array([1, 0])))
    with pytest.raises(ValueError, match=r"reliability\(bins=0\)"):
        reliability(jnp.zeros(2), jnp.zeros(2), bins=0)


def test_sums_of_many_keep_their_digits():
    """Many at .1 of which a tenth is positive: float32 sums one after another lose digits."""
    n = 400_000
    logits = jnp.full(n, np.log(1 / 9), jnp.float32)
    labels = jnp.arange(n) % 10 == 0
    assert float(calibration_error(logits, labels)) < 2e-6
