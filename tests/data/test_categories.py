"""Labels of items: separators, lists, silence, and the same of two sources of MovieLens."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedjax_rec import data
from fedjax_rec.data.categories import labels_of
from fedjax_rec.data.sources.atomic import read_atomic

SHARED = Path(os.environ.get("FEDJAX_REC_DATA") or Path(__file__).parents[3] / "shared" / "data")


def films(**features) -> data.Interactions:
    return data.from_arrays(
        "films", [0, 0, 1], [1, 2, 3], item_features={"item_id": [1, 2, 3], **features}
    )


@pytest.mark.parametrize(
    "cells",
    [
        ["War|Drama", None, "Film Noir|War"],
        ["War; Drama", "", "Film Noir ;War;War"],
        ["War,Drama", None, "Film Noir,War"],
        [["War", "Drama"], [], ["Film Noir", "War"]],
    ],
)
def test_each_way_of_writing_labels(cells):
    names, has = data.categories(films(genres=cells))
    assert names == ["Drama", "Film Noir", "War"]
    assert has.tolist() == [[True, False, True], [False] * 3, [False, True, True]]


def test_spaces_where_nothing_else_is_there_and_a_separator_by_name():
    names, has = data.categories(films(genre=["War Drama", None, "Sci-Fi"]))
    assert names == ["Drama", "Sci-Fi", "War"] and has.sum(1).tolist() == [2, 0, 1]
    names, _ = data.categories(films(genre=["War Drama", None, "Sci-Fi"]), separator="|")
    assert names == ["Sci-Fi", "War Drama"]
    assert labels_of(pl.Series([3, None, 12])) == [["3"], [], ["12"]]


def test_which_column():
    both = films(kind=["a", "b", "c"], category=["x", "y", "x"])
    assert data.categories(both)[0] == ["x", "y"]
    assert data.categories(both, "kind")[0] == ["a", "b", "c"]
    assert data.categories(films(kind=["a", "b", "c"])) is None
    bare = data.from_arrays("bare", [0], [1])
    assert data.categories(bare) is None
    with pytest.raises(ValueError, match=r"column='knd'\).*did you mean 'kind'.*one of kind"):
        data.categories(both, "knd")
    with pytest.raises(ValueError, match=r"column='kind'\) is no item feature of 'bare'"):
        data.categories(bare, "kind")


def test_movielens_has_its_genres():
    if not (SHARED / "ml-1m" / "ml-1m.inter").is_file():
        pytest.skip(f"ml-1m.inter is not under {SHARED}")
    ml = read_atomic(SHARED / "ml-1m")
    names, has = data.categories(ml)
    assert len(names) == 18 and {"Film-Noir", "Children's"} <= set(names)
    assert has.shape == (ml.num_items, 18) and (has.sum(1) > 0).all()
    assert np.bincount(has.sum(1))[1] > 1000
