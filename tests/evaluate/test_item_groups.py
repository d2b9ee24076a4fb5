"""Metrics by group of held-out items, against lists that are sorted in plain NumPy."""

import math

import numpy as np
import pytest
from test_protocol import ITEMS, USERS, World

from fedjax_rec import evaluate

CHOSEN = evaluate.metrics(["hr@10", "recall@40", "mrr", "ndcg@40"])


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def popularity(world):
    counts = np.random.default_rng(5).zipf(1.3, ITEMS) % 50
    counts[world.held[0][0]] = 0  # somebody's item is cold
    return counts


def places(world, u, others, first):
    """(item, rank) of the held-out items of a user, ties against them; among them first(place,
    item) goes first."""
    scores = world.item @ world.user[u]
    held = [(-scores[i], 1, first(place, i), i) for place, i in enumerate(world.held[u])]
    ranked = sorted([(-scores[i], 0, 0, i) for i in others] + held)
    return [(i, rank) for rank, (_, held, _, i) in enumerate(ranked, 1) if held]


def of_group(found):
    ranks = [rank for _, rank in found]
    if not ranks:
        return [math.nan] * 4
    ideal = sum(1 / math.log2(1 + r) for r in range(1, len(ranks) + 1))
    gained = sum(1 / math.log2(1 + r) for r in ranks if r <= 40)
    hit = [r <= 40 for r in ranks]
    return [float(min(ranks) <= 10), sum(hit) / len(hit), 1 / min(ranks), gained / ideal]


@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_groups_are_those_of_the_sorted_list(world, popularity, kind):
    among = evaluate.sampled(CHOSEN) if kind == "sampled" else None
    among = among or evaluate.full_catalogue(CHOSEN, ITEMS)
    by_group = evaluate.item_groups(CHOSEN, among, popularity)
    protocol = evaluate.beside(among, by_group, "")
    assert protocol.label == among.label and protocol.names[4:6] == ("head_hr@10", "head_recall@40")
    values = world.values(protocol)
    group = evaluate.popularity_groups(popularity)
    group = np.where(popularity == 0, 3, group)
    wanted = np.full((USERS, 16), np.nan)
    for u in range(USERS):
        others = set(range(ITEMS)) - set(world.seen[u]) - set(world.held[u])
        others = world.negatives[u] if kind == "sampled" else others
        found = places(world, u, others, lambda place, i: place if kind == "sampled" else i)
        for g in range(4):
            mine = [(i, r) for i, r in found if group[i] == g]
            wanted[u, 4 * g : 4 * g + 4] = of_group(mine)
    np.testing.assert_allclose(values[:, 4:], wanted, rtol=1e-5, atol=1e-6)
    assert all((~np.isnan(wanted[:, 4 * g])).any() for g in range(4))
    told = np.asarray(protocol.summarise(values, np.ones(USERS)))
    np.testing.assert_allclose(told[4:], np.nanmean(wanted, 0), rtol=1e-5)
    np.testing.assert_array_equal(values[:, :4], world.values(among))


def test_one_held_out_item_a_user_is_a_group_of_users(world, popularity):
    """Weighted by their users, the groups make up the whole."""
    cases = world.cases.__class__(**{**vars(world.cases), "targets": world.cases.targets[:, :1]})
    full = evaluate.full_catalogue(CHOSEN[:1], ITEMS)
    by_group = evaluate.item_groups(CHOSEN[:1], full, popularity)
    values = world.values(evaluate.beside(full, by_group, ""), cases)
    assert ((~np.isnan(values[:, 1:])).sum(1) == 1).all()
    np.testing.assert_array_equal(np.nansum(values[:, 1:], 1), values[:, 0])


def test_wrong_groups_are_told(popularity):
    full = evaluate.full_catalogue(CHOSEN, ITEMS)
    with pytest.raises(ValueError, match=r"groups='hed'.*did you mean 'head'"):
        evaluate.item_groups(CHOSEN, full, popularity, ["hed"])
    for groups in ([], ["head", "head"]):
        with pytest.raises(ValueError, match="must name distinct groups"):
            evaluate.item_groups(CHOSEN, full, popularity, groups)
    with pytest.raises(ValueError, match=r"rating error.* ranks nothing"):
        evaluate.item_groups(CHOSEN, evaluate.rating_error(), popularity)
