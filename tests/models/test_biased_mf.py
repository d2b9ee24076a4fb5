"""Factorization with biases: its logits by NumPy, and likes that are learned by users who are
clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, rows, simulate, strategies

pytestmark = pytest.mark.usefixtures("compiled_fast")


def test_a_logit_is_a_mean_two_biases_and_a_product():
    model = models.biased_mf(7, members=3, width=4, scale=0.5)
    shared, private = model.init(jax.random.key(0))
    table = np.array(shared["item"].values)
    assert table.shape == (7, 5) and (table[:, -1] == 0).all() and table[:, :-1].std() > 0.2
    rng = np.random.default_rng(0)
    table = np.float32(rng.normal(size=(7, 5)))
    users = np.float32(rng.normal(size=(3, 5)))
    shared = {"item": rows.Table(jnp.asarray(table)), "mean": jnp.float32(0.3)}
    private = {"user": jnp.asarray(users)}
    items, who = np.array([0, 6, 2, 2]), np.array([2, 0, 1, 2])
    want = [
        0.3 + users[u, 4] + table[i, 4] + users[u, :4] @ table[i, :4]
        for u, i in zip(who, items, strict=True)
    ]
    batch = {"items": jnp.asarray(items), "users": jnp.asarray(who)}
    np.testing.assert_allclose(model.predict(shared, private, batch), want, rtol=1e-5)
    every = [0.3 + users[1, 4] + table[i, 4] + users[1, :4] @ table[i, :4] for i in range(7)]
    np.testing.assert_allclose(
        model.score(shared, private, slice(None), 1), every, rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match=r"biased_mf\(width=0\)"):
        models.biased_mf(7, width=0)


@pytest.mark.parametrize("groups", [None, 3])
def test_likes_of_others_tell_of_held_out_ones(groups):
    """Users of two tastes, and items of two kinds: which of them one likes is in no bias."""
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(30), 16), np.concatenate(
        [rng.permutation(24)[:16] for _ in range(30)]
    )  # fmt: skip
    ratings = np.where((users + items) % 2, 5.0, 1.0)
    found = data.from_arrays("tastes", users, items, times=np.arange(480.0), ratings=ratings)
    packed = data.pack_examples(data.liked_pairs(found, clients=groups))
    assert packed.num_items == 24 and packed.num_clients == (groups or 30)
    model = models.biased_mf(packed.num_items, packed.members, width=4, scale=0.3)
    strategy = strategies.fedmf(
        model, data.examples(), user_learning_rate=3.0, item_learning_rate=3.0, epochs=3
    )
    measure = simulate.on_examples(strategy.model, {"test": packed.test})
    *_, last = simulate.simulate(
        strategy, packed.store, 60, jax.random.key(0), measure=measure, every=60
    )
    assert last.metrics["auc"] > 0.95
