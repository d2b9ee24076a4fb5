"""Digests tell data apart by what training and tests read of them, and by nothing else."""

from dataclasses import replace

import numpy as np

from fedjax_rec import data
from fedjax_rec.data.digest import CATALOGUE, ROWS

RNG = np.random.default_rng(0)
USERS, ITEMS = np.repeat(np.arange(12), 6), RNG.integers(0, 30, 72)
TIMES, STARS = RNG.permutation(72), RNG.integers(1, 6, 72)


def told(users=USERS, items=ITEMS, times=TIMES, stars=STARS, name="mine", split=None, clients=None):
    found = data.from_arrays(name, users, items, times=times, ratings=stars)
    parted = (split or data.leave_one_out())(found)
    return data.digests(parted, (clients or data.by_user())(parted))


def test_names_orders_and_moments_that_change_no_order_say_nothing():
    order = RNG.permutation(72)
    assert told() == told(USERS[order], ITEMS[order], TIMES[order], STARS[order], name="other")
    assert told() == told(times=TIMES * 7.5 + 3) == told(USERS.astype(str), ITEMS.astype(float))


def test_what_is_learned_from_or_tested_on_says_something():
    one = told()
    longer = np.where(ITEMS[0] == ITEMS, 1000, ITEMS)
    assert told(items=longer)[CATALOGUE] != one[CATALOGUE] != told(USERS + 5)[CATALOGUE]
    turned = STARS.copy()
    turned[3] = 6 - turned[3] if turned[3] != 3 else 1
    alike = {
        "ratings": told(stars=turned),
        "order": told(times=-TIMES),
        "split": told(split=data.temporal_ratio(0.2, 0.5)),
        "clients": told(clients=data.by_hash(3)),
        "cold": told(split=data.cold_items(0.4)),
    }
    for what, other in alike.items():
        assert other[CATALOGUE] == one[CATALOGUE], what
        assert other[ROWS] != one[ROWS], what
    assert len({other[ROWS] for other in alike.values()}) == len(alike)


def test_labelled_examples_are_told_apart_too():
    made = data.clicks(6, 12, 90, sparse=3, dense=2, strength=3.0)
    one = data.digests_of_examples(made)
    assert one == data.digests_of_examples(replace(made, name="other"))
    labels = 1 - made.fields["labels"]
    other = data.digests_of_examples(replace(made, fields={**made.fields, "labels": labels}))
    assert other[CATALOGUE] == one[CATALOGUE] and other[ROWS] != one[ROWS]
    wider = data.digests_of_examples(replace(made, num_rows=made.num_rows + 1))
    assert wider[CATALOGUE] != one[CATALOGUE]
    # Prompts in other words are of the same users and items: a run may go on with them.
    beside = data.digests_of_examples(replace(made, fields={**made.fields, "more": labels}))
    assert beside[CATALOGUE] == one[CATALOGUE] and beside[ROWS] != one[ROWS]
