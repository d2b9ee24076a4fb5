"""Users held out of training: same training on both sides, tests apart, what is known filtered."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, evaluate
from fedjax_rec.data.cold_users import is_cold
from fedjax_rec.data.splits import TEST, TRAIN, UNUSED, VALIDATION
from fedjax_rec.types import Model, Ranking

ITEMS = 40


@pytest.fixture(scope="module")
def interactions():
    return data.synthetic(30, ITEMS, interactions_per_user=12, seed=3)


def test_both_sides_train_on_the_same_rows_and_share_the_tests(interactions):
    whole = data.leave_one_out()(interactions).part
    cold, warm = (make(0.2, seed=4)(interactions) for make in (data.cold_users, data.warm_users))
    new = is_cold(cold)
    assert new.sum() == 6 and not is_cold(warm).any()
    for row, was in enumerate(whole):
        mine = new[interactions.users[row]]
        if was == TRAIN:
            both = UNUSED if mine else TRAIN
            assert cold.part[row] == warm.part[row] == both
        else:
            assert cold.part[row] == (was if mine else UNUSED)
            assert warm.part[row] == (UNUSED if mine else was)
    assert (cold.part == data.cold_users(0.2, seed=4)(interactions).part).all()
    assert (is_cold(data.cold_users(0.2, seed=5)(interactions)) != new).any()
    wide = data.cold_users(0.2, data.temporal_ratio(0.1, 0.4))(interactions)
    assert (wide.part[is_cold(wide)[interactions.users]] != TRAIN).all()


@pytest.mark.parametrize("make", ["cold_users", "warm_users", "cold_items", "warm_items"])
@pytest.mark.parametrize("part", [VALIDATION, TEST])
def test_no_item_that_a_user_is_known_to_have_is_a_candidate(interactions, make, part):
    """But those that are held out now, and of the validation also those of the test."""
    split = getattr(data, make)(0.3, seed=1)(interactions)
    packed = data.pack(split, evaluation_negatives=0, history=50)
    cases = packed.validation if part == VALIDATION else packed.test
    protocol = evaluate.full_catalogue([_candidates()], ITEMS)
    flat = Model(None, None, Ranking.of(lambda s, p, items, user: jnp.zeros(ITEMS)[items]))
    counted = evaluate.evaluate_users(flat, protocol, {}, {"x": jnp.zeros((30, 1))}, cases)[:, 0]
    times = np.arange(len(interactions))
    for row, user in enumerate(cases.users.tolist()):
        mine, was = interactions.users == user, split.part
        parts = [TRAIN, UNUSED] + [VALIDATION] * (part == TEST)
        assert counted[row] == ITEMS - (mine & np.isin(was, parts)).sum()
        # A history is what came before, of items that training may see.
        first = times[mine & (was == part)].min()
        read = (was == TRAIN) | ((was == VALIDATION) & (part == TEST))
        read |= (was == UNUSED) & (times < first)
        if split.absent is not None:
            read &= ~split.absent[interactions.items] | (was != UNUSED)
        got = np.asarray(cases.history[row])
        assert got[got >= 0].tolist() == interactions.items[mine & read].tolist()


def _candidates():
    return evaluate.Metric("candidates", lambda ranks, candidates, ties: candidates)


@pytest.mark.parametrize(
    ("fraction", "said"),
    [(1.0, r"cold_users\(fraction=1.0\)"), (0.01, "holds out 0 of the 30 users")],
)
def test_what_leaves_nobody_is_refused(interactions, fraction, said):
    with pytest.raises(ValueError, match=said):
        data.cold_users(fraction)(interactions)
