"""Who took part: of a table that some users moved, and of one that none of them did."""

import jax
import numpy as np
import pytest

from fedjax_rec import data, leaks, models

pytestmark = pytest.mark.usefixtures("compiled_fast")
USERS, ITEMS, WIDTH = 40, 400, 8
STORE = data.pack(
    data.leave_one_out()(data.synthetic(USERS, ITEMS, interactions_per_user=12)),
    evaluation_negatives=0,
).store
MODEL = models.fedmf(ITEMS, width=WIDTH)


def shared(of, seed):
    """An item table that these users pulled to themselves, each along a vector of its own."""
    rng = np.random.default_rng(seed)
    table = rng.normal(0, 0.1, (ITEMS, WIDTH))
    for items in leaks.positives(STORE, of).values():
        table[items] += rng.normal(0, 1.0, WIDTH)
    begun = MODEL.init(jax.random.key(0))[0]
    return jax.tree.map(lambda x: np.asarray(table, np.float32), begun)


def test_who_moved_the_table_is_told_from_who_did_not_and_nobody_of_another():
    took_part, never = list(range(0, USERS, 2)), list(range(1, USERS, 2))
    asked = took_part + never
    reference = shared([], 1)
    score = leaks.participation(MODEL, shared(took_part, 2), reference, STORE, asked)
    found = leaks.told_apart(score[: len(took_part)], score[len(took_part) :])
    assert found.mean > 0.9 and found.low > 0.75
    blind = leaks.participation(MODEL, shared([], 3), reference, STORE, asked)
    nothing = leaks.told_apart(blind[: len(took_part)], blind[len(took_part) :])
    assert nothing.low < 0.5 < nothing.high
    same = leaks.participation(MODEL, reference, reference, STORE, asked)
    assert not same.any()


def test_the_interval_is_that_of_a_bootstrap_over_both():
    rng = np.random.default_rng(0)
    some, others = rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)
    found = leaks.told_apart(some, others)
    assert found.mean == np.mean(some[:, None] > others)
    # Hanley and McNeil (1982): the standard error of an AUC.
    a = found.mean
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    error = np.sqrt((a * (1 - a) + 59 * (q1 - a**2) + 59 * (q2 - a**2)) / 60**2)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"negatives": 0}, "negatives=0"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "rate=0"),
    ],
)
def test_what_is_refused(given, line):
    model = shared([], 1)
    with pytest.raises(ValueError, match=line):
        leaks.participation(MODEL, model, model, STORE, [0, 1], **given)
