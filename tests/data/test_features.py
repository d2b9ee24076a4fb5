"""Fields of users and items as numbers, against NumPy; statistics are of the training part."""

import numpy as np
import polars as pl
import pytest

from fedjax_rec import data
from fedjax_rec.data.partition import Partition
from fedjax_rec.data.splits import TEST, TRAIN, Split

AGES = [20.0, 30.0, None, 40.0, 90.0, 25.0]
TRAINS = np.array([True, True, True, True, False, True])


def encode(field, values=AGES, trains=TRAINS):
    return field.encode(pl.Series(values), trains, "features(users: 'age')")


def test_z_score_and_min_max_are_numpys_of_who_trains():
    used = np.array([20, 30, 40, 25.0])
    names, table = encode(data.z_score())
    assert names == [""] and table.dtype == np.float32 and table.shape == (6, 1)
    want = (np.array([20, 30, used.mean(), 40, 90, 25]) - used.mean()) / used.std()
    np.testing.assert_allclose(table[:, 0], want, rtol=1e-6)
    _, table = encode(data.min_max())
    want = np.clip((np.array([20, 30, used.mean(), 40, 90, 25]) - 20) / 20, 0, 1)
    np.testing.assert_allclose(table[:, 0], want, rtol=1e-6)  # 90 is beyond, and cut
    names, table = encode(data.z_score(missing="own"))
    assert names == ["", "missing"] and table[2].tolist() == [0, 1] and not table[[0, 4], 1].any()
    for field in (data.z_score(), data.min_max()):
        assert not encode(field, [5.0, 5.0], np.array([True, True]))[1].any()


def test_bins_are_those_of_numpy():
    x = np.random.default_rng(0).gamma(2, 10, 200)
    trains = np.arange(200) < 150
    used = x[trains]
    for field, edges in (
        (data.equal_width(5), np.linspace(used.min(), used.max(), 6)),
        (data.quantile_bins(4), np.quantile(used, [0, 0.25, 0.5, 0.75, 1])),
    ):
        names, table = encode(field, x.tolist(), trains)
        want = np.clip(np.digitize(x, edges) - 1, 0, len(edges) - 2)
        np.testing.assert_array_equal(table[:, :-1].argmax(1), want)
        assert table.sum(1).tolist() == [1] * 200 and names[-1] == "missing"
        np.testing.assert_array_equal(table[trains, :-1].sum(0), np.histogram(used, edges)[0])
    assert (encode(data.quantile_bins(4), x.tolist(), trains)[1][trains].sum(0)[:4] >= 37).all()
    # Of many alike there are fewer bins; a missing one is of its own, or of the mean's.
    assert encode(data.quantile_bins(10), [1, 1, 1, 1, 9], np.ones(5, bool))[1].shape[1] < 6
    names, table = encode(data.equal_width(2, missing="mean"))
    assert names == ["20 to 30", "30 to 40"]
    assert table.argmax(1).tolist() == [0, 1, 0, 1, 1, 0]  # the mean is 28.75
    assert encode(data.equal_width(2))[1][2].tolist() == [0, 0, 1]


def test_labels_are_bags_and_unseen_ones_missing():
    cells = ["War|Drama", None, "War", "Noir", "Noir|War", "Drama"]
    trains = np.array([True, True, True, False, False, True])
    names, table = encode(data.tokens(), cells, trains)
    assert names == ["Drama", "War", "missing"]
    want = [[0.5, 0.5, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert table.tolist() == want
    vectors = np.random.default_rng(1).normal(size=(3, 4))
    np.testing.assert_allclose(table[0] @ vectors, (vectors[0] + vectors[1]) / 2)
    names, _ = encode(data.tokens(separator=""), ["a b", "a b", "c"], np.ones(3, bool))
    assert names == ["a b", "c", "missing"]


@pytest.mark.parametrize(
    ("field", "values", "told"),
    [
        (lambda: data.z_score("refuse"), AGES, "1 of 6 are missing; fill them in"),
        (lambda: data.tokens(missing="refuse"), ["a", None] * 3, "3 of 6 are missing"),
        (lambda: data.equal_width(3, "refuse"), AGES, "1 of 6 are missing"),
        (lambda: data.min_max(), ["1", "2", "x", None, "4", "5"], "'x' is no number; use tokens"),
        (lambda: data.min_max(), [[1.0]] * 6, "is no number"),
        (lambda: data.z_score(), [None, None, None, None, 3.0, None], "no row of the training"),
        (lambda: data.equal_width(0), AGES, r"equal_width\(bins=0\)"),
        (lambda: data.quantile_bins(0), AGES, r"quantile_bins\(bins=0\)"),
        (lambda: data.tokens(missing="mean"), AGES, r"tokens\(missing='mean'\) is unknown"),
        (lambda: data.z_score(missing="men"), AGES, "did you mean 'mean'"),
    ],
)
def test_what_is_refused(field, values, told):
    with pytest.raises(ValueError, match=told):
        encode(field(), values)


def split_of_films() -> Split:
    found = data.from_arrays(
        "films", ["a", "a", "b", "c"], [1, 2, 1, 3], times=[0, 1, 0, 0],
        user_features={"user_id": ["a", "b", "c"], "age": [20, 40, 99], "sex": ["F", "M", "F"]},
        item_features={"item_id": [1, 2, 3], "genre": ["War", "War|Drama", "Noir"]},
    )  # fmt: skip
    return Split(found, np.array([TRAIN, TRAIN, TRAIN, TEST], np.int8))


def test_fields_stand_side_by_side_and_know_who_trains():
    asked = data.features(
        users={"age": data.z_score(), "sex": data.tokens()}, items={"genre": data.tokens()}
    )
    told = asked.encode(split_of_films())
    assert told.user_columns == ("age", "sex: F", "sex: M", "sex: missing")
    np.testing.assert_allclose(told.users, [[-1, 1, 0, 0], [1, 0, 1, 0], [6.9, 1, 0, 0]], rtol=1e-6)
    assert told.item_columns == ("genre: Drama", "genre: War", "genre: missing")
    assert told.items.tolist() == [[0, 1, 0], [0.5, 0.5, 0], [0, 0, 1]]
    by_client = told.by_client(Partition(np.array([1, 0, 1], np.int32), 2))
    assert by_client.shape == (2, 2, 4)
    np.testing.assert_array_equal(by_client[1], told.users[[0, 2]])
    np.testing.assert_array_equal(by_client[0], [told.users[1], np.zeros(4)])
    assert data.features(items={"genre": data.tokens()}).encode(split_of_films()).users is None


def test_columns_that_are_not_there_are_told():
    with pytest.raises(ValueError, match=r"users: 'aeg'\).*did you mean 'age'.*one of age, sex"):
        data.features(users={"aeg": data.z_score()}).encode(split_of_films())
    with pytest.raises(ValueError, match="names no column"):
        data.features()
    with pytest.raises(TypeError, match="call it"):
        data.features(users={"age": data.z_score})
    bare = data.leave_one_out()(data.synthetic(10, 20, interactions_per_user=4))
    with pytest.raises(ValueError, match="has no such feature of items; use one of data that"):
        data.features(items={"genre": data.tokens()}).encode(bare)


def test_own_tables_come_with_read():
    """`read(user_features=, item_features=)` and a field of each."""
    table = {"user": ["u", "u", "v"], "item": [1, 2, 1], "time": [1, 2, 1]}
    found = data.read(
        table, say=lambda line: None,
        user_features={"user": ["u", "v"], "town": ["Ulm", None]},
        item_features={"item": [1, 2], "price": [1.5, 2.5]},
    )  # fmt: skip
    split = Split(found, np.full(3, TRAIN, np.int8))
    asked = data.features(users={"town": data.tokens()}, items={"price": data.min_max()})
    told = asked.encode(split)
    assert told.users.tolist() == [[1, 0], [0, 1]] and told.items.tolist() == [[0], [1]]
