"""Poisoned titles: the targets' alone are changed, and a model that reads them is taken in."""

import sys
from pathlib import Path

import jax
import numpy as np
import polars as pl
import pytest

from fedjax_rec import attacks, data, models

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

TITLES = [
    "Alien Space", "Star Wars", "Toy Story", "Good Night", "Star King", "Alien Wars", "Love Day", ""
]  # fmt: skip


def films(titles=TITLES, column="movie_title"):
    """8 items, of which all users have 1, 4 and 5 first, and then two others each."""
    others = (0, 2, 3, 6, 7)
    of = lambda u: (1, 4, 5, others[u % 5], others[(u + 1) % 5])
    users, items = np.array([(u, i) for u in range(12) for i in of(u)]).T
    features = pl.DataFrame({"item_id": np.arange(8), column: titles, "genre": ["Drama"] * 8})
    return data.from_arrays("films", users, items, item_features=features)


def test_targets_alone_are_called_otherwise():
    split = attacks.renamed([6, 0], to="Star Wars, {title}")(films())
    plain = data.leave_one_out()(films())
    np.testing.assert_array_equal(split.part, plain.part)
    np.testing.assert_array_equal(split.interactions.items, films().items)
    before, after = data.titles(films()), data.titles(split.interactions)
    assert after[6] == "Star Wars, Love Day, Drama" and after[0] == "Star Wars, Alien Space, Drama"
    assert [after[i] for i in (1, 2, 3, 4, 5, 7)] == [before[i] for i in (1, 2, 3, 4, 5, 7)]
    assert films().item_features.columns == split.interactions.item_features.columns


def test_words_are_those_that_popular_titles_share():
    split = attacks.popular_words([2], words=2, popular=3)(films())
    shared = ["Star", "Wars"]  # two of Star Wars, Star King and Alien Wars each
    said = data.titles(split.interactions, genres=False)[2].split()
    assert sorted(said[:2]) == shared and said[2:] == ["Toy", "Story"]


def test_an_item_that_is_called_like_another_scores_like_it():
    """To a text tower of a tiny encoder they are one item, which they were not."""

    def scores(split):
        titles = data.titles(split.interactions, genres=False)
        titles = [x.lower() for x in titles]
        model = models.text_tower(8, titles=titles, weights=tiny_bert.folder(), components=3)
        shared, private = model.init(jax.random.key(0))
        return np.asarray(model.score(shared, private, np.arange(8)))

    plain = scores(data.leave_one_out()(films()))
    poisoned = scores(attacks.renamed([6], to="Star Wars")(films()))
    assert abs(plain[6] - plain[1]) > 1e-3
    np.testing.assert_allclose(poisoned[6], poisoned[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.renamed([], to="x"), "names no items"),
        (lambda: attacks.renamed([1], to=" "), "is no title"),
        (lambda: attacks.renamed([8], to="x")(films()), "there is no item 8"),
        (lambda: attacks.renamed([1], to="x")(films(column="words")), "do not say what items"),
        (lambda: attacks.popular_words([1], words=0), "use words >= 1"),
        (lambda: attacks.popular_words([1, 1]), "distinct"),
        (lambda: attacks.popular_words([9])(films()), "there is no item 9"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)
