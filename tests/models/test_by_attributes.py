"""What attributes say without training, against NumPy, also of items that nobody met."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_central import ITEMS, MEMBERS, flat, history, solved, users_of  # noqa: F401 (a fixture)

from fedjax_rec import models

pytestmark = pytest.mark.usefixtures("compiled_fast")

WHAT = np.random.default_rng(4).random((ITEMS, 4)).astype(np.float32)


@pytest.mark.parametrize("l2", [0.1, 3.0])
def test_popularity_of_attributes_is_a_ridge_regression(history, l2):  # noqa: F811
    """Of the items that somebody met: the last one, which nobody did, is asked and not read."""
    model = models.attribute_scores(ITEMS, MEMBERS, WHAT)
    shared, _, loss = solved(models.attribute_popularity(l2), model, history)
    share = flat(history).sum(0) / users_of(flat(history))
    met, y = share > 0, WHAT.astype(np.float64)
    assert not met[-1]
    stacked = np.concatenate([y[met], np.sqrt(l2) * np.eye(4)])
    slope = np.linalg.lstsq(stacked, np.concatenate([share[met], np.zeros(4)]), rcond=None)[0]
    np.testing.assert_allclose(shared["slope"], slope, rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(loss, np.mean((y @ slope - share)[met] ** 2), rtol=1e-3)
    scored = model.score(shared, {}, jnp.array([ITEMS - 1, 2]), 0)
    np.testing.assert_allclose(scored, (y @ slope)[[ITEMS - 1, 2]], rtol=2e-4)


def test_neighbours_vote_by_their_likeness(history):  # noqa: F811
    model = models.attribute_weights(ITEMS, MEMBERS, 3, WHAT)
    shared, private, _ = solved(models.attribute_neighbours(), model, history)
    z = WHAT.astype(np.float64) - WHAT.mean(0)
    want = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        alike = [
            (z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j]), j)
            for j in range(ITEMS)
            if j != i
        ]
        for cosine, j in sorted(alike, reverse=True)[:3]:
            want[i, j] = max(cosine, 0)
    np.testing.assert_allclose(shared["weights"], want, atol=1e-6)
    mine = jax.tree.map(lambda x: x[2], private)
    scored = model.score(shared, mine, slice(None), 1)
    np.testing.assert_allclose(scored, want @ history[2, 1], rtol=1e-5, atol=1e-6)


def test_what_is_refused():
    with pytest.raises(ValueError, match="attribute_scores knows nothing of items; give data"):
        models.attribute_scores(ITEMS)
    with pytest.raises(ValueError, match=r"attribute_weights\(neighbours=0\)"):
        models.attribute_weights(ITEMS, 1, 0, WHAT)
    model = models.attribute_scores(ITEMS, 1, WHAT)
    shared, private = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match="has no loss of a batch; use the strategy central"):
        model.loss(shared, private, {}, jax.random.key(0))
