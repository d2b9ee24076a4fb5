"""The trie of items' codes and the beam in it against dictionaries and loops."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import models

RNG = np.random.default_rng(5)
SIZES = (4, 5, 3)
ALL = np.array(np.unravel_index(RNG.permutation(np.prod(SIZES))[:23], SIZES)).T
TABLES = [RNG.normal(size=(*SIZES[:depth], SIZES[depth])) * 2 for depth in range(3)]


def scores(prefixes):
    """Of each code after prefixes int[b, d], from a table."""
    table = jnp.float32(TABLES[prefixes.shape[1]])
    return jnp.broadcast_to(table[tuple(prefixes.T)], (len(prefixes), table.shape[-1]))


def children(prefix, codes=ALL):
    """The codes that lead on after a prefix."""
    n = len(prefix)
    return sorted({row[n] for row in codes.tolist() if tuple(row[:n]) == tuple(prefix)})


def log_probs_by_hand(prefix, codes=ALL):
    """{code: its log-probability among those that lead on}."""
    worth = TABLES[len(prefix)][tuple(prefix)]
    total = sum(np.exp(worth[c]) for c in children(prefix, codes))
    return {c: worth[c] - np.log(total) for c in children(prefix, codes)}


def beam_by_hand(width, allowed=None):
    """[(item, log-probability)], the best first; all beginnings of a depth are compared."""
    good = [tuple(row) for i, row in enumerate(ALL.tolist()) if allowed is None or allowed[i]]
    beam = [((), 0.0)]
    for depth in range(3):
        longer = [
            ((*prefix, c), total + p)
            for prefix, total in beam
            for c, p in log_probs_by_hand(prefix).items()
            if any(row[: depth + 1] == (*prefix, c) for row in good)
        ]
        beam = sorted(longer, key=lambda one: -one[1])[:width]
    return [(ALL.tolist().index(list(prefix)), total) for prefix, total in beam]


def test_the_trie_is_that_of_a_dictionary():
    tree = models.trie(ALL)
    prefixes = [sorted({tuple(row[:d]) for row in ALL.tolist()}) for d in range(4)]
    for d in range(1, 4):
        assert tree.codes[d - 1].tolist() == [prefix[-1] for prefix in prefixes[d]]
        above = [prefixes[d - 1].index(prefix[:-1]) for prefix in prefixes[d]]
        assert tree.parents[d - 1].tolist() == above
        begins = tree.begins[d - 1].tolist()
        for place, prefix in enumerate(prefixes[d - 1]):
            mine = prefixes[d][begins[place] : begins[place + 1]]
            assert [x[-1] for x in mine] == children(prefix)
        assert tree.widest[d - 1] == max(len(children(prefix)) for prefix in prefixes[d - 1])
    for d in (1, 2):
        rows = [tuple(row[:d]) for row in ALL.tolist()]
        assert tree.shared[d - 1].tolist() == [
            place for place, prefix in enumerate(prefixes[d]) if rows.count(prefix) > 1
        ]
    assert [tuple(ALL[i]) for i in tree.items] == prefixes[3]
    for item, row in enumerate(ALL.tolist()):
        own = [prefixes[d].index(tuple(row[:d])) for d in range(3)]
        assert tree.prefixes[item].tolist() == own


@pytest.mark.parametrize("width", [1, 2, 3, 7, 23])
def test_the_beam_is_that_of_a_loop(width):
    items, total = jax.jit(lambda: models.beam_search(models.trie(ALL), scores, width))()
    expected = beam_by_hand(width)
    assert items.tolist() == [item for item, _ in expected]
    np.testing.assert_allclose(total, [p for _, p in expected], rtol=1e-5, atol=1e-5)


def test_a_beam_of_all_items_is_exhaustive():
    items, total = models.beam_search(models.trie(ALL), scores, len(ALL))
    for item, found in zip(items.tolist(), total.tolist(), strict=True):
        code = ALL[item].tolist()
        expected = sum(log_probs_by_hand(code[:d])[code[d]] for d in range(3))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert sorted(items.tolist()) == list(range(len(ALL)))
    np.testing.assert_allclose(np.exp(total).sum(), 1, rtol=1e-5)


@pytest.mark.parametrize("width", [2, 6, 23])
def test_a_beam_ends_at_allowed_items_alone(width):
    allowed = RNG.random(len(ALL)) < 0.3
    search = jax.jit(lambda a: models.beam_search(models.trie(ALL), scores, width, a))
    items, total = search(jnp.asarray(allowed))
    expected = beam_by_hand(width, allowed)
    lost = width - len(expected)
    assert items.tolist() == [item for item, _ in expected] + [-1] * lost
    np.testing.assert_allclose(total[: width - lost], [p for _, p in expected], 1e-5, 1e-5)
    assert (width - lost <= allowed.sum()) and np.isneginf(total[width - lost :]).all()


def test_one_level_and_one_item():
    tree = models.trie(np.array([[2], [0], [1]]))
    items, _ = models.beam_search(tree, lambda p: jnp.float32([[0.0, 3.0, 1.0]]), 2)
    assert items.tolist() == [2, 0]
    alone = models.beam_search(models.trie(np.array([[1, 1]])), lambda p: jnp.zeros((1, 2)), 1)
    assert alone[0].tolist() == [0] and alone[1].tolist() == [0.0]


def test_bad_input_in_one_line():
    search = partial(models.beam_search, models.trie(ALL), scores)
    with pytest.raises(ValueError, match=r"width=24\) is wider than the catalogue of 23 items; us"):
        search(24)
    with pytest.raises(ValueError, match=r"width=0\) is too small"):
        search(0)
    with pytest.raises(ValueError, match=r"trie\(codes\): items 0 and 2 have the same; give"):
        models.trie(np.array([[1, 0], [0, 0], [1, 0]]))
