"""LightFR against discrete coordinate descent in NumPy over explicit residuals; bytes by hand, and
what it refuses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, simulate, strategies
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.strategies.lightfr import descended
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

USERS, WIDTH = 9, 7
KEY = jax.random.key(5)
# Who is there, round by round; 9 is nobody.
COHORTS = [range(USERS), [8, 0, 3, 5, 2, 9, 9, 9, 9], [1, 2, 4, 9, 6, 9, 9, 9, 9]]
SIZES = pytest.mark.parametrize("items", [14, 400], ids=["whole", "rows"])


def split(items: int) -> Split:
    """9 users of 2 to 7 items for training, and one held out."""
    rng = np.random.default_rng(1)
    mine = [rng.choice(items, 3 + u % 6, replace=False) for u in range(USERS)]
    users = np.repeat(np.arange(USERS), [len(m) for m in mine]).astype(np.int32)
    named = np.concatenate(mine).astype(np.int32)
    part = np.full(len(users), TRAIN, np.int8)
    part[np.cumsum([len(m) for m in mine]) - 1] = TEST
    time, names = np.arange(len(users), dtype=np.float64), np.arange(USERS).astype(str)
    found = Interactions("few", users, named, time, None, names, np.arange(items).astype(str))
    return Split(found, part)


def negative(client, q, items):
    return (q * 5 + client * 3 + 1) % items


def examples(items: int) -> data.Batches:
    """Two negatives an interaction, of which a loop without keys knows which."""
    drawn = data.pointwise(2)

    def draw(seed, data, q):
        batch = drawn.draw(seed, data, q)
        other = negative(data.id, q.astype(jnp.int32), items)
        return {**batch, "items": jnp.where(batch["labels"] > 0, batch["items"], other)}

    return replace(drawn, draw=draw)


def seen_by(items: int) -> list[list[tuple[int, int]]]:
    """(item, label) of each example of each client."""
    found = split(items)
    train = found.part == TRAIN
    out = []
    for u in range(USERS):
        mine = [int(i) for i in found.interactions.items[train & (found.interactions.users == u)]]
        drawn = [negative(u, k, items) for k in range(len(mine), 3 * len(mine))]
        out.append([(i, 1) for i in mine] + [(int(i), 0) for i in drawn])
    return out


def strategy_of(items: int, **parts):
    model = models.lightfr(items, width=WIDTH)
    return strategies.lightfr(model, examples(items), **{"clients_per_chunk": 4} | parts)


def best(code, pairs):
    """`code` after bits in turn against (other code, target) pairs, until none changes."""
    code = code.copy()
    while True:
        before = code.copy()
        for k in range(WIDTH):
            slope = sum((t - code @ x + code[k] * x[k]) * x[k] for x, t in pairs)
            code[k] = code[k] if slope == 0 else np.sign(slope)
        if (before == code).all():
            return code


def by_hand(items, users, seen):
    """After each round: (item codes, user codes, losses)."""
    target = {1: WIDTH, 0: -WIDTH}
    for ids in COHORTS:
        ids = [u for u in ids if u < USERS]
        users, losses = users.copy(), {}
        for u in ids:
            users[u] = best(users[u], [(items[i], target[y]) for i, y in seen[u]])
            apart = [target[y] - users[u] @ items[i] for i, y in seen[u]]
            losses[u] = np.mean(np.square(apart)) / WIDTH**2
        said = [(i, users[u], target[y]) for u in ids for i, y in seen[u]]
        items = items.copy()
        for i in {i for i, _, _ in said}:
            items[i] = best(items[i], [(b, t) for j, b, t in said if j == i])
        yield items, users, losses


def played(strategy, items: int):
    store = data.pack(split(items), evaluation_negatives=0).store
    out: list[Any] = [(strategy.init(KEY, USERS), None)]
    round = jax.jit(strategy.round)
    for ids in COHORTS:
        out.append(round(KEY, out[-1][0], Cohort(jnp.array(list(ids), jnp.int32), store)))
    return out, store


def codes(state):
    as_doubles = lambda x: np.asarray(x, float)
    users = as_doubles(state.private["user"][:, 0])
    return as_doubles(state.shared["model"]["item"].values), users


@SIZES
def test_rounds_are_discrete_coordinate_descent(items):
    ((start, _), *rounds), _ = played(strategy_of(items), items)
    hand = by_hand(*codes(start), seen_by(items))
    moved = 0
    for ids, (state, info), (d, b, losses) in zip(COHORTS, rounds, hand, strict=True):
        moved += (codes(state)[0] != codes(start)[0]).sum()
        np.testing.assert_array_equal(codes(state)[0], d)
        np.testing.assert_array_equal(codes(state)[1], b)
        want = [losses.get(u, 0.0) for u in ids]
        np.testing.assert_allclose(info.metrics["loss"], want, rtol=1e-5)
    assert moved > 20


@SIZES
def test_bytes_are_bits_of_codes_and_two_bytes_an_item(items):
    strategy = strategy_of(items)
    ((state, _), (_, info), *_), store = played(strategy, items)
    found = simulate.audit(strategy, state, store, KEY, clients=USERS)
    assert found["message"] == found["ledger"]
    for u, seen in enumerate(seen_by(items)):
        touched = len({i for i, _ in seen})
        # Down and up differ by what is said of items, and by one part more and its code going up.
        more = int(info.bytes_up[u]) - int(info.bytes_down[u])
        bits = -(-WIDTH * touched // 8)
        assert 2 * touched - bits < more <= 2 * touched - bits + 16


def test_the_sum_never_rises_where_examples_stay(items=14):
    strategy, seen = strategy_of(items), seen_by(items)
    store = data.pack(split(items), evaluation_negatives=0).store
    cohort, state = Cohort(jnp.arange(USERS, dtype=jnp.int32), store), strategy.init(KEY, USERS)
    round, last = jax.jit(strategy.round), np.inf
    for _ in range(4):
        state, _ = round(KEY, state, cohort)
        d, b = codes(state)
        total = sum(
            (WIDTH * (2 * y - 1) - b[u] @ d[i]) ** 2 for u in range(USERS) for i, y in seen[u]
        )
        assert total <= last
        last = total
    assert set(np.unique(d)) == set(np.unique(b)) == {-1.0, 1.0}


def test_a_bit_that_nothing_speaks_for_stays():
    code = jnp.array([1.0, -1.0, 1.0])
    kept = descended(code, jnp.zeros((3, 3)), jnp.zeros(3), 5)
    np.testing.assert_array_equal(kept, code)
    got = descended(code, jnp.eye(3), jnp.array([-2.0, 0.0, 3.0]), 5)
    np.testing.assert_array_equal(got, [-1.0, -1.0, 1.0])


def test_what_is_wrong_is_said():
    with pytest.raises(ValueError, match="sweeps"):
        strategy_of(14, sweeps=0)
    with pytest.raises(ValueError, match=r"use models\.lightfr"):
        strategies.lightfr(models.pfedrec(14), examples(14)).init(KEY, USERS)
    found = split(14)
    grouped = data.pack(found, data.by_hash(2)(found), evaluation_negatives=0)
    strategy = strategies.lightfr(models.lightfr(14, grouped.members), data.pointwise(2))
    like = jax.eval_shape(lambda: strategy.init(KEY, 2))
    with pytest.raises(ValueError, match="a client is one user"):
        jax.eval_shape(strategy.round, KEY, like, Cohort(jnp.arange(2), grouped.store))
    pairs = strategies.lightfr(models.lightfr(14), data.pairwise())
    like = jax.eval_shape(lambda: pairs.init(KEY, USERS))
    store = data.pack(found, evaluation_negatives=0).store
    with pytest.raises(ValueError, match="a client is one user"):
        jax.eval_shape(pairs.round, KEY, like, Cohort(jnp.arange(USERS), store))
