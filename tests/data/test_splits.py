"""Splits against plain Python loops over each user's history."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data.cold_items import cold_items
from fedjax_rec.data.cold_users import cold_users
from fedjax_rec.data.interactions import from_arrays
from fedjax_rec.data.sources.atomic import read_atomic
from fedjax_rec.data.splits import (
    TEST,
    TRAIN,
    VALIDATION,
    global_time,
    leave_one_out,
    ratio,
    temporal_ratio,
    tied_ends,
)

SHARED = Path(os.environ.get("FEDJAX_REC_DATA") or Path(__file__).parents[3] / "shared" / "data")


def history(rows):
    """Interactions from (user, time) pairs; the item is the row number."""
    users, times = zip(*rows, strict=True)
    return from_arrays("toy", users, np.arange(len(rows)), times=times)


def random_history(users=40, low=3, high=30, seed=0):
    """Shuffled rows of users with `low` to `high` interactions at few distinct times."""
    rng = np.random.default_rng(seed)
    rows = [(u, int(rng.integers(9))) for u in range(users) for _ in range(rng.integers(low, high))]
    return history([rows[i] for i in rng.permutation(len(rows))])


def parts_by_row(split):
    """Original row number to part."""
    data = split.interactions
    return dict(zip(data.item_names[data.items].astype(int).tolist(), split.part, strict=True))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_leave_one_out_by_loop(rows):
    rows = rows + [(user, 1) for user in range(5) for _ in range(3)]
    found = parts_by_row(leave_one_out()(history(rows)))
    for user in range(5):
        mine = [row for row in range(len(rows)) if rows[row][0] == user]
        mine.sort(key=lambda row: rows[row][1])  # stable: ties in original order
        assert [found[row] for row in mine] == [TRAIN] * (len(mine) - 2) + [VALIDATION, TEST]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=40))
def test_the_first_of_a_tie_counts_as_the_latest_where_asked_for(rows):
    """By the sort of the released PFedRec: descending times, ties in the order of the file."""
    rows = rows + [(user, 1) for user in range(5) for _ in range(3)]
    found = parts_by_row(leave_one_out(ties="first")(history(rows)))
    shares = parts_by_row(temporal_ratio(0.2, 0.3, ties="first")(history(rows)))
    for user in range(5):
        mine = [row for row in range(len(rows)) if rows[row][0] == user]
        latest = sorted(mine, key=lambda row: -rows[row][1])  # stable
        want = [TEST, VALIDATION] + [TRAIN] * (len(mine) - 2)
        assert [found[row] for row in latest] == want
        assert [shares[row] for row in latest] == sorted(shares[row] for row in mine)[::-1]


def test_ties_are_told_and_go_through_other_splits():
    data = history([(0, 1), (0, 2), (0, 2), (1, 1), (1, 2), (1, 3), (2, 5), (2, 5), (2, 5)])
    assert tied_ends(data) == 2
    assert (ratio()(data).ties, leave_one_out()(data).ties) == (None, "last")
    for around in (cold_users, cold_items):
        assert around(0.4, leave_one_out(ties="first"), seed=1)(data).ties == "first"
    with pytest.raises(ValueError, match=r"leave_one_out\(ties='any'\)"):
        leave_one_out(ties="any")


def test_global_time_tells_nanoseconds_apart():
    moments = 1_700_000_000_000_000_000 + np.arange(10) * 7
    data = from_arrays("fine", [0] * 10, np.arange(10), times=moments[::-1])
    assert global_time(0.2, 0.3)(data).part.tolist() == [0] * 5 + [1] * 2 + [2] * 3
    assert data.items.tolist() == list(range(10))[::-1]


def test_leave_one_out_names_the_user_with_too_few():
    data = from_arrays("toy", ["ann"] * 3 + ["bob"] * 2, [1, 2, 3, 1, 2])
    with pytest.raises(ValueError, match=r"user 'bob' has 2 \(1 such users\).*k_core\(users=3"):
        leave_one_out()(data)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=20, max_size=80, unique=True),
    st.floats(0.05, 0.4),
    st.floats(0.05, 0.4),
)
def test_global_time_cuts_at_two_moments(times, validation, test):
    data = history([(time % 3, time) for time in times])
    part = global_time(validation, test)(data).part
    latest = [data.times[part == p].max() for p in (TRAIN, VALIDATION)]
    first = [data.times[part == p].min() for p in (VALIDATION, TEST)]
    assert latest[0] < first[0] and latest[1] < first[1]
    assert abs((part == TEST).sum() - test * len(times)) <= 1
    assert abs((part == VALIDATION).sum() - validation * len(times)) <= 1


def test_global_time_keeps_ties_together_and_refuses_empty_parts():
    data = history([(0, 1), (0, 2), (1, 2), (1, 2), (0, 3), (1, 3)])
    part = global_time(0.5, 0.2)(data).part
    assert sorted(part) == [TRAIN] + [VALIDATION] * 3 + [TEST] * 2
    assert all(len(set(part[data.times == time])) == 1 for time in (1, 2, 3))
    with pytest.raises(ValueError, match="leaves a part of 'toy' empty"):
        global_time(0.2, 0.2)(history([(0, 1), (0, 1), (1, 1)]))
    only_test = global_time(0.0, 0.3)(history([(0, t) for t in range(10)])).part
    assert only_test.tolist() == [TRAIN] * 7 + [TEST] * 3
    no_test = global_time(0.3, 0.0)(history([(0, t) for t in range(10)])).part
    assert no_test.tolist() == [TRAIN] * 7 + [VALIDATION] * 3


def sizes_by_recbole(n, validation, test):
    """Train, validation, test of a history of n: recbole.data.dataset.Dataset._calcu_split_ids."""
    sizes = [0, int(validation * n + 1e-9), int(test * n + 1e-9)]
    sizes[0] = n - sum(sizes)
    for part, share in ((2, test), (1, validation)):
        if sizes[0] <= 1:
            break
        if 0 < share * n < 1:
            sizes[part] += 1
            sizes[0] -= 1
    return sizes


@pytest.mark.parametrize(("validation", "test"), [(0.1, 0.1), (0.2, 0.0), (0.0, 0.3), (0.3, 0.3)])
@pytest.mark.parametrize("make", [ratio, temporal_ratio])
def test_ratio_sizes_a_user(make, validation, test):
    data = random_history(low=1)
    part = make(validation, test)(data).part
    for user in range(data.num_users):
        mine = part[data.users == user]
        assert np.bincount(mine, minlength=3).tolist() == sizes_by_recbole(
            len(mine), validation, test
        )
        if make is temporal_ratio:
            assert (np.diff(mine) >= 0).all()


def test_ratio_is_random_and_repeats_with_its_seed():
    data = random_history()
    one, again, other = (ratio(seed=seed)(data).part for seed in (1, 1, 2))
    assert (one == again).all() and (one != other).any()
    # Any place of a history is as likely to be drawn: mean relative place near 1/2.
    long = history([(user, time) for user in range(200) for time in range(10)])
    places = np.tile(np.arange(10), 200)[ratio(seed=3)(long).part == TEST]
    assert len(places) == 200 and abs(places.mean() - 4.5) < 4 * 2.87 / np.sqrt(200)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ratio(0.5, 0.5), "ratio.*leaves no training rows"),
        (lambda: temporal_ratio(-0.1, 0.5), "temporal_ratio"),
        (lambda: global_time(0.9, 0.2), "global_time"),
        (lambda: ratio(seed=-1), r"ratio\(seed=-1\) is no seed; use 0 <= seed < 2\*\*32"),
        (lambda: cold_users(seed=2**32), r"cold_users\(seed=4294967296\) is no seed"),
    ],
)
def test_bad_shares_are_named(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_leave_one_out_on_movielens_1m():
    if not (SHARED / "ml-1m" / "ml-1m.inter").is_file():
        pytest.skip(f"ml-1m.inter is not under {SHARED}")
    data = read_atomic(SHARED / "ml-1m")
    part = leave_one_out()(data).part
    assert np.bincount(part).tolist() == [999601 - 2 * 6040, 6040, 6040]
    longest = np.zeros(6040)
    np.maximum.at(longest, data.users, data.times)
    assert (data.times[part == TEST] == longest).all()
