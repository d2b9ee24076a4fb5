"""Candidates by popularity: never seen, never twice, and the law without replacement."""

import itertools

import numpy as np
import pytest
from scipy import stats

from fedjax_rec import data
from fedjax_rec.data.evaluation_draws import Histories, popularity_draws, uniform_draws
from fedjax_rec.data.negatives import sample_distinct

POPULARITY = np.array([9, 5, 0, 4, 2, 1])
SEEN = 1  # of every user, and the unpopular item 2 is nobody's
USERS = 6000


def histories(users=USERS, popularity=POPULARITY, seen=SEEN) -> Histories:
    return Histories(np.arange(users), np.full(users, seen), users, popularity)


def law_of_sequences(weights: dict[int, float], size: int) -> dict[tuple, float]:
    """The probability of every sequence that is drawn one after another, by its definition."""
    told = {}
    for drawn in itertools.permutations(weights, size):
        left, chance = dict(weights), 1.0
        for item in drawn:
            chance *= left[item] / sum(left.values())
            del left[item]
        told[drawn] = chance
    return told


def shuffled(law: dict[tuple, float]) -> dict[tuple, float]:
    """The law of the same sets in uniform order."""
    orders = {key: list(itertools.permutations(key)) for key in law}
    return {key: np.mean([law[one] for one in orders[key]]) for key in law}


def p_value(drawn: np.ndarray, law: dict[tuple, float]) -> float:
    found = dict.fromkeys(law, 0)
    for row in map(tuple, drawn.tolist()):
        found[row] += 1  # a KeyError is a seen item, or one twice
    wanted = np.array(list(law.values())) * len(drawn)
    return stats.chisquare(list(found.values()), wanted).pvalue


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0, 2.0])
def test_the_law_is_that_of_sampling_without_replacement(alpha):
    weights = {i: POPULARITY[i] ** alpha for i in (0, 3, 4, 5)}
    law = law_of_sequences(weights, 3)
    assert sum(law.values()) == pytest.approx(1)
    drawn = popularity_draws(alpha).sample(histories(), 3, 0, 1)
    assert drawn.dtype == np.int32
    assert p_value(drawn, shuffled(law)) > 1e-3
    if alpha:  # what the test would see: no shuffle, and another power
        assert p_value(drawn, law) < 1e-9
        other = {i: POPULARITY[i] ** (alpha / 2) for i in (0, 3, 4, 5)}
        assert p_value(drawn, shuffled(law_of_sequences(other, 3))) < 1e-9


def test_both_parts_have_the_same_law():
    draws = popularity_draws()
    drawn = draws.sample(histories(), 1, 3, 2)
    law = shuffled(law_of_sequences({i: float(POPULARITY[i]) for i in (0, 3, 4, 5)}, 2))
    one = {(i,): sum(p for pair, p in law.items() if pair[0] == i) for i in (0, 3, 4, 5)}
    for part in (drawn[:, :1], drawn[:, 1:]):
        assert p_value(part, one) > 1e-3
    np.testing.assert_array_equal(drawn, draws.sample(histories(), 1, 3, 2))
    assert (drawn != draws.sample(histories(), 1, 4, 2)).any()


def test_blocks_of_users_draw_the_same(monkeypatch):
    whole = popularity_draws(0.5).sample(histories(50), 2, 1, 2)
    monkeypatch.setattr("fedjax_rec.data.evaluation_draws._BLOCK", 20)
    np.testing.assert_array_equal(popularity_draws(0.5).sample(histories(50), 2, 1, 2), whole)


def test_inclusion_is_that_of_numpys_choice():
    """1,682 items of a long tail, against Generator.choice with p and without replacement."""
    rng = np.random.default_rng(0)
    popularity = (1000 / np.arange(1, 301)).astype(int)
    ours = popularity_draws().sample(histories(800, popularity, 0), 20, 0, 1)
    weight = np.where(np.arange(300) > 0, popularity, 0)
    theirs = [rng.choice(300, 20, False, weight / weight.sum()) for _ in range(800)]
    both = np.stack([np.bincount(np.ravel(x), minlength=300) for x in (ours, theirs)])
    assert not both[:, 0].any()
    kept = both[:, both.sum(0) > 20]
    assert stats.chi2_contingency(kept).pvalue > 1e-3
    uniform = sample_distinct(np.arange(800), np.zeros(800, int), 800, 300, 20, 0)
    flat = np.bincount(uniform.ravel(), minlength=300)[both.sum(0) > 20]
    assert stats.chi2_contingency([kept[0], flat]).pvalue < 1e-9


def test_uniform_draws_are_those_there_always_were():
    told = histories(40, np.ones(30, int))
    ours = uniform_draws().sample(told, 4, 7, 2)
    np.testing.assert_array_equal(ours, sample_distinct(told.users, told.items, 40, 30, 4, 7, 2))


def test_all_that_is_left_and_no_more():
    drawn = popularity_draws().sample(histories(3), 4, 0, 1)
    assert {tuple(sorted(row)) for row in drawn.tolist()} == {(0, 3, 4, 5)}
    few = "evaluation_negatives=5 takes 5 items, and user 0 has only 4 items with training"
    with pytest.raises(ValueError, match=few):
        popularity_draws().sample(histories(3), 5, 0, 1)
    everything = Histories(np.zeros(0, int), np.zeros(0, int), 2, np.array([1, 3, 2]))
    assert sorted(popularity_draws().sample(everything, 3, 0, 1)[0].tolist()) == [0, 1, 2]
    for alpha in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"popularity_draws\(alpha=.* use a number alpha >= 0"):
            popularity_draws(alpha)


def test_packed_by_popularity_of_training():
    """No item of the user's, none without training rows, both parts apart."""
    split = data.leave_one_out()(data.synthetic(60, 80, interactions_per_user=8))
    draws = popularity_draws(0.75)
    assert repr(draws) == "popularity_draws(alpha=0.75)" and draws.label == "popularity^0.75"
    assert popularity_draws().label == "popularity" and uniform_draws().label == "sampled"
    packed = data.pack(split, evaluation_negatives=9, evaluation_draws=draws)
    plain = data.pack(split, evaluation_negatives=9)
    found = split.interactions
    both = np.concatenate([packed.validation.negatives, packed.test.negatives], 1)
    assert both.shape == (60, 18) and (packed.popularity[both] > 0).all()
    for user in range(60):
        assert len(set(both[user].tolist()) - set(found.items[found.users == user])) == 18
    mean = lambda x: packed.popularity[np.asarray(x)].mean()
    assert mean(packed.test.negatives) > mean(plain.test.negatives) + 1
    with pytest.raises(TypeError, match="evaluation_draws=popularity_draws"):
        data.pack(split, evaluation_draws=popularity_draws)
