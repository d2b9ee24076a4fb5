"""CoFedRec against a loop in NumPy over clients, batches and rounds; bytes by hand; the elbow and
the contrastive term by their definitions, and what is refused."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hetefedrec import COHORTS, ITEMS, USERS, examples, items_of, rows_of, slope, split

from fedjax_rec import compress, data, keys, models, simulate, strategies, wire
from fedjax_rec.models.supervised_contrastive import contrast
from fedjax_rec.rounds import memory
from fedjax_rec.strategies.cofedrec import similarities, up_to_elbow
from fedjax_rec.types import Cohort, Packet

pytestmark = pytest.mark.usefixtures("compiled_fast")

WIDTH, CATEGORIES, STRENGTH, HOT, BASE, EPOCHS = 3, 4, 0.3, 0.4, 0.5, 2
RATES: dict[str, Any] = {"learning_rate": 0.5, "item_learning_rate": 2.0}
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def dataset():
    return data.pack(split(), evaluation_negatives=0)


def strategy_of(model=None, **parts):
    given = {"categories": CATEGORIES, "strength": STRENGTH, "temperature": HOT}
    given |= {"base_temperature": BASE, "epochs": EPOCHS, "clients_per_chunk": 4, **RATES}
    model = model or models.pfedrec(ITEMS, width=WIDTH)
    return strategies.cofedrec(model, examples(), **given | parts)


def played(strategy, dataset):
    """(State, RoundInfo) after each of the rounds, and the state before."""
    state = strategy.init(KEY, USERS)
    round = jax.jit(strategy.round)
    out: list[Any] = [(state, None)]
    for ids in COHORTS:
        state, info = round(KEY, state, Cohort(jnp.array(list(ids), jnp.int32), dataset.store))
        out.append((state, info))
    return out


def contrast_of(q, category):
    """The mean of l_i over all items, item by item."""
    unit = q / np.linalg.norm(q, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(q)):
        others = [j for j in range(len(q)) if j != i]
        like = [j for j in others if category[j] == category[i] >= 0]
        if like:
            below = sum(np.exp(unit[i] @ unit[j] / HOT) for j in others)
            logs = [unit[i] @ unit[p] / HOT - np.log(below) for p in like]
            total -= HOT / BASE * np.mean(logs)
    return total / len(q)


def trained(w, b, q, items, client, category):
    """(w, b, q, loss) of one client after its steps on all of its examples."""
    named, labels = rows_of(items, client)

    def loss(w, b, q):
        scores = q[named] @ w + b
        own = np.mean(np.log1p(np.exp(scores)) - np.array(labels) * scores)
        return own + STRENGTH * contrast_of(q, category)

    losses = []
    for _ in range(EPOCHS):
        losses.append(loss(w, b, q))
        to_w, to_b = (
            slope(w, lambda x, b=b, q=q: loss(x, b, q)),
            slope(b, lambda x, w=w, q=q: loss(w, x, q)),
        )
        w, b = w - RATES["learning_rate"] * to_w, b - RATES["learning_rate"] * to_b
        to_q = slope(q, lambda x, w=w, b=b: loss(w, b, x))
        q = q - RATES["item_learning_rate"] * to_q
    return w, b, q, np.mean(losses)


def group_of(tables, ids, one, chosen):
    """The clients of `ids` down to the elbow of their likeness to `one` on the items `chosen`."""
    cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    alike = {u: sum(cosine(tables[u][i], tables[one][i]) for i in chosen) for u in sorted(ids)}
    order = sorted(alike, key=lambda u: -alike[u])
    points = np.array([(t, alike[u]) for t, u in enumerate(order)])
    line = points[-1] - points[0]
    along = (points - points[0]) @ line / np.linalg.norm(line)
    off = points - points[0] - np.outer(along, line / np.linalg.norm(line))
    return order[: int(np.argmax(np.linalg.norm(off, axis=1))) + 1]


def draws(round, ids):
    """(key of K-means, category, client) that a round draws."""
    key = keys.stream(jax.random.fold_in(KEY, round), "mixing")
    lots = np.asarray(jax.random.uniform(keys.stream(key, "client"), (USERS,)))
    chosen = int(jax.random.randint(keys.stream(key, "category"), (), 0, CATEGORIES))
    return keys.stream(key, "categories"), chosen, max(ids, key=lambda u: lots[u])


def by_hand(private, items):
    """After each round: (scorers, tables, categories, losses, group)."""
    w, b = (np.asarray(private["own"][name][:, 0], float) for name in ("weight", "bias"))
    tables, category = np.asarray(private["model"]["item"], float), np.full(ITEMS, -1)
    for round, ids in enumerate(COHORTS):
        ids, losses = [u for u in ids if u < USERS], {}
        w, b, tables = w.copy(), b.copy(), tables.copy()
        for u in ids:
            w[u], b[u], tables[u], losses[u] = trained(w[u], b[u], tables[u], items[u], u, category)
        mean = np.mean([tables[u] for u in ids], 0)
        key, number, one = draws(round, ids)
        category = np.asarray(models.residual_kmeans(key, mean, 1, CATEGORIES)[0][:, 0])
        group = group_of(tables, ids, one, np.flatnonzero(category == number))
        tables[group] = np.mean(tables[group], 0)
        yield w, b, tables, category, losses, group


@pytest.mark.parametrize("chunk", [4, None], ids=["chunks", "at once"])
def test_rounds_are_those_of_a_loop(dataset, chunk):
    (start, _), *rounds = played(strategy_of(clients_per_chunk=chunk), dataset)
    hand, sizes = by_hand(start.private, items_of(split())), []
    for ids, (state, info), (w, b, tables, category, losses, group) in zip(
        COHORTS, rounds, hand, strict=True
    ):
        np.testing.assert_array_equal(state.server["category"], category)
        np.testing.assert_allclose(state.private["model"]["item"], tables, atol=1e-4)
        np.testing.assert_allclose(state.private["own"]["weight"][:, 0], w, atol=1e-4)
        np.testing.assert_allclose(state.private["own"]["bias"][:, 0], b, atol=1e-4)
        want = np.array([losses.get(u, 0.0) for u in ids])
        np.testing.assert_allclose(info.metrics["loss"], want, rtol=1e-4)
        np.testing.assert_array_equal(info.metrics["grouped"], [u in group for u in ids])
        sizes.append(len(group))
    assert any(1 < size < len(ids) for size, ids in zip(sizes, COHORTS, strict=True))


def test_who_is_not_in_the_group_keeps_its_table(dataset):
    """And who is away everything, to the bit; a client is scored by its own table."""
    strategy = strategy_of()
    _, (before, _), (after, info), _ = played(strategy, dataset)
    ids = list(COHORTS[1])
    away = np.setdiff1d(np.arange(USERS), ids)
    old, new = (np.asarray(s.private["model"]["item"]) for s in (before, after))
    np.testing.assert_array_equal(old[away], new[away])
    group = [u for u, g in zip(ids, info.metrics["grouped"], strict=True) if g]
    assert all((new[u] == new[group[0]]).all() for u in group)
    private = jax.tree.map(lambda x: x[ids[0]], after.private)
    got = strategy.model.score(after.shared, private, jnp.arange(ITEMS))
    own = private["own"]
    want = new[ids[0]] @ np.asarray(own["weight"][0]) + float(own["bias"][0])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_bytes_are_a_table_up_and_categories_down(dataset):
    strategy = strategy_of()
    (state, _), (after, info), *_ = played(strategy, dataset)
    found = simulate.audit(strategy, state, dataset.store, KEY, clients=USERS)
    assert found["message"] == found["ledger"]
    table = {"item": np.zeros((ITEMS, WIDTH), np.float32)}
    np.testing.assert_array_equal(info.bytes_up, len(wire.to_bytes(Packet(table))))
    codes = wire.Codes(np.asarray(after.server["category"], np.uint8), CATEGORIES)
    few = len(wire.to_bytes(Packet({"category": codes})))
    more = len(wire.to_bytes(Packet({"model": table})))
    want = few + more * np.asarray(info.metrics["grouped"], int)
    np.testing.assert_array_equal(info.bytes_down, want)


def test_without_the_term_clients_send_rows(dataset):
    """The same rounds as of a term that weighs nothing; of a table the touched rows travel."""
    (start, _), *plain = played(strategy_of(strength=None), dataset)
    _, *weightless = played(strategy_of(strength=0.0), dataset)
    for (a, info), (b, other) in zip(plain, weightless, strict=True):
        got, want = a.private["model"]["item"].values, b.private["model"]["item"]
        np.testing.assert_allclose(got, want, atol=1e-5)
        np.testing.assert_array_equal(a.server["category"], b.server["category"])
        np.testing.assert_array_equal(info.metrics["grouped"], other.metrics["grouped"])
    found = simulate.audit(strategy_of(strength=None), start, dataset.store, KEY, clients=USERS)
    assert found["message"] == found["ledger"] < sum(weightless[0][1].bytes_up)
    info = plain[0][1]
    table = {"item": np.zeros((ITEMS, WIDTH), np.float32)}
    more = len(wire.to_bytes(Packet({"model": table})))
    np.testing.assert_array_equal(info.bytes_down, more * np.asarray(info.metrics["grouped"], int))


def test_a_compressed_table_is_what_the_client_goes_on_from(dataset):
    *_, (state, info) = played(strategy_of(uplink=compress.cast("float16")), dataset)
    *_, (plain, whole) = played(strategy_of(), dataset)
    assert (info.bytes_up[:3] < whole.bytes_up[:3]).all()
    got, want = (np.asarray(s.private["model"]["item"]) for s in (state, plain))
    np.testing.assert_allclose(got, want, atol=0.02)
    assert (got != want).any()


def test_the_elbow_is_farthest_from_the_line():
    alike = jnp.array([9.0, 1.0, 8.8, 0.9, 8.7, 100.0, 0.7])
    there = jnp.array([1, 1, 1, 1, 1, 0, 1], bool)
    # Sorted 9, 8.8, 8.7, 1, .9, .7: the drop is from the third to the fourth.
    got = up_to_elbow(alike, there)
    np.testing.assert_array_equal(got, [1, 0, 1, 0, 1, 0, 0])
    assert not up_to_elbow(alike, jnp.zeros(7, bool)).any()
    np.testing.assert_array_equal(up_to_elbow(alike, there & (alike > 8.9)), alike == 9.0)


def test_likeness_is_of_the_named_rows_alone():
    tables = jax.random.normal(KEY, (4, 6, 3))
    named = jnp.array([1, 0, 0, 1, 0, 0], bool)
    assert float(similarities(tables, jnp.int32(2), named)[2]) == pytest.approx(2.0, rel=1e-5)
    other = tables.at[:, 1].set(5.0)
    np.testing.assert_array_equal(
        similarities(tables, jnp.int32(2), named), similarities(other, jnp.int32(2), named)
    )


def test_drawn_anchors_have_the_mean_of_all():
    q = jax.random.normal(KEY, (ITEMS, WIDTH))
    category = jnp.arange(ITEMS) % 4
    whole = contrast(q, category, jnp.arange(ITEMS), HOT, BASE)
    np.testing.assert_allclose(whole, contrast_of(np.asarray(q, float), category), rtol=1e-5)
    some = [contrast(q, category, jnp.array([i]), HOT, BASE) for i in range(ITEMS)]
    np.testing.assert_allclose(np.mean(some), whole, rtol=1e-5)
    model = models.supervised_contrastive(models.pfedrec(ITEMS, width=WIDTH), anchors=3)
    shared, private = model.init(KEY)
    shared = {**shared, "category": replace(shared["category"], value=category)}
    batch = {"items": jnp.arange(4), "labels": jnp.ones(4), "mask": jnp.ones(4)}
    told = [float(model.loss(shared, private, batch, jax.random.key(k))) for k in range(3)]
    assert len(set(told)) == 3


def test_without_categories_there_is_no_term():
    q = jax.random.normal(KEY, (ITEMS, WIDTH))
    assert float(contrast(q, jnp.full(ITEMS, -1), jnp.arange(ITEMS), HOT, BASE)) == 0.0
    # A category of one item has nothing to be near to.
    assert float(contrast(q, jnp.arange(ITEMS), jnp.arange(ITEMS), HOT, BASE)) == 0.0


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: strategy_of(categories=0), "categories"),
        (lambda: strategy_of(categories=ITEMS + 1), "at most as many"),
        (lambda: strategy_of(strength=-1.0), "strength"),
        (lambda: strategy_of(temperature=0.0), "temperature"),
        (lambda: strategy_of(base_temperature=0.0), "base_temperature"),
        (lambda: strategy_of(anchors=0), "anchors"),
        (lambda: strategy_of(models.hetefedrec(ITEMS, widths=(2, 3))), "needs a shared table"),
    ],
)
def test_what_is_wrong_is_said(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_too_many_tables_are_refused(dataset, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="models of all clients of 9 clients"):
        strategy_of().init(KEY, USERS)
