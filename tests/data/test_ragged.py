"""Held-out items are lists: one user with many does not widen those of all."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import data
from fedjax_rec.data.ragged import ragged


def test_lists_are_padded_where_they_are_read():
    lists = ragged(np.array([5, 6, 7, 8], np.int32), np.array([0, 2, 2, 2]))
    want = [[5, -1, -1], [-1, -1, -1], [6, 7, 8]]
    np.testing.assert_array_equal(lists, want)
    np.testing.assert_array_equal(jax.jit(lambda x, rows: x[rows])(lists, jnp.array([2, 0])),
                                  [want[2], want[0]])  # fmt: skip
    assert lists[0].tolist() == want[0] and lists[2].dtype == jnp.int32


def test_one_user_with_many_held_out_items_costs_its_own():
    rng = np.random.default_rng(0)
    heavy, light = 2000, 300
    users = np.append(np.repeat(np.arange(light), 5), np.full(heavy, light))
    items = np.append(rng.integers(0, 2500, light * 5), rng.permutation(2500)[:heavy])
    split = data.temporal_ratio(0.1, 0.2)(
        data.from_arrays("wide", users, items, ratings=rng.integers(1, 6, len(users)))
    )
    cases = data.pack(split, evaluation_negatives=0).test
    held = split.part == 2
    bytes_ = sum(x.nbytes for x in jax.tree.leaves((cases.targets, cases.ratings)))
    assert bytes_ <= 8 * held.sum() + 4 * 4 * (light + 1)
    assert cases.held_out().tolist() == np.bincount(split.interactions.users[held]).tolist()
    for user in (0, light):
        mine = held & (split.interactions.users == user)
        for got, want in ((cases.targets, split.interactions.items),
                          (cases.ratings, split.interactions.ratings)):  # fmt: skip
            np.testing.assert_array_equal(got[user][: mine.sum()], want[mine])
    assert set(np.asarray(cases.targets[0])[1:].tolist()) == {-1}
