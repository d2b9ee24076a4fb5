"""Windows of users' items against slices made on the host, and negatives that are none."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_batches import ITEMS, SILOS, SINGLE, USERS, epoch

from fedjax_rec import keys
from fedjax_rec.data import sequences


def histories(world):
    """Training items of each user, in order."""
    _, data, part = world
    return [data.items[(data.users == u) & (part == 0)] for u in range(USERS)]


def users_of(world, k):
    dataset = world[0]
    return np.flatnonzero(np.arange(USERS) % dataset.num_clients == k)


@pytest.mark.parametrize("world", [SINGLE, SILOS], ids=["users", "silos"])
def test_the_last_window_is_each_users_last_items_shifted_by_one(world):
    length, mine = 4, histories(world)
    for k, batch in enumerate(epoch(sequences(length, window="last"), world[0])):
        # User u has 1 + u items and the last user none; one item has no next.
        expected = [u for u in users_of(world, k) if len(mine[u]) > 1]
        assert len(batch["inputs"]) == len(expected)
        if "users" in batch:
            np.testing.assert_array_equal(users_of(world, k)[batch["users"]], expected)
        for row, u in enumerate(expected):
            items = mine[u][-(length + 1) :]
            n = len(items) - 1
            assert batch["real"][row].tolist() == [0] * (length - n) + [1] * n
            np.testing.assert_array_equal(batch["inputs"][row, length - n :], items[:-1])
            np.testing.assert_array_equal(batch["targets"][row, length - n :], items[1:])
            # Padding names a row that the example touches anyway.
            assert (batch["inputs"][row, : length - n] == items[0]).all()
            assert (batch["targets"][row, : length - n] == items[0]).all()


def test_random_windows_cover_every_item_and_prefer_the_last():
    """User 7 has 8 items; windows of 3 + 1 start at 0 to 4."""
    items, kind = histories(SINGLE)[7], sequences(3)
    store = SINGLE[0].store
    taken = store.take(jnp.int32([7]))
    mine = dataclasses.replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
    seeds = keys.words(jax.random.key(0), 800).reshape(400, 2)
    drawn = jax.vmap(lambda seed: kind.draw(seed, mine, jnp.zeros(1, jnp.uint32)))(seeds)
    seen = np.zeros(8, int)
    for inputs, targets in zip(drawn["inputs"][:, 0], drawn["targets"][:, 0], strict=True):
        first = int(np.flatnonzero(items == inputs[0])[0])
        np.testing.assert_array_equal(inputs, items[first : first + 3])
        np.testing.assert_array_equal(targets, items[first + 1 : first + 4])
        seen[first + 1 : first + 4] += 1
    expected = coverage(8, 3, 400)
    assert np.abs(seen - expected).max() < 4 * np.sqrt(400 / 4)  # four standard deviations
    assert expected[1:].min() >= 400 * 3 / 11  # at least the mean share of a target


def coverage(size, length, times):
    """How often each item is a target, of ends drawn from 1 .. size + length and clipped."""
    count = np.zeros(size)
    for end in range(1, size + length + 1):
        end = min(max(end, length + 1), size)
        count[end - length : end] += 1
    return times * count / (size + length)


@pytest.mark.parametrize("world", [SINGLE, SILOS], ids=["users", "silos"])
@pytest.mark.parametrize("each", [False, True])
def test_negatives_are_outside_the_users_training_items(world, each):
    kind, mine = sequences(3, 5, each=each), histories(world)
    some = set()
    for k, batch in enumerate(epoch(kind, world[0])):
        expected = [u for u in users_of(world, k) if len(mine[u]) > 1]
        assert batch["negatives"].shape == (len(expected), *((3, 5) if each else (5,)))
        for row, u in enumerate(expected):
            drawn = set(batch["negatives"][row].reshape(-1).tolist())
            assert not drawn & set(mine[u].tolist()) and max(drawn) < ITEMS
            some |= drawn
    assert len(some) > ITEMS / 3
    assert kind.ids["negatives"] == (15 if each else 5)


def test_negatives_from_all_items_hit_the_users_own_too():
    mine = histories(SINGLE)[7]
    drawn = epoch(sequences(3, 64, exclude=False), SINGLE[0])[7]["negatives"]
    assert set(drawn[0].tolist()) & set(mine.tolist())


def test_examples_are_numbered_the_same_in_any_batch():
    store = SILOS[0].store
    mine = store.take(jnp.int32([1]))
    seeds = keys.words(jax.random.key(0), 2)
    kind = sequences(3, 2)

    def draw(q):
        one = jax.vmap(lambda m: kind.draw(seeds, m, q), in_axes=(store.axes(),))(mine)
        return jax.tree.map(lambda x: np.asarray(x[0]), one)

    together = draw(jnp.uint32([2, 0, 1]))
    for i, number in enumerate([2, 0, 1]):
        alone = draw(jnp.uint32([number]))
        for name in together:
            np.testing.assert_array_equal(together[name][i], alone[name][0])


def test_the_longest_client_is_the_one_with_most_users():
    kind, store = sequences(3), SILOS[0].store
    taken = store.take(jnp.arange(3))
    counts = jax.vmap(kind.count, in_axes=(store.axes(),))(taken)
    # Users 0 .. 8 over three clients; 0 and 8 have no sequence.
    assert counts.tolist() == [2, 3, 2]
    assert int(kind.longest(taken)) == 3 == kind.most(store)
    one = SINGLE[0].store
    assert int(kind.longest(one.take(jnp.int32([0, 8])))) == 1 == kind.most(one)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"sequences\(length=0\)"):
        sequences(0)
    with pytest.raises(ValueError, match=r"sequences\(negatives=-1\)"):
        sequences(3, -1)
    with pytest.raises(ValueError, match=r"window='lst'\) is unknown \(did you mean 'last'"):
        sequences(3, window="lst")
    store = dataclasses.replace(SILOS[0].store, spans=None)
    with pytest.raises(ValueError, match="does not say where its users' items lie"):
        sequences(3).count(store.take(jnp.int32([0])))
