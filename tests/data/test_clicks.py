"""Synthetic clicks: labels follow the truth, ids a power law, clients their own tastes."""

import time

import numpy as np
import pytest

from fedjax_rec import data
from fedjax_rec.data.sources.clicks import _normal, _scattered, field_sizes


@pytest.fixture(scope="module")
def found():
    return data.clicks(200, 100, 2000, sparse=10, dense=4)


def test_labels_are_drawn_from_the_truth(found):
    """In ten bins of the true probability the share of clicks is its mean."""
    p = 1 / (1 + np.exp(-data.click_logits(found)))
    labels = found.fields["labels"]
    for some in np.array_split(np.argsort(p), 10):
        deviation = np.sqrt((p[some] * (1 - p[some])).mean() / len(some))
        assert abs(labels[some].mean() - p[some].mean()) < 4 * deviation
    assert p.std() > 0.15


def test_the_truth_is_its_equation(found):
    """The pairs by two loops, from the same weights of ids."""
    some, dim, crossed, strength = slice(0, 20), 4, 1.0, 1.5
    ids, x = found.fields["ids"][some], found.fields["dense"][some]
    w = strength * 0.5**0.5 * 10**-0.5 * _normal(ids.astype(np.uint64), 0, 0)
    entry = (crossed**2 / (45 * dim)) ** 0.25
    u = entry * np.stack([_normal(ids.astype(np.uint64), 0, d + 1) for d in range(dim)], -1)
    pairs = sum((u[:, f] * u[:, g]).sum(-1) for f in range(10) for g in range(f))
    slopes = strength * 0.5**0.5 * 4**-0.5 * _normal(np.arange(4, dtype=np.uint64), 0, dim + 1)
    want = -1.5 + w.sum(1) + x @ slopes + pairs
    np.testing.assert_allclose(data.click_logits(found)[some], want, rtol=1e-6, atol=1e-9)


def test_weights_of_ids_are_about_normal():
    drawn = _normal(np.arange(100_000, dtype=np.uint64), 0, 0)
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    assert abs((np.abs(drawn) < 1).mean() - 0.683) < 0.02
    other = _normal(np.arange(100_000, dtype=np.uint64), 0, 1)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.01


def test_fields_share_one_table(found):
    sizes = field_sizes(2000, 10)
    assert sizes.sum() == 2000 and sizes.min() >= 4 and (np.diff(sizes) >= 0).all()
    begin = np.cumsum(sizes) - sizes
    ids = found.fields["ids"]
    assert (ids >= begin).all() and (ids < begin + sizes).all()
    for rows, fields in ((104, 26), (10**7, 26), (5, 1)):
        assert field_sizes(rows, fields).sum() == rows and len(field_sizes(rows, fields)) == fields


@pytest.mark.parametrize("count", [1, 4, 5, 96, 1000, 10_007])
def test_ids_are_scattered_one_to_one(count):
    assert len(np.unique(_scattered(np.arange(count), count))) == count


def test_ids_follow_a_power_law():
    ids = data.clicks(500, 100, 20_000, sparse=1, dense=1, exponent=1.2, taste=0.0).fields["ids"]
    counts = np.sort(np.bincount(ids[:, 0]))[::-1][:100].astype(float)
    # The law integrates rank^-1.2 over [r + 1, r + 2]; its head is a little flatter.
    slope = np.polyfit(np.log(np.arange(2, 102)), np.log(counts), 1)[0]
    assert -1.3 < slope < -1.05


def test_clients_repeat_their_own_ids():
    def own_share(taste):
        found = data.clicks(50, 60, 5000, sparse=3, dense=1, taste=taste, spread=0.0)
        ids, client = found.fields["ids"][:, 2], found.client
        return np.mean([len(np.unique(ids[client == k])) for k in range(50)]), len(np.unique(ids))

    (mine, every), (other, whole) = own_share(0.9), own_share(0.0)
    assert mine < 0.5 * other and every < whole


def test_the_same_seed_gives_the_same_clicks(found):
    again = data.clicks(200, 100, 2000, sparse=10, dense=4)
    for name, x in found.fields.items():
        np.testing.assert_array_equal(x, again.fields[name])
    other = data.clicks(200, 100, 2000, sparse=10, dense=4, seed=1)
    assert len(other) != len(found) or (other.fields["labels"] != found.fields["labels"]).any()


def test_ten_million_rows_cost_nothing():
    begin = time.process_time()
    found = data.clicks(500, 20, 10**7)
    assert found.fields["ids"].max() < 10**7 and found.num_rows == 10**7
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"num_rows": 30}, r"num_rows=30.*>= 104"),
        ({"num_clients": 0}, "num_clients=0"),
        ({"taste": 1.5}, "taste=1.5"),
        ({"examples_per_client": 1}, "examples_per_client=1"),
        ({"exponent": 0.0}, "exponent=0.0"),
    ],
)
def test_impossible_clicks_are_refused(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        data.clicks(**change)
