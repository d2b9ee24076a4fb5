"""Parts of a client's examples: every interaction in one of them, with negatives of its own."""

import numpy as np
import pytest
from test_batches import SILOS, SINGLE, USERS, epoch

from fedjax_rec.data import batches
from fedjax_rec.data.splits import TRAIN
from fedjax_rec.data.subsets import part_of, query, support


def mine(world, k):
    """(users, items) of client k's training interactions, in the order of the store."""
    dataset, data, part = world
    chosen = (np.arange(USERS) % dataset.num_clients)[data.users] == k
    chosen &= part == TRAIN
    return data.users[chosen], data.items[chosen]


@pytest.mark.parametrize(("world", "of"), [(SINGLE, 2), (SILOS, 3)], ids=["users", "silos"])
def test_parts_hold_every_interaction_once(world, of):
    """Each with as many negatives as it has alone, which the user does not have."""
    dataset = world[0]
    for part in range(of):
        for k, batch in enumerate(epoch(part_of(batches.pointwise(2), part, of), dataset)):
            users, items = mine(world, k)
            positive = batch["labels"] == 1
            np.testing.assert_array_equal(batch["items"][positive], items[part::of])
            assert (~positive).sum() == 2 * positive.sum()
            owners = np.full(len(positive), k)
            if "users" in batch:
                owners = np.flatnonzero(np.arange(USERS) % dataset.num_clients == k)[batch["users"]]
            np.testing.assert_array_equal(owners[positive], users[part::of])
            np.testing.assert_array_equal(owners[~positive], np.repeat(users[part::of], 2))
            held = set(zip(users, items, strict=True))
            assert not held & set(zip(owners[~positive], batch["items"][~positive], strict=True))


def test_a_positive_stays_with_its_negatives():
    for k, batch in enumerate(epoch(query(batches.pairwise(3)), SILOS[0])):
        np.testing.assert_array_equal(batch["items"][:, 0], np.repeat(mine(SILOS, k)[1][1::2], 3))


def test_ratings_stay_with_their_items():
    for batch in epoch(query(batches.ratings()), SINGLE[0]):
        np.testing.assert_array_equal(batch["labels"], 1 + batch["items"] % 5)


def test_halves_draw_different_negatives():
    """From one seed, as a client draws both in one round."""
    kind = batches.pointwise(4)
    a, b = (epoch(half(kind), SINGLE[0])[7] for half in (support, query))
    negative = a["items"][a["labels"] == 0], b["items"][b["labels"] == 0]
    assert len(negative[0]) == len(negative[1]) == 16
    assert (negative[0] == negative[1]).mean() < 0.5


def test_one_interaction_is_in_the_support_alone():
    sizes = [
        len(epoch(half(batches.ratings()), SINGLE[0])[0]["items"]) for half in (support, query)
    ]
    assert sizes == [1, 0]


@pytest.mark.parametrize(
    ("part", "of", "message"),
    [(0, 0, r"part_of\(of=0\)"), (2, 2, r"part_of\(part=2, of=2\)"), (-1, 2, r"use 0 <= part < 2")],
)
def test_bad_arguments_are_named(part, of, message):
    with pytest.raises(ValueError, match=message):
        part_of(batches.ratings(), part, of)
