"""What an epoch of a client holds: each interaction once, negatives anew, every user its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import keys
from fedjax_rec.data import batches
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.data.store import pack

USERS, ITEMS = 9, 30


def packed(clients=None):
    """User u has 1 + u training interactions, the last user none; ratings are 1 + item mod 5."""
    rng = np.random.default_rng(0)
    count = np.append(2 + np.arange(USERS - 1), 1)
    items = np.concatenate([rng.permutation(ITEMS)[:n] for n in count]).astype(np.int32)
    part = np.full(len(items), TRAIN, np.int8)
    part[np.cumsum(count) - 1] = TEST
    partition = None
    if clients is not None:
        partition = Partition((np.arange(USERS) % clients).astype(np.int32), clients)
    data = Interactions(
        "counts",
        np.repeat(np.arange(USERS), count).astype(np.int32),
        items,
        np.arange(len(items), dtype=float),
        (1 + items % 5).astype(np.float32),
        np.arange(USERS).astype(str),
        np.arange(ITEMS).astype(str),
    )
    return pack(Split(data, part), partition, evaluation_negatives=0), data, part


SINGLE, SILOS = packed(), packed(3)


def epoch(kind, dataset, seed=0):
    """[(batch of all examples)] of each client, every leaf cut to the client's count."""
    store, ids = dataset.store, jnp.arange(dataset.num_clients)
    seeds = keys.words(jax.random.key(seed), 2)

    def one(mine):
        return kind.draw(seeds, mine, jnp.arange(kind.most(store), dtype=jnp.uint32)), kind.count(
            mine
        )

    drawn, count = jax.vmap(one, in_axes=(store.axes(),))(store.take(ids))
    assert int(count.max()) == kind.most(store)
    return [
        {name: np.asarray(x[k])[: int(count[k])] for name, x in drawn.items()}
        for k in range(dataset.num_clients)
    ]


@pytest.mark.parametrize("world", [SINGLE, SILOS], ids=["users", "silos"])
def test_pointwise_covers_each_interaction_once_with_four_negatives(world):
    dataset, data, part = world
    clients = np.arange(USERS) % dataset.num_clients
    for k, batch in enumerate(epoch(batches.pointwise(4), dataset)):
        mine = (clients[data.users] == k) & (part == TRAIN)
        positive = batch["labels"] == 1
        assert sorted(batch["items"][positive]) == sorted(data.items[mine])
        assert (~positive).sum() == 4 * mine.sum() and set(batch["labels"]) <= {0.0, 1.0}
        if "users" in batch:
            members = np.flatnonzero(clients == k)
            owners = members[batch["users"]]
            pairs = set(zip(data.users[mine], data.items[mine], strict=True))
            assert set(zip(owners[positive], batch["items"][positive], strict=True)) == pairs
            negative = set(zip(owners[~positive], batch["items"][~positive], strict=True))
            assert not negative & pairs
            # Four negatives for each positive of the same user.
            np.testing.assert_array_equal(
                np.bincount(owners[~positive], minlength=USERS),
                4 * np.bincount(owners[positive], minlength=USERS),
            )
        else:
            assert not set(batch["items"][~positive]) & set(data.items[mine])


def test_users_are_named_only_where_clients_hold_several():
    for kind in (batches.pointwise(1), batches.pairwise(1), batches.ratings()):
        assert "users" not in epoch(kind, SINGLE[0])[0]
        assert "users" in epoch(kind, SILOS[0])[0]


@pytest.mark.parametrize("world", [SINGLE, SILOS], ids=["users", "silos"])
def test_pairwise_pairs_each_interaction_with_drawn_items(world):
    dataset, data, part = world
    clients = np.arange(USERS) % dataset.num_clients
    for k, batch in enumerate(epoch(batches.pairwise(3), dataset)):
        mine = (clients[data.users] == k) & (part == TRAIN)
        assert batch["items"].shape == (3 * mine.sum(), 2) and (batch["labels"] == 1).all()
        np.testing.assert_array_equal(
            np.sort(batch["items"][:, 0]), np.sort(np.repeat(data.items[mine], 3))
        )
        users = np.flatnonzero(clients == k)[batch["users"]] if "users" in batch else k
        held = set(zip(data.users[mine], data.items[mine], strict=True))
        drawn = np.broadcast_to(users, len(batch["items"])), batch["items"][:, 1]
        assert not set(zip(*drawn, strict=True)) & held


def test_ratings_are_those_of_the_data():
    dataset, data, part = SINGLE
    for k, batch in enumerate(epoch(batches.ratings(), dataset)):
        np.testing.assert_array_equal(batch["items"], data.items[(data.users == k) & (part == 0)])
        np.testing.assert_array_equal(batch["labels"], 1 + batch["items"] % 5)


def test_negatives_differ_between_seeds_and_not_within_one():
    kind, dataset = batches.pointwise(4), SINGLE[0]
    a, b, c = (epoch(kind, dataset, seed)[7] for seed in (0, 0, 1))
    np.testing.assert_array_equal(a["items"], b["items"])
    n = int(dataset.store.length[7])
    np.testing.assert_array_equal(a["items"][:n], c["items"][:n])
    assert (a["items"][n:] == c["items"][n:]).mean() < 0.3


def test_examples_are_numbered_the_same_in_any_batch():
    """Example q depends on q alone, not on its place in a batch."""
    store = SILOS[0].store
    mine = store.take(jnp.int32([1]))
    seeds = keys.words(jax.random.key(0), 2)
    for kind in (batches.pointwise(2), batches.pairwise(2)):

        def draw(q, kind=kind):
            one = jax.vmap(lambda m: kind.draw(seeds, m, q), in_axes=(store.axes(),))(mine)
            return jax.tree.map(lambda x: np.asarray(x[0]), one)

        q = np.uint32([5, 0, 11, 7])
        together = draw(jnp.asarray(q))
        for i, number in enumerate(q):
            alone = draw(jnp.asarray([number]))
            for name in together:
                np.testing.assert_array_equal(together[name][i], alone[name][0])


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"pointwise\(negatives=-1\)"):
        batches.pointwise(-1)
    with pytest.raises(ValueError, match=r"pairwise\(negatives=0\)"):
        batches.pairwise(0)
    import dataclasses

    store = dataclasses.replace(SINGLE[0].store, labels=None)
    with pytest.raises(ValueError, match="the data has no ratings"):
        batches.ratings().draw(jnp.zeros(2, jnp.uint32), store.take(jnp.int32([0])), jnp.arange(1))


def test_padding_and_sizes():
    store = SINGLE[0].store
    ids = jnp.int32([3, USERS, 8, 0])
    taken = store.take(ids)
    assert taken.length.tolist() == [4, 0, 0, 1] and int(taken.longest) == 4
    assert store.sizes(ids).tolist() == [4, 0, 0, 1]
    assert SILOS[0].members == 3 and SINGLE[0].members == 1
