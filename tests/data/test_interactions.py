"""Records and filters, against plain Python loops."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data.interactions import (
    describe,
    from_arrays,
    implicit,
    k_core,
    latest_of_pairs,
    offsets,
    select,
)

ROWS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 5), st.integers(0, 5)),
    min_size=1,
    max_size=60,
)


def build(rows, **features):
    """Interactions of (user, item, time, rating) tuples."""
    users, items, times, ratings = (list(column) for column in zip(*rows, strict=True))
    return from_arrays("toy", users, items, times=times, ratings=ratings, **features)


def original(data):
    """The rows back under their original ids."""
    users, items = data.user_names[data.users], data.item_names[data.items]
    return list(zip(users.tolist(), items.tolist(), data.times.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_rows_are_sorted_by_user_and_time_and_ties_keep_their_order(rows):
    data = build(rows)
    expected = sorted(rows, key=lambda row: (row[0], row[2]))  # Python's sort is stable
    assert original(data) == [(str(u), str(i), float(t)) for u, i, t, _ in expected]
    assert data.ratings.tolist() == [row[3] for row in expected]
    assert data.users.dtype == data.items.dtype == np.int32
    assert (data.times.dtype, data.ratings.dtype) == (np.float64, np.float32)
    start = offsets(data)
    for user in range(data.num_users):
        assert set(data.users[start[user] : start[user + 1]]) == {user}


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([10, 9, 10, -1], ["-1", "9", "10"]),
        (["10", "9", "10", "2"], ["2", "9", "10"]),
        (["7", "007", "7", "8"], ["007", "7", "8"]),  # two ids, so all are text
        (["b", "a", "c", "a"], ["a", "b", "c"]),
        ([10**15, 5, 10**15, 7], ["5", "7", str(10**15)]),
        (np.array([-20000, -5535, 20000, 7], np.int16), ["-20000", "-5535", "7", "20000"]),
        (np.array([-100, 100, -128, 127], np.int8), ["-128", "-100", "100", "127"]),
        (np.array([0, 255, 3, 0], np.uint8), ["0", "3", "255"]),
        (np.array([2**63 + 5, 2**63 + 1, 3, 3], np.uint64), ["3", str(2**63 + 1), str(2**63 + 5)]),
        (np.array([2**63 + 5, 2**63 + 1] * 2, np.uint64), [str(2**63 + 1), str(2**63 + 5)]),
        (np.array([-(2**63), 2**63 - 1, 3, 3]), [str(-(2**63)), "3", str(2**63 - 1)]),
    ],
)
def test_ids_of_any_kind_become_dense_in_order(ids, names):
    data = from_arrays("toy", ids, [0, 1, 2, 3])
    assert data.user_names.tolist() == names
    pairs = zip(
        data.user_names[data.users].tolist(), data.item_names[data.items].tolist(), strict=True
    )
    assert sorted(pairs, key=lambda pair: pair[1]) == [
        (str(name), str(row)) for row, name in enumerate(ids)
    ]


WHOLE = {
    "floats": np.array([1.0, 10.0, 2.0]),
    "text": ["1.0", "10", "2"],
    "mixed": [1, "10.0", 2],
    "polars": pl.Series([1.0, 10.0, 2.0]),
    "objects": np.array([1, "10", 2.0], object),
}


@pytest.mark.parametrize("ids", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_are_integers_however_written_and_meet_their_features(ids):
    for key in ([2, 10], [2.0, 10.0], ["2", "10"], ["2.00", "10.0"]):
        features = pl.DataFrame({"user_id": key, "age": [20, 30]})
        data = from_arrays("toy", ids, [0, 1, 2], user_features=features)
        assert data.user_names.tolist() == ["1", "2", "10"]
        assert data.user_features["age"].to_list() == [None, 20, 30]
        assert describe(data)["users_described"] == 2 and describe(data)["items_described"] == 0
    # Beside other text they are text, in features too.
    features = pl.DataFrame({"user_id": ["2", "b"], "age": [20, 30]})
    data = from_arrays("toy", ["2.0", "a", "b"], [0, 1, 2], user_features=features)
    assert data.user_names.tolist() == ["2.0", "a", "b"]
    assert data.user_features["age"].to_list() == [None, None, 30]


NAN = float("nan")


@pytest.mark.parametrize(
    "ids",
    [np.array([1.0, NAN, 2.0]), [1, NAN, 2], ["a", NAN, "b"], ["a", "", "b"], ["a", "null", "b"],
     np.array(["a", NAN, "b"], object), np.array([1, None, 2], object), pl.Series([1.0, NAN, 2.0]),
     pl.Series([1, None, 2]), np.array(["a", NAN, "b"])],
)  # fmt: skip
def test_a_missing_id_is_no_user(ids):
    for columns in ((ids, [1, 2, 3]), ([1, 2, 3], ids)):
        with pytest.raises(ValueError, match=r"'toy' (users|items)\[1\] .*missing") as error:
            from_arrays("toy", *columns)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"users\[1\] = 1.5 is no whole number"):
        from_arrays("toy", [1.0, 1.5], [0, 1])


def test_moments_keep_their_order_to_the_nanosecond():
    start = 1_700_000_000_000_000_000
    for times in (np.array([start + 200, start + 100, start]),
                  np.array([start + 200, start + 100, start], "datetime64[ns]")):  # fmt: skip
        data = from_arrays("toy", [0, 0, 0], [0, 1, 2], times=times)
        assert data.items.tolist() == [2, 1, 0] and data.times.tolist() == sorted(times.astype(int))
    assert from_arrays("toy", [0, 0], [0, 1], times=[2, 1]).times.dtype == np.float64
    for times, told in (
        (np.array(["2020-01-02", "NaT"], "datetime64[ns]"), r"times\[1\] is missing"),
        (["2020-01-02", "2020-01-03"], r"times\[0\] = '2020-01-02' is no number"),
    ):
        with pytest.raises(ValueError, match=told):
            from_arrays("toy", [0, 0], [0, 1], times=times)


def test_features_that_describe_nobody_are_refused():
    features = pl.DataFrame({"item_id": ['"1"', '"2"'], "genre": ["a", "b"]})
    with pytest.raises(ValueError, match=r"describe item_id '\"1\"' and others, but none of the 2"):
        from_arrays("toy", [1, 2], [1, 2], item_features=features)


def test_dense_ids_do_not_depend_on_the_order_of_rows():
    one, other = (
        from_arrays("toy", ["x", "y", "z"], [3, 1, 2]),
        from_arrays("toy", ["z", "x", "y"], [2, 3, 1]),
    )
    assert one.user_names.tolist() == other.user_names.tolist()
    assert one.items.tolist() == other.items.tolist()


def test_features_follow_the_dense_ids():
    features = pl.DataFrame({"age": [30, 20, 99], "user_id": [7, 5, 1000]})
    data = from_arrays("toy", [5, 6, 7], [0, 0, 0], user_features=features)
    assert data.user_features.columns == ["age"]
    assert data.user_features["age"].to_list() == [20, None, 30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], [], {}), "no interactions"),
        (([1, 2], [1], {}), "unequal length"),
        (([1, None], [1, 2], {}), r"users\[1\] is missing"),
        (([1, 2], [1, 2], {"times": [0.0, np.nan]}), r"times\[1\] = nan"),
        (([1, 2], [1, 2], {"ratings": [np.inf, 1]}), r"ratings\[0\] = inf"),
        (([1], [1], {"user_features": pl.DataFrame({"id": [1]})}), "no column 'user_id'"),
        (([1], [1], {"user_features": pl.DataFrame({"user_id": [1, 1]})}), "'1' twice"),
        (([1], [1], {"item_features": 7}), "item_features=int"),
    ],
)
def test_bad_columns_are_named(arguments, message):
    users, items, named = arguments
    with pytest.raises(ValueError, match=message):
        from_arrays("toy", users, items, **named)


def test_times_and_ratings_are_given_by_name():
    """Files have ratings before times, and a rating that is taken for a time sorts a history."""
    with pytest.raises(TypeError, match="3 positional arguments"):
        from_arrays("toy", [1, 1], [1, 2], [5.0, 3.0], [11, 12])


class Frame:
    """What a frame of pandas shows: columns by name, which are no lists."""

    def __init__(self, **columns):
        self.columns, self.held = list(columns), columns

    def __getitem__(self, name):
        return np.array(self.held[name], dtype=object)


@pytest.mark.parametrize("kind", [Frame, dict, pl.DataFrame])
def test_features_may_be_a_frame_of_another_library(kind):
    missing = None if kind is pl.DataFrame else NAN
    columns = {"item_id": [9, 7, 8], "genre": ["a", "b", missing]}
    features = kind(columns) if kind is pl.DataFrame else kind(**columns)
    data = from_arrays("toy", [1, 1, 2], [7, 8, 9], item_features=features)
    assert data.item_features["genre"].to_list() == ["b", None, "a"]


def k_core_by_loop(rows, users, items):
    """Drop one offending row at a time, until none is left."""
    rows = list(rows)
    while True:
        for row in rows:
            of_user = sum(other[0] == row[0] for other in rows)
            of_item = sum(other[1] == row[1] for other in rows)
            if of_user < users or of_item < items:
                rows.remove(row)
                break
        else:
            return rows


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 4), st.integers(0, 4))
def test_k_core_is_the_fixed_point(rows, users, items):
    expected = k_core_by_loop(rows, users, items)
    if not expected:
        with pytest.raises(ValueError, match="leaves nothing of 'toy'"):
            k_core(build(rows), users, items)
        return
    ids = pl.DataFrame({"user_id": range(10), "copy": [f"u{u}" for u in range(10)]})
    core = k_core(build(rows, user_features=ids), users, items)
    assert original(core) == original(build(expected))
    assert core.num_users == len({row[0] for row in expected})
    assert core.num_items == len({row[1] for row in expected})
    assert core.user_features["copy"].to_list() == [f"u{name}" for name in core.user_names]


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_a_pair_counts_as_it_was_rated_last(rows):
    last = {}
    for user, item, time, rating in sorted(rows, key=lambda row: (row[0], row[2])):
        last[user, item] = (time, rating)
    data = latest_of_pairs(build(rows))
    found = dict(zip([(int(u), int(i)) for u, i, _ in original(data)],
                     zip(data.times, data.ratings, strict=True), strict=True))  # fmt: skip
    assert found == last and len(data) == len(last)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 4))
def test_implicit_keeps_the_earliest_row_of_each_pair_rated_above(rows, above):
    earliest = {}
    for row in sorted(rows, key=lambda row: row[2]):
        if row[3] > above:
            earliest.setdefault(row[:2], row)
    if not earliest:
        with pytest.raises(ValueError, match="leaves nothing"):
            implicit(build(rows), above)
        return
    data = implicit(build(rows), above)
    assert data.ratings is None
    assert sorted(original(data)) == sorted((str(u), str(i), t) for u, i, t, _ in earliest.values())


def test_filters_leave_their_input_alone_and_implicit_data_passes():
    data = from_arrays("toy", [0, 0, 1], [0, 1, 1])
    assert original(implicit(data)) == original(data)
    select(data, np.array([True, False, True]))
    assert len(data) == 3 and data.num_items == 2


def test_describe_counts():
    data = build([(1, 1, 5, 1), (1, 2, 7, 4), (2, 2, 3, 4), (1, 3, 9, 2)])
    facts = describe(data)
    assert (facts["users"], facts["items"], facts["interactions"]) == (2, 3, 4)
    assert facts["density"] == pytest.approx(4 / 6)
    assert (facts["per_user_min"], facts["per_user_median"], facts["per_user_max"]) == (1, 2, 3)
    assert (facts["time_first"], facts["time_last"]) == (3, 9)
    assert facts["ratings"] == "explicit, 1 to 4 (3 values)"
    assert describe(implicit(data))["ratings"] == "implicit"
