"""Negatives by popularity against counts, and with log q against the softmax of all items."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, keys, models

FOUND = data.synthetic(num_users=60, num_items=12, interactions_per_user=5, seed=0)
STORE = data.pack(data.leave_one_out()(FOUND), evaluation_negatives=0).store
RNG = np.random.default_rng(0)


def drawn(negatives: int, each: bool = False) -> dict:
    """The batch of the first client."""
    kind = data.sequences(2, negatives, each=each, drawn=data.popular_negatives())
    taken = STORE.take(jnp.int32([0]))
    mine = dataclasses.replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
    batch = kind.draw(keys.words(jax.random.key(1), 2), mine, jnp.zeros(1, jnp.uint32))
    return {**batch, "mask": jnp.ones(1)}


@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
def test_items_come_as_often_as_they_were_interacted_with_and_say_so(each):
    batch = drawn(40_000, each)
    shape = (1, 2, 40_000) if each else (1, 40_000)
    assert batch["negatives"].shape == batch["log_q"].shape == shape
    q = np.bincount(np.asarray(STORE.items), minlength=12) / len(STORE.items)
    seen = np.bincount(np.asarray(batch["negatives"]).ravel(), minlength=12)
    np.testing.assert_allclose(seen / seen.sum(), q, atol=0.01)
    np.testing.assert_allclose(np.exp(batch["log_q"]), q[batch["negatives"]], rtol=1e-5)


def test_an_item_that_nobody_has_is_never_drawn():
    ends = jnp.int32([0, 3, 3, 5, 5])
    store = dataclasses.replace(STORE, ends=ends)
    bits = jnp.asarray(RNG.integers(0, 2**32, 2000), jnp.uint32)
    items = data.popular_negatives().pick(store, bits)
    assert sorted(set(np.asarray(items).tolist())) == [1, 3]
    wanted = np.log(np.where(np.asarray(items) == 1, 3 / 5, 2 / 5))
    np.testing.assert_allclose(data.popular_negatives().log_q(store, items), wanted, rtol=1e-5)


def test_with_log_q_they_stand_for_all_items_in_the_loss_and_its_slope():
    batch, counts = drawn(40_000), jnp.ones((1, 2))
    live = jnp.asarray(np.bincount(np.asarray(STORE.items), minlength=12) > 0)
    table, states = (jnp.float32(RNG.normal(size=n)) for n in ((12, 3), (1, 2, 3)))

    def of(loss):
        value = lambda t: loss.value(states, t, "targets", batch, counts, 12)
        return jax.value_and_grad(value)(table)

    def full(table):
        scores = states @ table.T
        up = jnp.take_along_axis(scores, batch["targets"][..., None], -1)[..., 0]
        return (jax.nn.logsumexp(jnp.where(live, scores, -jnp.inf), -1) - up).mean()

    value, slope = jax.value_and_grad(full)(table)
    got, its_slope = of(models.log_q_softmax())
    np.testing.assert_allclose(got, value, rtol=0.01)
    np.testing.assert_allclose(its_slope, slope, atol=0.01)
    assert abs(of(models.sampled_softmax())[0] - value) > 1  # of 40,000 items


def test_popularity_is_asked_of_a_store_that_knows_it():
    bits, store = jnp.zeros(3, jnp.uint32), dataclasses.replace(STORE, ends=None)
    with pytest.raises(ValueError, match=r"the store does not say how often .* make it by pack"):
        data.popular_negatives().pick(store, bits)
