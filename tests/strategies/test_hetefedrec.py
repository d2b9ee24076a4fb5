"""HeteFedRec against a loop in NumPy over clients, tasks and tables; bytes by hand; what it is
without its parts, and what it refuses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import compress, data, models, simulate, strategies, wire
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.models.factorization.hetefedrec import correlation
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

USERS, ITEMS, WIDTHS, UP_TO = 9, 14, (2, 3, 5), (3, 5)
RATES: dict[str, Any] = {"user_learning_rate": 2.0, "item_learning_rate": 3.0}
WEIGHT, PULL, STEPS = 0.3, 0.05, 2
KEY = jax.random.key(5)
# Who is there, round by round; 9 is nobody.
COHORTS = [range(USERS), [8, 0, 3, 5, 2], [1, 2, 4, 9, 6]]


def split() -> Split:
    """9 users of 2 to 7 items for training, and one held out."""
    rng = np.random.default_rng(1)
    mine = [rng.choice(ITEMS, 3 + u % 6, replace=False) for u in range(USERS)]
    users = np.repeat(np.arange(USERS), [len(m) for m in mine]).astype(np.int32)
    items = np.concatenate(mine).astype(np.int32)
    part = np.full(len(users), TRAIN, np.int8)
    part[np.cumsum([len(m) for m in mine]) - 1] = TEST
    time, names = np.arange(len(users), dtype=np.float64), np.arange(USERS).astype(str)
    found = Interactions("few", users, items, time, None, names, np.arange(ITEMS).astype(str))
    return Split(found, part)


def negative(client, q):
    return (q * 5 + client * 3 + 1) % ITEMS


def examples() -> data.Batches:
    """Two negatives an interaction, of which a loop without keys knows which."""
    drawn = data.pointwise(2)

    def draw(seed, data, q):
        batch = drawn.draw(seed, data, q)
        other = negative(data.id, q.astype(jnp.int32))
        return {**batch, "items": jnp.where(batch["labels"] > 0, batch["items"], other)}

    return replace(drawn, draw=draw)


@pytest.fixture(scope="module")
def dataset():
    return data.pack(split(), evaluation_negatives=0)


def items_of(found) -> list[list[int]]:
    train = found.part == TRAIN
    users, items = found.interactions.users[train], found.interactions.items[train]
    return [list(items[users == u]) for u in range(USERS)]


def model_of(**given):
    given = {"widths": WIDTHS, "decorrelation": WEIGHT, "scale": 0.5} | given
    return models.hetefedrec(ITEMS, **given)


def strategy_of(model=None, **parts):
    given = {"up_to": UP_TO, "distilled": ITEMS, "distillation_rate": PULL}
    given |= {"distillation_steps": STEPS, "clients_per_chunk": 4, **RATES}
    return strategies.hetefedrec(model or model_of(), examples(), **given | parts)


def size_of(count: int) -> int:
    return sum(count > bound for bound in UP_TO)


def rows_of(items: list[int], client: int) -> tuple[list[int], list[float]]:
    drawn = [negative(client, k) for k in range(len(items), 3 * len(items))]
    return [*items, *drawn], [1.0] * len(items) + [0.0] * len(drawn)


def slope(x, of):
    out, eps = np.zeros_like(x), 1e-6
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = eps
        out[place] = (of(x + step) - of(x - step)) / (2 * eps)
    return out


def trained(p, table, items, client, weight=WEIGHT):
    """(p, {item: change}, loss) of one client after a step on all of its examples."""
    size = size_of(len(items))
    named, labels = rows_of(items, client)

    def loss(p, v):
        total = 0.0
        for a in range(size + 1):
            scores = v[named, : WIDTHS[a]] @ p[: WIDTHS[a]]
            total += np.mean(np.log1p(np.exp(scores)) - np.array(labels) * scores)
        if size == 0:
            return total
        own = v[named]
        own = (own - own.mean(0)) / np.sqrt(own.var(0) + 1e-8)
        return total + weight * np.linalg.norm(own.T @ own / len(own)) / WIDTHS[size]

    p, table = np.asarray(p, float), np.asarray(table, float)
    to_p, to_v = slope(p, lambda x: loss(x, table)), slope(table, lambda x: loss(p, x))
    change = {i: -RATES["item_learning_rate"] * to_v[i] for i in set(named)}
    return p - RATES["user_learning_rate"] * to_p, change, loss(p, table)


def cosines(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def by_hand(tables, users, items, pull=PULL, weight=WEIGHT):
    """After each round: (tables, users, losses)."""
    for ids in COHORTS:
        ids = [u for u in ids if u < USERS]
        told = {
            u: trained(users[u], tables[size_of(len(items[u]))], items[u], u, weight) for u in ids
        }
        users = np.array([told[u][0] if u in told else users[u] for u in range(USERS)])
        total, count = np.zeros((ITEMS, WIDTHS[-1])), np.zeros(ITEMS)
        for _, change, _ in told.values():
            for i, row in change.items():
                total[i, : len(row)] += row
                count[i] += 1
        mean = total / np.maximum(count, 1)[:, None]
        tables = [v + mean[:, : v.shape[1]] for v in tables]
        wanted = np.mean([cosines(v) for v in tables], axis=0)
        apart = lambda x, wanted=wanted: ((cosines(x) - wanted) ** 2).sum() / ITEMS
        for _ in range(STEPS):
            tables = [v - pull * slope(v, apart) for v in tables]
        yield tables, users, {u: told[u][2] for u in ids}


def played(strategy, dataset):
    """(State, RoundInfo) after each of the rounds, and the state before."""
    state = strategy.init(KEY, USERS)
    round = jax.jit(strategy.round)
    out: list[Any] = [(state, None)]
    for ids in COHORTS:
        state, info = round(KEY, state, Cohort(jnp.array(list(ids), jnp.int32), dataset.store))
        out.append((state, info))
    return out


def tables_of(state):
    return [np.asarray(state.shared["item"][str(a)].values, float) for a in range(len(WIDTHS))]


@pytest.mark.parametrize("chunk", [4, None], ids=["chunks", "at once"])
def test_rounds_are_those_of_a_loop(dataset, chunk):
    (start, _), *rounds = played(strategy_of(clients_per_chunk=chunk), dataset)
    items = items_of(split())
    assert {size_of(len(i)) for i in items} == {0, 1, 2}
    hand = by_hand(tables_of(start), np.asarray(start.private["user"][:, 0], float), items)
    for ids, (state, info), (tables, users, losses) in zip(COHORTS, rounds, hand, strict=True):
        for got, want in zip(tables_of(state), tables, strict=True):
            np.testing.assert_allclose(got, want, atol=2e-5)
        for u in range(USERS):
            width = WIDTHS[size_of(len(items[u]))]
            got = state.private["user"][u, 0]
            np.testing.assert_allclose(got[:width], users[u][:width], atol=2e-5)
            np.testing.assert_array_equal(got[width:], start.private["user"][u, 0, width:])
        want = np.array([losses.get(u, 0.0) for u in ids])
        np.testing.assert_allclose(info.metrics["loss"], want, rtol=1e-5)
        sizes = [size_of(len(items[u])) if u < USERS else 0 for u in ids]
        np.testing.assert_array_equal(info.metrics["size"], sizes)
    sizes = [size_of(len(i)) for i in items]
    np.testing.assert_array_equal(state.private["size"], sizes)


def test_one_width_is_fedmf(dataset):
    model = model_of(widths=(4,), decorrelation=0.0)
    one = strategy_of(model, up_to=(), distilled=None)
    plain = strategies.fedmf(
        models.fedmf(ITEMS, width=4, scale=0.5), examples(), clients_per_chunk=4, **RATES
    )
    (start, _), *_, (got, info) = played(one, dataset)
    state = plain.init(KEY, USERS)
    user, item = start.private["user"], start.shared["item"]["0"]
    state = replace(state, private={"user": user}, shared={"item": item})
    for ids in COHORTS:
        cohort = Cohort(jnp.array(list(ids), jnp.int32), dataset.store)
        state, want = jax.jit(plain.round)(KEY, state, cohort)
    np.testing.assert_allclose(
        got.shared["item"]["0"].values, state.shared["item"].values, atol=1e-6
    )
    np.testing.assert_array_equal(info.bytes_up, want.bytes_up)


def test_tables_are_nested_until_they_are_distilled(dataset):
    *_, (apart, _) = played(strategy_of(), dataset)
    *_, (nested, _) = played(strategy_of(distilled=None), dataset)
    small, _, wide = tables_of(nested)
    np.testing.assert_array_equal(small, wide[:, :2])
    small, _, wide = tables_of(apart)
    assert np.abs(small - wide[:, :2]).max() > 1e-4


def test_distillation_moves_the_drawn_rows_alone(dataset):
    few, none = (played(strategy_of(distilled=m), dataset)[1][0] for m in (3, None))
    for a, b in zip(tables_of(few), tables_of(none), strict=True):
        assert (a != b).any(1).sum() == 3


def test_bytes_are_those_of_the_clients_own_width(dataset):
    strategy, items = strategy_of(), items_of(split())
    (state, _), (_, info), *_ = played(strategy, dataset)
    found = simulate.audit(strategy, state, dataset.store, KEY, clients=USERS)
    assert found["message"] == found["ledger"]
    for u in range(USERS):
        touched = np.isin(np.arange(ITEMS), rows_of(items[u], u)[0])
        own = [touched & (a == size_of(len(items[u]))) for a in range(len(WIDTHS))]
        told = [
            RowsUpdate(np.zeros((ITEMS, width), np.float32), None, there, None, ITEMS)
            for width, there in zip(WIDTHS, own, strict=True)
        ]
        assert int(info.bytes_up[u]) == len(wire.to_bytes(told))
    np.testing.assert_array_equal(info.bytes_down, info.bytes_up)


def test_a_compressor_sees_the_own_table(dataset):
    strategy = strategy_of(uplink=compress.cast())
    *_, (state, info) = played(strategy, dataset)
    *_, (_, plain) = played(strategy_of(), dataset)
    assert (info.bytes_up[:3] < plain.bytes_up[:3]).all()
    assert all(np.isfinite(x).all() for x in tables_of(state))


def test_columns_that_correlate_are_told():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    twice = np.concatenate([x, x], 1)
    mask = jnp.ones(200)
    want = np.linalg.norm(np.corrcoef(twice.T))
    np.testing.assert_allclose(correlation(jnp.array(twice), mask), want, rtol=1e-4)
    slopes = jax.grad(lambda v: correlation(v, mask[:1]))(jnp.ones((1, 3)))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: strategy_of(up_to=(5, 3)), "must ascend"),
        (lambda: strategy_of(distilled=1), "distilled"),
        (lambda: strategy_of(distillation_steps=0), "distillation_steps"),
        (lambda: strategy_of(downlink=compress.cast()), "downlink"),
        (lambda: strategy_of(up_to=(3,)).init(KEY, 2), "one bound fewer"),
        (lambda: strategy_of(models.fedmf(ITEMS)).init(KEY, 2), "use models.hetefedrec"),
        (lambda: model_of(widths=(3, 2)), "ascend"),
        (lambda: model_of(widths=()), "ascend"),
    ],
)
def test_what_is_wrong_is_said(make, told):
    with pytest.raises(ValueError, match=told):
        make()
