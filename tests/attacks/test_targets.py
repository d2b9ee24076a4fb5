"""Attacks that push an item: PIECK against its losses in NumPy, shilling, and that they do."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, attacks, data, evaluate, models, strategies
from fedjax_rec.data.splits import TRAIN
from fedjax_rec.rows import Table
from fedjax_rec.types import Cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "aggregate"))
from robust_world import LIARS, NOW, SHARED, uploads

pytestmark = pytest.mark.usefixtures("compiled_fast")
ITEMS, WIDTH, POPULAR, TARGETS = 20, 3, 4, [5, 2]


def uea(target, chosen):
    return np.mean(np.log1p(np.exp(-chosen @ target)))


def ipe(target, chosen):
    kappa = np.arange(len(chosen), 0, -1) / np.arange(1, len(chosen) + 1).sum()
    unit = lambda x: x / np.sqrt((x**2).sum())
    cosines = np.array([unit(q) @ unit(target) for q in chosen])
    total = 0.0
    for side in (cosines > 0, cosines <= 0):
        if side.any():
            total -= 0.9 * (kappa * cosines)[side].mean()
    return total


def slope(loss, target, chosen, step=1e-5):
    along = np.eye(len(target)) * step
    return np.array(
        [(loss(target + d, chosen) - loss(target - d, chosen)) / 2 / step for d in along]
    )


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize(("name", "loss"), [("pieck_uea", uea), ("pieck_ipe", ipe)])
def test_pieck_mines_and_then_sends_the_slope_of_its_loss(name, loss, layout):
    """Three looks at the model make two moves to watch; the round of the third is the first that is
    attacked. In a round without a malicious client it sees nothing."""
    attack = getattr(attacks, name)(TARGETS, rate=2.0, popular=POPULAR, mining=2)
    draw, came = np.random.default_rng(3), uploads(layout)
    tables = [draw.normal(size=(ITEMS, WIDTH)) * draw.gamma(1.0, size=(ITEMS, 1)) for _ in range(4)]
    there = np.asarray(came.weight) > 0
    lies = np.isin(np.arange(len(there)), LIARS) & there
    state, forge, learn = attack.init(SHARED), jax.jit(attack.forge), jax.jit(attack.learn)
    for turn, table in enumerate(tables):
        mine = lies & (turn != 1)  # the adversary has nobody in the second round
        sides = attacks.Sides(jnp.asarray(mine), jnp.asarray(there & ~mine), NOW.client)
        now = replace(NOW, shared={**SHARED, "item": Table(jnp.float32(table))})
        state = learn(state, now) if mine.any() else state
        _, update = forge(None, state, came.update, sides, now)
        item = update["item"]
        if not mine.any():
            np.testing.assert_array_equal(item.values, came.update["item"].values)
            continue
        for k in np.flatnonzero(mine):
            live = np.asarray(item.live[k])
            ids = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids[k])
            assert sorted(ids[live].tolist()) == sorted(TARGETS)
            assert not np.asarray(update["kernel"][k]).any()
        sent = {int(i): np.asarray(item.values[k])[live][j] for j, i in enumerate(ids[live])}
        if turn < 3:
            assert not any(x.any() for x in sent.values())
    first, third, last = tables[0], tables[2], tables[3]
    moved = np.linalg.norm(third - first, axis=1) + np.linalg.norm(last - third, axis=1)
    moved[TARGETS] = -1
    chosen = last[np.argsort(-moved)[:POPULAR]]
    for t in TARGETS:
        np.testing.assert_allclose(sent[t], -2.0 * slope(loss, last[t], chosen), 2e-3, 2e-4)


def crowd(seed: int = 0):
    """60 users on 40 items: the first 8 are what most have, and item 39 is what nobody likes."""
    draw = np.random.default_rng(seed)
    chance = np.append(np.repeat([0.8, 0.15], [8, 31]), 0.0)
    pairs = [(u, i) for u in range(60) for i in np.flatnonzero(draw.random(40) < chance)]
    pairs.append((0, 39))  # so that it is in the catalogue
    users, items = np.array(pairs).T
    return data.from_arrays("crowd", users, items, times=draw.random(len(users)))


def exposed(split, rule, rounds: int = 40):
    """(ER@5, HR@5) of item 39 after rounds of FedMF with summed gradients."""
    ds = data.pack(split(crowd()), evaluation_negatives=0)
    model = models.fedmf(ds.num_items, width=6, scale=0.1)
    strategy = strategies.fedmf(
        model, data.pointwise(1), aggregator=rule, item_learning_rate=0.3, batch_size=64
    )
    metrics = evaluate.metrics(["er@5", "hr@5"])
    protocol = evaluate.beside(
        evaluate.exposure(metrics[:1], [39], 40), evaluate.full_catalogue(metrics[1:], 40), ""
    )

    @jax.jit
    def run(key):
        state = strategy.init(key, ds.num_clients)
        cohort = Cohort(jnp.arange(ds.num_clients), ds.store)
        turn = lambda i, state: strategy.round(key, state, cohort, 70)[0]
        state = jax.lax.fori_loop(0, rounds, turn, state)
        return evaluate.evaluate_users(model, protocol, state.shared, state.private, ds.test)

    values = np.asarray(run(jax.random.key(1)))
    assert len(values) == 60  # added accounts are measured by nothing
    return np.nanmean(values, 0)


def test_an_item_that_nobody_was_shown_is_shown():
    """Six accounts that forge, or thirty that hold what most have, do it to a sum of gradients."""
    before = exposed(data.leave_one_out(), aggregate.total())
    push = attacks.pieck_uea([39], rate=0.3, popular=8)
    rule = attacks.attacked(aggregate.total(), push, attacks.from_id(60))
    forged = exposed(attacks.random_profiles([39], share=0.1, filler=5), rule)
    made_up = attacks.bandwagon_profiles([39], share=0.6, filler=8, popular=8)
    held = exposed(made_up, aggregate.total())
    assert before[0] == 0.0 and forged[0] > 0.95 and held[0] > 0.3
    assert abs(forged[1] - before[1]) < 0.15  # and users are served hardly worse


@pytest.mark.parametrize(("name", "chunk"), [("pieck_uea", 8), ("pieck_ipe", 64)])
def test_lies_that_are_added_are_those_that_would_be_listed(name, chunk):
    """The same model after rounds in some of which nobody lies, whatever the chunks of a round."""
    ds = data.pack(attacks.random_profiles([39], share=0.1, filler=5)(crowd()))
    model = models.fedmf(ds.num_items, width=6, scale=0.1)
    push = getattr(attacks, name)([39], rate=0.3, popular=8, mining=2)

    def after(rule):
        strategy = strategies.fedmf(
            model, data.pointwise(1), aggregator=rule, item_learning_rate=0.3, batch_size=64,
            clients_per_chunk=chunk,
        )  # fmt: skip
        key, all_of_them = jax.random.key(1), jnp.arange(ds.num_clients)
        play = jax.jit(lambda state, ids: strategy.round(key, state, Cohort(ids, ds.store), 66))
        state = strategy.init(key, ds.num_clients)
        for turn in range(6):
            honest = jnp.where(all_of_them < 60, all_of_them, ds.num_clients)
            state, _ = play(state, honest if turn == 1 else all_of_them)
        return state.shared["item"].values

    total = aggregate.total()
    added = after(attacks.attacked(total, push, attacks.from_id(60)))
    listed = after(attacks.attacked(replace(total, additive=False), push, attacks.from_id(60)))
    np.testing.assert_allclose(added, listed, rtol=1e-4, atol=3e-5)
    assert np.abs(added - after(total))[39].max() > 0.1


@pytest.mark.parametrize("name", ["random", "average", "bandwagon"])
def test_profiles_have_targets_and_filler_and_real_users_stay(name):
    found = crowd()
    rated = replace(found, ratings=(1 + found.items % 5).astype(np.float32))
    make = getattr(attacks, f"{name}_profiles")
    more = {"popular": 4} if name == "bandwagon" else {}
    split = make([39, 3], share=0.2, filler=10, seed=4, **more)(rated)
    plain, grown = data.leave_one_out()(rated), split.interactions
    n = len(rated)
    for field in ("users", "items", "times", "ratings"):
        np.testing.assert_array_equal(getattr(grown, field)[:n], getattr(rated, field))
    np.testing.assert_array_equal(split.part[:n], plain.part)
    assert grown.num_users == 72 and (split.part[n:] == TRAIN).all()
    profiles = grown.items[n:].reshape(12, 12)
    ratings = grown.ratings[n:].reshape(12, 12)
    assert (profiles[:, :2] == [39, 3]).all() and (ratings[:, :2] == 5).all()
    for items in profiles:
        assert len(set(items.tolist())) == 12
    count = np.bincount(rated.items[plain.part == TRAIN], minlength=40)
    count[[39, 3]] = -1
    best = np.argsort(-count, kind="stable")[:4]
    popular = np.isin(profiles[:, 2:], np.argsort(-count)[:7]).mean()
    if name == "bandwagon":
        assert (profiles[:, 2:6] == best).all() and (ratings[:, 2:6] == 5).all()
    if name == "average":  # seven popular items of 38 would be .18 of a draw alike
        assert popular > 0.4
        error = np.abs(ratings[:, 2:] - (1 + profiles[:, 2:] % 5)).mean()
        assert error < 1.2
    if name == "random":
        assert popular < 0.3
    again = make([39, 3], share=0.2, filler=10, seed=4, **more)(rated)
    np.testing.assert_array_equal(again.interactions.items, grown.items)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.random_profiles([40])(crowd()), "there is no item 40"),
        (lambda: attacks.random_profiles([1], share=1.0), "use 0 < share < 1"),
        (lambda: attacks.random_profiles([1], share=0.01)(crowd()), "adds nobody"),
        (lambda: attacks.average_profiles([1], filler=40)(crowd()), "39 other items"),
        (lambda: attacks.bandwagon_profiles([1], filler=3, popular=4), "use popular <= 3"),
        (lambda: attacks.random_profiles([]), "names no items"),
    ],
)
def test_wrong_profiles_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)
