"""What all lists are like, against the formulas written out."""

import math

import numpy as np
import pytest

from fedjax_rec.evaluate import beyond_accuracy

POPULARITY = np.array([40, 3, 0, 12, 1, 7, 7, 0, 2, 30])


def written_out(lists, popularity, users, head=2):
    """With loops, for lists without gaps."""
    count = [sum(i in row for row in lists) for i in range(len(popularity))]
    total, size = sum(count), len(count)
    gini = sum((2 * i - size - 1) * c / total for i, c in enumerate(sorted(count), 1)) / size
    entropy = -sum(c / total * math.log(c / total) for c in count if c)
    popular = sorted(range(size), key=lambda i: (-popularity[i], i))[:head]
    mean = lambda f: sum(sum(map(f, row)) / len(row) for row in lists) / len(lists)
    return {
        "coverage": sum(map(bool, count)) / size,
        "gini": gini,
        "entropy": entropy,
        "popularity": mean(lambda i: popularity[i]),
        "novelty": mean(lambda i: -math.log2(max(popularity[i], 1) / users)),
        "tail": mean(lambda i: i not in popular),
    }


def test_numbers_are_those_of_the_formulas():
    rng = np.random.default_rng(0)
    lists = np.stack([rng.choice(10, 4, replace=False) for _ in range(30)])
    told = beyond_accuracy(lists, POPULARITY, users=50)
    assert told == pytest.approx(written_out(lists.tolist(), POPULARITY.tolist(), 50))


def test_one_list_for_all_and_all_alike():
    same = beyond_accuracy(np.zeros((7, 1), int), POPULARITY, users=50)
    assert (same["coverage"], same["entropy"], same["tail"]) == (0.1, 0, 0)
    assert same["gini"] == pytest.approx(0.9)  # (I - 1) / I
    alike = beyond_accuracy(np.arange(10)[None], POPULARITY, users=50)
    assert (alike["coverage"], round(alike["gini"], 12)) == (1.0, 0.0)


def test_places_that_a_list_lacks_do_not_count():
    gap = beyond_accuracy([[0, -1], [-1, -1], [3, 4]], POPULARITY, users=50)
    assert gap["popularity"] == pytest.approx((40 + (12 + 1) / 2) / 2)
    assert gap["coverage"] == 0.3
    assert all(math.isnan(x) for x in beyond_accuracy([[-1]], POPULARITY, users=50).values())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"lists": [0, 1]}, r"lists: \(2,\)\): give int\[U, k\] of items below 10"),
        ({"lists": [[10]]}, "of items below 10, or -1"),
        ({"users": 39}, "an item has 40; give how many users"),
        ({"head": 1.0}, "use 0 < head < 1"),
    ],
)
def test_wrong_arguments(given, told):
    with pytest.raises(ValueError, match=told):
        beyond_accuracy(**{"lists": [[0]], "popularity": POPULARITY, "users": 50, **given})
