"""The interactions behind prompts: no held-out one is among those to learn from, nor a shot."""

import numpy as np
import pytest

from fedjax_rec.data import from_arrays, last_of_users, last_ratings, liked_pairs, pack_examples
from fedjax_rec.data.partition import by_hash
from fedjax_rec.data.sources.asked import shots_of
from fedjax_rec.data.splits import TEST, TRAIN, VALIDATION, Split

USERS, EACH, ITEMS, ABOVE = 12, 15, 40, 3.0


@pytest.fixture(scope="module")
def films():
    """User u rates 15 films, one each 100 seconds, in the order of a file that is not that of
    time."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(USERS), EACH)
    items = np.concatenate([rng.permutation(ITEMS)[:EACH] for _ in range(USERS)])
    times = np.tile(np.arange(EACH) * 100.0, USERS) + users
    ratings = rng.integers(1, 6, len(users)).astype(np.float32)
    mixed = rng.permutation(len(users))
    return from_arrays(
        "films", users[mixed], items[mixed], times=times[mixed], ratings=ratings[mixed]
    )


def pairs_of(made, part):
    chosen = made.part == part
    return set(
        zip(
            made.fields["user"][chosen].tolist(), made.fields["items"][chosen].tolist(), strict=True
        )
    )


def pairs_at(films, rows):
    return set(zip(films.users[rows].tolist(), films.items[rows].tolist(), strict=True))


@pytest.mark.parametrize("asking", [last_of_users(users=9), last_ratings(100, 6)])
def test_nothing_that_is_held_out_is_learned_from(films, asking):
    made, asked = liked_pairs(films, asking), asking(films)
    held = pairs_at(films, asked.validation) | pairs_at(films, asked.test)
    train = pairs_of(made, TRAIN)
    assert held and not held & train
    assert pairs_of(made, VALIDATION) == pairs_at(films, asked.validation)
    assert pairs_of(made, TEST) == pairs_at(films, asked.test)
    assert pairs_at(films, asked.train) <= train
    # What no prompt asks about is there up to the last of what prompts learn from, and no later.
    last = films.times[asked.train].max()
    early = pairs_at(films, np.flatnonzero(films.times <= last)) - held
    assert train == early
    label = {
        (u, i): r > ABOVE
        for u, i, r in zip(films.users, films.items, films.ratings, strict=True)
    }  # fmt: skip
    told = zip(made.fields["user"], made.fields["items"], made.fields["labels"], strict=True)
    assert all(label[u, i] == y for u, i, y in told)


def test_a_pair_that_is_asked_about_is_not_learned_from_at_another_time(films):
    asked = last_of_users(users=9)(films)
    row = asked.test[0]
    again = from_arrays(
        "films",
        np.append(films.users, films.users[row]),
        np.append(films.items, films.items[row]),
        times=np.append(films.times, -1.0),
        ratings=np.append(films.ratings, 5.0),
    )
    made = liked_pairs(again, last_of_users(users=9))
    name = lambda of, ids: of[np.asarray(ids)]
    user, item = films.user_names[films.users[row]], films.item_names[films.items[row]]
    same = (name(again.user_names, made.fields["user"]) == user) & (
        name(again.item_names, made.fields["items"]) == item
    )
    assert same.any() and not (made.part[same] == TRAIN).any()


@pytest.mark.parametrize("seed", [0, 1])
def test_shots_of_prompts_are_left_out(films, seed):
    asking = last_of_users(users=9)
    every, fewer = (
        liked_pairs(films, asking),
        liked_pairs(films, asking, shots=4, groups=3, seed=seed),
    )
    asked = asking(films)
    group = by_hash(3)(Split(films, np.zeros(len(films), np.int8))).client_of_user
    shots = shots_of(asked.train, group[films.users[asked.train]], 4, seed)
    assert len(shots) == 12
    assert pairs_of(fewer, TRAIN) == pairs_of(every, TRAIN) - pairs_at(films, shots)


def test_a_user_is_a_client_or_one_of_a_group(films):
    alone = liked_pairs(films)
    assert alone.num_clients == USERS and alone.num_rows == films.num_items
    np.testing.assert_array_equal(alone.client, alone.fields["user"])
    assert "users" not in alone.fields and pack_examples(alone).members == 1
    made = liked_pairs(films, clients=3)
    part = by_hash(3)(Split(films, np.zeros(len(films), np.int8)))
    np.testing.assert_array_equal(made.client, part.client_of_user[made.fields["user"]])
    for client in range(3):
        mine = made.client == client
        users, places = made.fields["user"][mine], made.fields["users"][mine]
        assert len(set(zip(users, places, strict=True))) == len(set(users)) == len(set(places))
        assert set(places) == set(range(len(set(users))))


def test_what_has_no_ratings_is_refused():
    with pytest.raises(ValueError, match=r"liked_pairs\(source='bare'\) needs ratings"):
        liked_pairs(from_arrays("bare", [0, 0, 1], [0, 1, 1]))
    with pytest.raises(ValueError, match=r"liked_pairs\(clients=0\)"):
        liked_pairs(from_arrays("bare", [0, 0, 1], [0, 1, 1]), clients=0)
