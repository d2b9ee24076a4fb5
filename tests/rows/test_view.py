"""Plain arrays of an update: each row once, and back."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import rows
from fedjax_rec.rows import RowsUpdate


def listed():
    """Two clients that both touch row 1 of four."""
    ids = jnp.array([[0, 1], [1, 4]])
    values = jnp.arange(1.0, 9.0).reshape(2, 2, 2)
    table = RowsUpdate(values, ids, ids < 4, None, 4)
    return {"item": table, "bias": jnp.array([1.0, 2.0])}


def test_each_row_stands_once():
    summed = rows.weighted_sum(jnp.array([1.0, 2.0]), listed())
    arrays, back = rows.dense_view(summed)
    expected = np.array([[1, 2], [3 + 10, 4 + 12], [0, 0], [0, 0]])
    np.testing.assert_allclose(arrays["item"], expected)
    np.testing.assert_allclose(arrays["bias"], 5.0)
    again = back(jax.tree.map(lambda x: x / 2, arrays))
    np.testing.assert_allclose(rows.to_dense(again)["item"], expected / 2)
    assert again["item"].live.tolist() == [True, True, False, False]


def test_noise_on_a_sum_has_the_deviation_that_was_asked_for():
    n, touched = 20, 30
    ids = jnp.tile(jnp.arange(touched), (n, 1))
    update = RowsUpdate(jnp.zeros((n, touched, 50)), ids, ids < touched, None, touched)
    arrays, back = rows.dense_view(rows.weighted_sum(jnp.ones(n), update))
    noisy = back(arrays + jax.random.normal(jax.random.key(0), arrays.shape))
    assert abs(float(rows.to_dense(noisy).std()) - 1) < 0.05
