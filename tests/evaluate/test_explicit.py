"""Rating errors: by hand, streamed over users, masks that hide NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.evaluate import (
    absolute_error,
    mae,
    mean_error,
    rmse,
    root_mean_error,
    squared_error,
)


def test_by_hand():
    predictions, ratings = jnp.float32([3, 5, 1, 9]), jnp.float32([4, 3, 1, 1])
    mask = jnp.array([True, True, True, False])
    assert rmse(predictions, ratings, mask) == pytest.approx((5 / 3) ** 0.5)
    assert mae(predictions, ratings, mask) == pytest.approx(1.0)
    assert rmse(predictions, ratings) == pytest.approx((69 / 4) ** 0.5)


def test_parts_of_users_and_chunks_add_up_to_the_whole():
    draw = np.random.default_rng(0)
    ratings = draw.integers(1, 6, (12, 30)).astype(np.float32)
    predictions = ratings + draw.normal(size=ratings.shape).astype(np.float32)
    mask = draw.random(ratings.shape) < draw.random((12, 1))
    errors = (predictions - ratings)[mask].astype(np.float64)
    squares = jax.jit(jax.vmap(squared_error))(predictions, ratings, mask)
    sizes = jax.jit(jax.vmap(absolute_error))(predictions, ratings, mask)
    assert squares.total.shape == squares.count.shape == (12,)
    np.testing.assert_allclose(root_mean_error(squares), np.sqrt(np.mean(errors**2)), rtol=1e-5)
    np.testing.assert_allclose(mean_error(sizes), np.mean(np.abs(errors)), rtol=1e-5)
    first = squared_error(predictions[:5], ratings[:5], mask[:5])
    merged = first + squared_error(predictions[5:], ratings[5:], mask[5:])
    np.testing.assert_allclose(root_mean_error(merged), np.sqrt(np.mean(errors**2)), rtol=1e-5)
    assert int(merged.count) == mask.sum()


def test_padding_may_hold_anything():
    ratings, mask = jnp.float32([4, np.nan, np.inf]), jnp.array([True, False, False])
    assert rmse(jnp.float32([3, 1, np.nan]), ratings, mask) == 1.0
    assert np.isnan(mae(ratings, ratings, jnp.zeros(3, bool)))
