"""Synthetic interactions follow the law they declare."""

import sys
import tracemalloc

import numpy as np
import pytest

from fedjax_rec.data.sources.synthetic import _drop_repeats, _Law, synthetic, synthetic_truth
from fedjax_rec.data.splits import leave_one_out

SMALL = {"num_users": 300, "num_items": 400, "seed": 3}
LARGE = {"num_users": 400, "num_items": 20_000, "seed": 3}  # by candidates


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_shape_order_and_no_repeats(sizes, spread):
    data = synthetic(**sizes, spread=spread)
    counts = np.bincount(data.users, minlength=data.num_users)
    assert (data.num_users, data.num_items) == (sizes["num_users"], sizes["num_items"])
    assert counts.min() >= 3 and counts.mean() == pytest.approx(20, rel=0.15)
    assert (counts.std() > 5) == (spread > 0) and (spread or set(counts) == {20})
    assert (np.diff(data.users) >= 0).all()
    assert (np.diff(data.times)[np.diff(data.users) == 0] >= 0).all()
    assert data.items.min() >= 0 and data.items.max() < data.num_items
    pairs = data.users.astype(np.int64) * data.num_items + data.items
    assert len(np.unique(pairs)) == len(pairs)
    assert np.isfinite(data.times).all()
    leave_one_out()(data)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_seeds(sizes):
    one, again, other = synthetic(**sizes), synthetic(**sizes), synthetic(**{**sizes, "seed": 4})
    assert (one.items == again.items).all() and (one.times == again.times).all()
    assert (one.items != other.items).any()


def test_truth_has_the_declared_scale():
    truth = synthetic_truth(2000, 2000, width=16, popularity=1.2, affinity=1.5)
    assert (truth.user_vectors @ truth.item_vectors.T).std() == pytest.approx(1.5, rel=0.05)
    p = np.exp(truth.log_popularity.astype(np.float64))
    assert p.sum() == pytest.approx(1.0, rel=1e-4)
    head = np.sort(p)[::-1]
    slope = np.log(head[99] / head[9]) / np.log(100.5 / 10.5)
    assert slope == pytest.approx(-1.2, abs=0.05)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.7])
def test_law_draws_what_it_declares(exponent):
    law, n = _Law(exponent, 50), 200_000
    counts = np.bincount(law.rank(np.random.default_rng(0).random(n)), minlength=50)
    expected = n * np.exp(law.log_probability())
    assert expected.sum() == pytest.approx(n)
    assert np.sum((counts - expected) ** 2 / expected) < 49 + 5 * np.sqrt(2 * 49)  # chi-squared
    assert np.isfinite(_Law(4.0, 10**6).log_probability()).all()


def test_the_catalogue_law_is_plackett_luce():
    # Three of six items: compare how often each is taken with all ordered triples enumerated.
    sizes = {"num_items": 6, "width": 2, "popularity": 1.0, "affinity": 0.0, "seed": 0}
    data = synthetic(num_users=30_000, interactions_per_user=3, **sizes)
    p = np.exp(synthetic_truth(num_users=30_000, **sizes).log_popularity.astype(np.float64))
    expected = np.zeros(6)
    for a in range(6):
        for b in set(range(6)) - {a}:
            for c in set(range(6)) - {a, b}:
                triple = p[a] * p[b] / (1 - p[a]) * p[c] / (1 - p[a] - p[b])
                expected[[a, b, c]] += triple
    found = np.bincount(data.items, minlength=6) / 30_000
    assert found == pytest.approx(expected, abs=0.012)


@pytest.mark.parametrize("sizes", [SMALL, LARGE])
def test_users_take_what_they_like(sizes):
    data, truth = synthetic(**sizes), synthetic_truth(**sizes)
    liked = (truth.user_vectors[data.users] * truth.item_vectors[data.items]).sum(1)
    others = np.random.default_rng(0).integers(0, data.num_items, len(data))
    random = (truth.user_vectors[data.users] * truth.item_vectors[others]).sum(1)
    assert liked.mean() > random.mean() + 1.0  # affinities have deviation 2
    popularity = truth.log_popularity[data.items].mean() - truth.log_popularity.mean()
    assert popularity > 0.5


def test_candidates_come_close_to_the_exact_law(monkeypatch):
    sizes = {"num_users": 1500, "num_items": 1000, "seed": 5, "affinity": 1.0}
    near = synthetic(**sizes)  # 160 candidates of 1000
    module = sys.modules["fedjax_rec.data.sources.synthetic"]  # the room exports one of that name
    monkeypatch.setattr(module, "CANDIDATES", 1000)
    exact = synthetic(**sizes)
    counts = [np.bincount(data.items, minlength=1000) for data in (near, exact)]
    assert np.corrcoef(*np.log1p(counts))[0, 1] > 0.9
    truth = synthetic_truth(**sizes)
    tastes = [
        (truth.user_vectors[data.users] * truth.item_vectors[data.items]).sum(1).mean()
        for data in (near, exact)
    ]
    assert tastes[0] > 0.75 * tastes[1]


def test_no_matrix_of_users_by_items():
    tracemalloc.start()
    data = synthetic(num_users=1000, num_items=200_000, interactions_per_user=5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(data) == 5_000
    assert peak < 80e6 < 1000 * 200_000  # one byte a cell would be 200 MB


def test_drop_repeats_by_loop():
    rng = np.random.default_rng(0)
    items = rng.integers(0, 8, (30, 12)).astype(np.int32)
    scores = rng.standard_normal((30, 12)).astype(np.float32)
    sorted_items, left = _drop_repeats(items, scores)
    for row in range(30):
        best = {}
        for item, score in zip(items[row].tolist(), scores[row].tolist(), strict=True):
            best[item] = max(score, best.get(item, -np.inf))
        kept = np.isfinite(left[row])
        found = dict(zip(sorted_items[row][kept].tolist(), left[row][kept].tolist(), strict=True))
        assert found == best


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_users": 0}, "num_users=0"),
        ({"num_items": 30}, "use 3 to num_items // 2 = 15"),
        ({"interactions_per_user": 2}, "interactions_per_user=2"),
        ({"popularity": -1}, "popularity=-1"),
    ],
)
def test_bad_sizes_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        synthetic(**wrong)
