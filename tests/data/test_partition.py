"""Clients of users: every user has one, no client is empty, skew as asked."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec.data.interactions import from_arrays
from fedjax_rec.data.partition import by_attribute, by_hash, by_user, dirichlet
from fedjax_rec.data.splits import Split


def users(size, **features):
    """A split of `size` users named 100, 101, ... with one interaction each."""
    names = np.arange(100, 100 + size)
    table = pl.DataFrame({"user_id": names, **features}) if features else None
    data = from_arrays("toy", names, np.zeros(size, int), user_features=table)
    return Split(data, np.zeros(size, np.int8))


def sound(partition, size):
    """Each user has a client in range, each client a user."""
    assert partition.client_of_user.dtype == np.int32 and len(partition.client_of_user) == size
    assert set(partition.client_of_user.tolist()) == set(range(partition.num_clients))


def test_by_user():
    partition = by_user()(users(7))
    assert partition.client_of_user.tolist() == list(range(7)) and partition.num_clients == 7


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**31), st.data())
def test_no_client_is_ever_empty(size, seed, data):
    clients = data.draw(st.integers(1, size))
    split = users(size)
    for make in (by_hash(clients, seed), dirichlet(clients, 0.05, seed=seed)):
        partition = make(split)
        sound(partition, size)
        assert partition.num_clients == clients
        assert (partition.client_of_user == make(split).client_of_user).all()


def test_hash_is_even_fixed_and_depends_on_the_seed():
    counts = np.bincount(by_hash(10)(users(20_000)).client_of_user)
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    assert (by_hash(10, 1)(users(50)).client_of_user != by_hash(10)(users(50)).client_of_user).any()
    # Frozen: another machine, another year, the same clients.
    assert by_hash(4)(users(12)).client_of_user.tolist() == [0, 0, 1, 2, 0, 0, 1, 1, 3, 2, 0, 1]


def test_hash_follows_the_user_through_filters():
    many = by_hash(5)(users(200)).client_of_user
    fewer = from_arrays("toy", np.arange(150, 300), np.zeros(150, int))
    kept = by_hash(5)(Split(fewer, np.zeros(150, np.int8))).client_of_user
    assert (kept == many[50:]).all()


def test_by_attribute_makes_a_client_a_value():
    ages = ["10", "9", None, "9", "10", "35"]
    partition = by_attribute("age")(users(6, age=ages))
    assert partition.client_of_user.tolist() == [1, 0, 3, 0, 1, 2]  # as numbers; null is last
    assert partition.num_clients == 4
    partition = by_attribute("job")(users(3, job=["b", "a", "b"]))
    assert partition.client_of_user.tolist() == [1, 0, 1]


def share_of_largest_label(partition, labels):
    """Mean over clients of the share of their commonest label, weighted by users."""
    table = np.zeros((partition.num_clients, labels.max() + 1))
    np.add.at(table, (partition.client_of_user, labels), 1)
    return table.max(1).sum() / table.sum()


def test_dirichlet_skews_labels():
    labels = np.random.default_rng(0).integers(0, 4, 4000)
    split = users(4000, job=[f"job{label}" for label in labels])
    even = share_of_largest_label(dirichlet(10, 1000.0, "job")(split), labels)
    skewed = share_of_largest_label(dirichlet(10, 0.05, "job")(split), labels)
    assert even < 0.30 and skewed > 0.6
    for alpha in (0.05, 1000.0):
        sound(dirichlet(10, alpha, "job")(split), 4000)


@pytest.mark.parametrize("alpha", [1e12, 1e30, 1e300, 1.7e308, float("inf")])
def test_a_large_dirichlet_deals_evenly(alpha):
    sizes = np.bincount(dirichlet(8, alpha)(users(50)).client_of_user)
    assert sorted(sizes.tolist()) == [6] * 6 + [7] * 2


def test_dirichlet_proportions_have_the_law():
    # Var of a Dir(alpha) share over k clients: (1/k)(1 - 1/k) / (k alpha + 1).
    shares = [
        np.bincount(dirichlet(5, 2.0, seed=seed)(users(500)).client_of_user, minlength=5) / 500
        for seed in range(300)
    ]
    expected = 0.2 * 0.8 / 11
    assert np.var(shares) == pytest.approx(expected, rel=0.15)
    assert np.mean(shares, 0) == pytest.approx(np.full(5, 0.2), abs=0.03)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (by_hash(9), r"by_hash\(num_clients=9\) exceeds the 4 users of 'toy'"),
        (dirichlet(9, 1.0), r"dirichlet\(num_clients=9\) exceeds the 4 users"),
        (by_attribute("zip"), r"column='zip'.*use one of age"),
        (dirichlet(2, 1.0, "zip"), "use one of age"),
    ],
)
def test_errors_name_the_argument(make, said):
    with pytest.raises(ValueError, match=said):
        make(users(4, age=[1, 2, 3, 4]))


def test_errors_before_data():
    with pytest.raises(ValueError, match=r"alpha=0"):
        dirichlet(2, 0)
    with pytest.raises(ValueError, match=r"num_clients=0"):
        by_hash(0)
    with pytest.raises(ValueError, match="has no user features; use by_hash"):
        by_attribute("age")(users(3))
