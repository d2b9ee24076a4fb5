"""Codes of texts: residual k-means against a loop in NumPy, and items that are told apart."""

import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest

from fedjax_rec import models

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

KEY = jax.random.key(4)
RNG = np.random.default_rng(2)
VECTORS = RNG.normal(size=(60, 5)).astype(np.float32) * [4, 2, 1, 1, 0.5]
LEVELS, CODES = 3, 6


@cache
def found(turns=50, levels=LEVELS):
    codes, centres = models.residual_kmeans(KEY, VECTORS, levels, CODES, turns)
    return np.asarray(codes), np.asarray(centres, np.float64)


def nearest_by_hand(vectors, centres):
    """One vector after another, and one centre after another."""
    codes = []
    for vector in vectors:
        apart = [((vector - centre) ** 2).sum() for centre in centres]
        codes.append(apart.index(min(apart)))
    return np.array(codes)


def test_codes_are_the_nearest_centres_of_what_is_left():
    codes, centres = found()
    rest = VECTORS.astype(np.float64)
    for level in range(LEVELS):
        expected = nearest_by_hand(rest, centres[level])
        np.testing.assert_array_equal(codes[:, level], expected)
        rest = rest - centres[level][expected]


@pytest.mark.parametrize("turns", [1, 2])
def test_a_turn_puts_centres_at_the_means_of_those_near_them(turns):
    _, before = found(turns, 1)
    _, after = found(turns + 1, 1)
    near = nearest_by_hand(VECTORS.astype(np.float64), before[0])
    for code, centre in enumerate(before[0]):
        mine = VECTORS[near == code].astype(np.float64)
        expected = mine.mean(0) if len(mine) else centre
        np.testing.assert_allclose(after[0, code], expected, rtol=1e-5, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


def test_each_level_says_more():
    codes, centres = found()
    said = [centres[level][codes[:, level]] for level in range(LEVELS)]
    errors = [((VECTORS - sum(said[: n + 1])) ** 2).sum() for n in range(LEVELS)]
    assert errors[0] < 0.6 * (VECTORS**2).sum()
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1]


def test_crowds_that_stand_apart_are_found():
    """A draw in proportion to squared distances begins in each of them."""
    crowd = np.repeat(np.arange(8), 10)
    places = 100 * np.random.default_rng(0).normal(size=(8, 4))
    vectors = places[crowd] + np.random.default_rng(1).normal(size=(80, 4))
    codes, _ = models.residual_kmeans(KEY, vectors, 1, 8)
    assert len({(a, b) for a, b in zip(crowd, codes[:, 0].tolist(), strict=True)}) == 8


def test_the_key_decides_and_nothing_else():
    made = lambda key: np.asarray(models.residual_kmeans(key, VECTORS, 2, CODES)[0])
    np.testing.assert_array_equal(made(KEY), made(KEY))
    assert (made(KEY) != made(jax.random.key(5))).any()


def test_vectors_that_are_the_same_have_the_same_codes():
    twice = np.concatenate([VECTORS[:9]] * 2)
    codes, centres = models.residual_kmeans(KEY, twice, 2, 9)
    np.testing.assert_array_equal(codes[:9], codes[9:])
    assert np.isfinite(centres).all() and len(set(codes[:9, 0].tolist())) == 9


def test_items_with_the_same_codes_are_counted():
    codes = RNG.integers(0, 3, (30, 2))
    ids = models.told_apart(codes, 3)
    seen: dict = {}
    for item, code in enumerate(map(tuple, codes.tolist())):
        assert ids.codes[item].tolist() == [*code, seen.get(code, 0)]
        seen[code] = seen.get(code, 0) + 1
    assert ids.sizes == (3, 3, max(seen.values()))
    assert ids.collided == sum(n for n in seen.values() if n > 1)
    alone = models.told_apart(np.array([[0, 1], [1, 1]]), 2)
    assert alone.codes.shape == (2, 2) and alone.sizes == (2, 2) and alone.collided == 0


def test_texts_that_are_alike_share_a_code():
    titles = tiny_bert.titles(20)
    titles[7] = titles[3]
    made = partial(models.semantic_ids, weights=tiny_bert.folder(), levels=2, codes=5)
    ids = made(titles)
    np.testing.assert_array_equal(ids.codes[3, :2], ids.codes[7, :2])
    assert ids.codes[3, 2] != ids.codes[7, 2] and ids.collided >= 2
    again = jax.jit(lambda x: (x, made(titles).codes + 0))(0)[1]  # made while a run is traced
    np.testing.assert_array_equal(again, ids.codes)
    assert (made(titles, seed=1).codes[:, :2] != ids.codes[:, :2]).any()


def test_bad_input_in_one_line():
    titles, folder = tiny_bert.titles(20), tiny_bert.folder()
    ids, tiger = models.SemanticIds, partial(models.tiger, 20, 1, weights=folder, codes=4)
    blank = [*titles[:4], "", " ", *titles[6:]]
    silent = [None if i % 2 else t for i, t in enumerate(titles)]
    wrong = [
        (lambda: models.residual_kmeans(KEY, VECTORS, 2, 61), r"codes=61\) of 60 vectors; use at"),
        (lambda: models.residual_kmeans(KEY, VECTORS, 0, 2), r"levels=0\) is too small"),
        (lambda: models.semantic_ids(["a", "b", "a"], folder, codes=3), r"=3\) of 2 different te"),
        (lambda: models.semantic_ids(titles, folder, seed=-1), r"seed=-1\) is no seed"),
        (lambda: ids(np.array([[0, 1], [1, 0], [0, 1]]), (2, 2)), "items 0 and 2 have the same"),
        (lambda: ids(np.array([[0, 1], [1, 3]]), (2, 2)), "level 1 has codes 1 to 3.*use 0 to 1"),
        (lambda: tiger(None), "tiger needs titles"),
        (lambda: tiger(titles[:19]), "19 titles for 20 items; give one for each"),
        (lambda: tiger(blank), r"tiger: 2 of 20 items have no text \(ids 4, 5\); give each one"),
        (lambda: tiger(silent), r"10 of 20 items have no text \(ids 1, 3, 5, 7, 9, \.\.\.\);"),
        (lambda: tiger(titles, beam=21), r"beam=21\) is wider than the catalogue of 20 items"),
        (lambda: tiger(titles, beam=0), r"beam=0\) is too small"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.warns(UserWarning, match=r"20 items have codes that another one has; a further"):
        tiger(titles, levels=1)
