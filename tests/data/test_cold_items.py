"""Items held out of training: same training on both sides, tests apart, and no negative of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data
from fedjax_rec.data.splits import TEST, TRAIN, UNUSED, VALIDATION


@pytest.fixture(scope="module")
def interactions():
    return data.synthetic(60, 40, interactions_per_user=12, seed=3)


def test_both_sides_train_on_the_same_rows_and_share_the_tests(interactions):
    whole = data.leave_one_out()(interactions).part
    cold, warm = (f(0.25, seed=1)(interactions) for f in (data.cold_items, data.warm_items))
    np.testing.assert_array_equal(cold.absent, warm.absent)
    assert cold.absent.sum() == 10
    absent = cold.absent[interactions.items]
    for row, was in enumerate(whole):
        if was == TRAIN:
            both = UNUSED if absent[row] else TRAIN
            assert cold.part[row] == warm.part[row] == both
        else:
            assert cold.part[row] == (was if absent[row] else UNUSED)
            assert warm.part[row] == (UNUSED if absent[row] else was)
    assert (cold.part == TEST).any() and (cold.part == VALIDATION).any()
    other = data.cold_items(0.25, seed=2)(interactions)
    assert (other.absent != cold.absent).any()


def test_no_negative_is_an_absent_item(interactions):
    split = data.cold_items(0.5)(interactions)
    packed = data.pack(split, evaluation_negatives=0)
    bits = jnp.arange(4000, dtype=jnp.uint32) * jnp.uint32(1_073_741)
    for user in range(5):
        drawn = np.unique(packed.store.exclusion.pick(user, bits))
        train = interactions.items[(interactions.users == user) & (split.part == TRAIN)]
        allowed = np.setdiff1d(np.flatnonzero(~split.absent), train)
        np.testing.assert_array_equal(drawn, allowed)
    assert packed.popularity[split.absent].sum() == 0


def test_what_leaves_nothing_is_refused(interactions):
    with pytest.raises(ValueError, match=r"cold_items\(fraction=1.0\) is not a share"):
        data.cold_items(1.0)
    with pytest.raises(ValueError, match=r"fraction=0.01, seed=0\) leaves no row that tests"):
        data.cold_items(0.01)(interactions)
    with pytest.raises(ValueError, match=r"warm_items\(fraction=0.99, seed=0\) leaves no row that"):
        data.warm_items(0.99)(interactions)
