"""Negatives: never excluded, uniform over what is left, and the same in both layouts."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.negatives import POLICIES, Complement, Search, exclusion, sample_distinct
from fedjax_rec.data.splits import TEST, TRAIN, UNUSED, VALIDATION, Split
from fedjax_rec.data.store import pack

BITS = jax.random.bits(jax.random.key(0), (4000,), jnp.uint32)
pick = jax.jit(lambda draws, user, bits: draws.pick(user, bits))


def both(users, items, num_users, num_items) -> tuple[Complement, Search]:
    pairs = np.asarray(users), np.asarray(items)
    complement = exclusion(*pairs, num_users, num_items)
    search = exclusion(*pairs, num_users, num_items, budget=0)
    assert isinstance(complement, Complement) and isinstance(search, Search)
    return complement, search


def histories(num_users=9, num_items=50, seed=0):
    """User 0 has nothing, user 1 all but one item, user 2 all but the first, the rest any."""
    rng = np.random.default_rng(seed)
    sizes = [0, num_items - 1, num_items - 1, *rng.integers(1, num_items, num_users - 3)]
    chosen = [rng.permutation(num_items)[:n] for n in sizes]
    chosen[2] = np.arange(1, num_items)
    return np.repeat(np.arange(num_users), sizes), np.concatenate(chosen)


def test_both_layouts_agree_to_the_bit_and_never_hit():
    users, items = histories()
    complement, search = both(users, items, 9, 50)
    for user in range(9):
        a, b = (np.asarray(pick(draws, user, BITS)) for draws in (complement, search))
        np.testing.assert_array_equal(a, b)
        allowed = np.setdiff1d(np.arange(50), items[users == user])
        assert a.dtype == np.int32 and set(a.tolist()) == set(allowed.tolist())
        for few in BITS[:320].reshape(20, 16):  # which are found one by one
            of_few = (pick(draws, user, few) for draws in (complement, search))
            np.testing.assert_array_equal(*of_few)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 8)), max_size=25), st.integers(0, 99))
def test_both_layouts_agree_on_any_pairs(pairs, seed):
    """Repeated pairs and users without any included; item 9 is always free."""
    users, items = np.array(pairs, int).reshape(-1, 2).T
    complement, search = both(users, items, 4, 10)
    bits = np.random.default_rng(seed).integers(0, 2**32, 64, np.uint32)
    user = jnp.arange(64) % 4
    a, b = complement.pick(user, jnp.asarray(bits)), search.pick(user, jnp.asarray(bits))
    np.testing.assert_array_equal(a, b)
    assert not set(zip(user.tolist(), a.tolist(), strict=True)) & set(pairs)


def test_catalogues_beyond_16_bits():
    rng = np.random.default_rng(0)
    users, items = np.repeat([0, 1], 300), rng.integers(0, 70_000, 600)
    complement, search = both(users, items, 2, 70_000)
    assert complement.items.dtype == jnp.int32
    a, b = (np.asarray(pick(draws, 1, BITS)) for draws in (complement, search))
    np.testing.assert_array_equal(a, b)
    assert a.max() > 2**16 and not np.isin(a, items[300:]).any()


def test_uniform_over_the_allowed():
    users, items = histories(seed=3)
    draws = both(users, items, 9, 50)[1]
    bits = jax.random.bits(jax.random.key(1), (40_000,), jnp.uint32)
    for user in (0, 4, 7):
        allowed = np.setdiff1d(np.arange(50), items[users == user])
        counts = np.bincount(np.asarray(pick(draws, user, bits)), minlength=50)[allowed]
        expected = counts.sum() / len(allowed)
        freedom = max(len(allowed) - 1, 1)
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom) + 1e-9


def test_absent_items_are_one_list_and_no_pair_of_every_user():
    """The draws of pairs (every user, every absent item), to the bit, and the memory of neither."""
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(400), 5), rng.integers(0, 3000, 2000)
    absent = rng.random(3000) < 0.3
    pairs = np.argwhere(np.broadcast_to(absent, (400, 3000)))
    long = np.concatenate([users, pairs[:, 0]]), np.concatenate([items, pairs[:, 1]])
    tracemalloc.start()
    draws = exclusion(users, items, 400, 3000, budget=0, absent=absent)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20 < len(pairs) * 8
    whole = exclusion(*long, 400, 3000, budget=0)
    for user in (0, 7, 399):
        np.testing.assert_array_equal(pick(draws, user, BITS), pick(whole, user, BITS))
    with pytest.raises(ValueError, match="user 'b' excludes all 2 items"):
        names, absent = np.array(["a", "b"]), np.array([True, False, False])
        exclusion(np.array([1, 1]), np.array([1, 2]), 2, 3, absent=absent, names=names)


def test_a_user_without_negatives_is_named():
    users, items = np.repeat([0, 1], [3, 5]), np.r_[0:3, 0:5]
    with pytest.raises(ValueError, match="user 1 excludes all 5 items, so no negative is left; "):
        exclusion(users, items, 2, 5)


def test_sample_distinct_is_distinct_outside_the_history_and_uniform():
    users, items = np.repeat([0, 1], [4, 10]), np.r_[[3, 7, 8, 19], 0:10]
    hits = np.zeros((2, 20))
    for seed in range(600):
        drawn = sample_distinct(users, items, 3, 20, 6, seed)
        assert drawn.shape == (3, 6) and drawn.dtype == np.int32
        assert all(len(set(row)) == 6 for row in drawn.tolist())
        for user in (0, 1):
            hits[user] += np.bincount(drawn[user], minlength=20)
    assert not hits[0, [3, 7, 8, 19]].any() and not hits[1, :10].any()
    for user, left in ((0, 16), (1, 10)):
        share = hits[user][hits[user] > 0] / 600
        assert len(share) == left
        # A binomial share, five deviations wide.
        assert np.abs(share - 6 / left).max() < 5 * np.sqrt(6 / left * (1 - 6 / left) / 600)
    np.testing.assert_array_equal(
        sample_distinct(users, items, 3, 20, 6, 1), sample_distinct(users, items, 3, 20, 6, 1)
    )


def test_the_negatives_of_either_part_are_uniform():
    """Chi-square, items times part, of one user under 400 seeds; and by NumPy's own `choice`."""
    seen, size, count = np.arange(0, 30, 6), 10, 400
    users, allowed = np.zeros(len(seen), int), np.setdiff1d(np.arange(30), seen)

    def excess(halves: np.ndarray) -> np.ndarray:
        """How many deviations each of [draws, 2, size] is off the law of a uniform sample."""
        hits = np.stack(
            [np.bincount(x.reshape(-1), minlength=30) for x in np.moveaxis(halves, 1, 0)]
        )
        assert not hits[:, seen].any()
        share, free = size / len(allowed), len(allowed) - 1
        # Of samples without replacement, items are counted with variance n p (1 - p).
        off = (hits[:, allowed] - count * share) ** 2 / (count * share * (1 - share))
        return (off.sum(1) * free / len(allowed) - free) / np.sqrt(2 * free)

    ours = [sample_distinct(users, seen, 1, 30, size, seed, parts=2)[0] for seed in range(count)]
    rng = np.random.default_rng(5)
    theirs = [rng.choice(allowed, 2 * size, replace=False) for _ in range(count)]
    for drawn in (ours, theirs):
        assert np.abs(excess(np.array(drawn).reshape(count, 2, size))).max() < 4
    # What the test would see: the same sets, cut where the last items come late.
    late = np.sort(np.array(ours), axis=1).reshape(count, 2, size)
    assert excess(late).min() > 100


def test_sample_distinct_can_take_all_that_is_left():
    drawn = sample_distinct(np.repeat([0], 4), np.arange(4), 1, 10, 6, 0)
    assert sorted(drawn[0].tolist()) == [4, 5, 6, 7, 8, 9]
    with pytest.raises(ValueError, match="user 0 has only 6 items outside its history"):
        sample_distinct(np.repeat([0], 4), np.arange(4), 1, 10, 7, 0)


def split_of_parts(num_users=6, num_items=40) -> Split:
    rng = np.random.default_rng(1)
    count = 8
    items = np.concatenate([rng.permutation(num_items)[:count] for _ in range(num_users)])
    part = np.tile([TRAIN] * 4 + [UNUSED] + [VALIDATION] + [TEST] * 2, num_users)
    return Split(
        Interactions(
            "parts",
            np.repeat(np.arange(num_users), count).astype(np.int32),
            items.astype(np.int32),
            np.arange(count * num_users, dtype=float),
            None,
            np.arange(num_users).astype(str),
            np.arange(num_items).astype(str),
        ),
        part.astype(np.int8),
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_each_policy_excludes_what_it_says_and_nothing_else(policy):
    split = split_of_parts()
    data, n = split.interactions, 5
    packed = pack(split, negatives=policy, evaluation_negatives=n)
    for user in range(data.num_users):
        mine = data.users == user
        parts = {
            "paper": (TRAIN, VALIDATION, TEST, UNUSED),
            "train": (TRAIN,),
            "symmetric": (TRAIN, VALIDATION, TEST),
        }[policy]
        excluded = set(data.items[mine & np.isin(split.part, parts)].tolist())
        evaluated = [packed.validation.negatives[user], packed.test.negatives[user]]
        evaluated = np.concatenate(evaluated).tolist()
        assert len(set(evaluated)) == 2 * n
        assert not set(evaluated) & set(data.items[mine].tolist())
        if policy == "symmetric":
            excluded |= set(evaluated)
        drawn = set(np.asarray(pick(packed.store.exclusion, user, BITS)).tolist())
        assert drawn == set(range(data.num_items)) - excluded


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"pack\(negatives='trian'\).*did you mean 'train'"):
        pack(split_of_parts(), negatives="trian")
    with pytest.raises(ValueError, match=r"evaluation_negatives=-1"):
        pack(split_of_parts(), evaluation_negatives=-1)


def test_too_many_evaluation_negatives_are_reported_as_given():
    """The message has to show the number that the user set, not twice of it."""
    with pytest.raises(ValueError, match=r"evaluation.negatives=99 .*user '0' has only 32 items"):
        pack(split_of_parts(), evaluation_negatives=99)
