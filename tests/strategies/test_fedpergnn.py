"""FedPerGNN against a loop in NumPy that holds every neighbour's vector and every edge: rounds,
expansion and bytes; what it composes with, and what it refuses."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, privacy, simulate, strategies, wire
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.strategies.fedpergnn import asks
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

USERS, ITEMS, WIDTH, EVERY = 9, 14, 3, 2
RATES: dict[str, Any] = {"user_learning_rate": 2.0, "item_learning_rate": 3.0}
KEY = jax.random.key(5)
# Who is there, round by round; 9 is nobody.
COHORTS = [range(USERS), [8, 0, 3, 5, 2], [1, 2, 4, 9, 6], [7, 2, 1, 9, 0]]


def split() -> Split:
    """9 users; the last has one item for training, which nobody else has."""
    rng = np.random.default_rng(1)
    mine = [np.append(rng.choice(ITEMS - 1, 3 + u % 4, replace=False), u % 5) for u in range(8)]
    mine.append(np.array([ITEMS - 1, 0]))
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


@pytest.fixture(scope="module")
def met():
    found = split()
    x = np.zeros((USERS, ITEMS))
    train = found.part == TRAIN
    x[found.interactions.users[train], found.interactions.items[train]] = 1
    return x


def strategy_of(model=None, **parts):
    model = model or models.fedpergnn(ITEMS, width=WIDTH, scale=0.5)
    return strategies.fedpergnn(model, examples(), every=EVERY, **RATES | parts)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def graph_layer(p, items, q, graph, asked=None):
    """z_u of one client from all that it holds: graph[i] are the vectors beside its item i. Where
    an edge is asked for, its item is in no mean of items."""
    others = [i for i in items if i != asked]
    near = [np.mean(graph[i], axis=0) if len(graph.get(i, [])) else 0 * p for i in items]
    own = np.mean([q[i] for i in others], axis=0) if others else 0 * p
    return (p + (own + np.mean(near, axis=0)) / 2) / 2


def trained(p, q, items, graph, client):
    """(p, {item: change}, loss) after one step on all examples, by central differences."""
    count = len(items)
    drawn = [negative(client, k) for k in range(count, 3 * count)]
    rows, labels = [*items, *drawn], [1.0] * count + [0.0] * 2 * count

    def loss(p, q):
        asked = [*items, *[None] * (2 * count)]
        layers = {i: graph_layer(p, items, q, graph, i) for i in {*asked}}
        scores = np.array([q[i] @ layers[a] for i, a in zip(rows, asked, strict=True)])
        return np.mean(np.log1p(np.exp(scores)) - np.array(labels) * scores)

    def slope(x, of):
        out, eps = np.zeros_like(x), 1e-6
        for place in np.ndindex(x.shape):
            step = np.zeros_like(x)
            step[place] = eps
            out[place] = (of(x + step) - of(x - step)) / (2 * eps)
        return out

    to_p, to_q = slope(p, lambda x: loss(x, q)), slope(q, lambda x: loss(p, x))
    change = {i: -RATES["item_learning_rate"] * to_q[i] for i in set(rows)}
    return p - RATES["user_learning_rate"] * to_p, change, loss(p, q)


def by_hand(q, users, met):
    """After each round: (q, users, graphs, losses, neighbours)."""
    items = [list(np.flatnonzero(row)) for row in met]
    graphs, reported = [{} for _ in items], {}
    for turn, ids in enumerate(COHORTS, 1):
        ids = [u for u in ids if u < USERS]
        told = {u: trained(users[u], q, items[u], graphs[u], u) for u in ids}
        users = np.array([told[u][0] if u in told else users[u] for u in range(USERS)])
        said = {}
        for _, change, _ in told.values():
            for i, row in change.items():
                said.setdefault(i, []).append(row)
        q = q.copy()
        for i, its in said.items():
            q[i] += np.mean(its, axis=0)
        count = dict.fromkeys(ids, 0)
        if turn % EVERY == 0:
            reported |= {u: users[u] for u in ids}
            for u in ids:
                having = {i: [v for v in reported if v != u and met[v, i]] for i in items[u]}
                graphs[u] = {i: [reported[v] for v in those] for i, those in having.items()}
                count[u] = len({v for those in having.values() for v in those})
        yield q, users, [dict(g) for g in graphs], {u: told[u][2] for u in ids}, count


@pytest.fixture(scope="module")
def rounds(dataset):
    """[(state, info) of each round], from the state in front."""
    strategy = strategy_of()
    state, played = strategy.init(KEY, USERS), []
    step = jax.jit(strategy.round)
    played.append((state, None))
    for ids in COHORTS:
        ids = np.append(ids, np.full(USERS - len(ids), USERS)).astype(np.int32)
        played.append(step(KEY, played[-1][0], Cohort(jnp.asarray(ids), dataset.store)))
    return played


def test_rounds_are_those_of_a_loop_over_all_edges(rounds, met):
    begin = rounds[0][0]
    q, users = np.asarray(begin.shared["item"].values, float), begin.private["user"][:, 0]
    expected = by_hand(q, np.asarray(users, float), met)
    model = models.fedpergnn(ITEMS, width=WIDTH)
    seen = set()
    for (state, info), ids, hand in zip(rounds[1:], COHORTS, expected, strict=True):
        q, users, graphs, losses, count = hand
        np.testing.assert_allclose(state.shared["item"].values, q, atol=2e-6)
        np.testing.assert_allclose(state.private["user"][:, 0], users, atol=2e-6)
        seen |= {u for u in ids if u < USERS}
        for place, u in enumerate(ids):
            if u < USERS:
                np.testing.assert_allclose(info.metrics["loss"][place], losses[u], rtol=1e-5)
                assert info.metrics["neighbours"][place] == count[u]
        for u in seen:
            items = np.flatnonzero(met[u])
            z = graph_layer(users[u], items, q, graphs[u])
            mine = jax.tree.map(lambda x, u=u: x[u], state.private)
            got = model.score(state.shared, mine, slice(None), 0)
            np.testing.assert_allclose(got, q @ z, atol=5e-6)
    assert any(count.values()) and count[7] > 0


def test_bytes_are_those_of_the_model_and_of_the_expansion(rounds, dataset, met):
    plain = strategies.fedmf(models.fedmf(ITEMS, width=WIDTH), examples(), **RATES)
    plain = (jax.jit(plain.round), plain.init(KEY, USERS))
    size = met.sum(1).astype(int)
    for turn, ((_, info), ids) in enumerate(zip(rounds[1:], COHORTS, strict=True), 1):
        ids = np.append(ids, np.full(USERS - len(ids), USERS)).astype(np.int32)
        base = plain[0](KEY, plain[1], Cohort(jnp.asarray(ids), dataset.store))[1]
        for place, u in enumerate(ids):
            up = int(info.bytes_up[place]) - int(base.bytes_up[place])
            down = int(info.bytes_down[place]) - int(base.bytes_down[place])
            if u == USERS:
                assert up == down == 0
                continue
            near = int(info.metrics["neighbours"][place])
            due = turn % EVERY == 0
            assert up == (9 + 16 * size[u] + 4 * WIDTH if due else 9)
            assert down == 4 * WIDTH * near + int(np.ceil(near * size[u] / 8))
            assert due or near == 0


def test_messages_are_as_long_as_the_round_counts(rounds, dataset):
    """Of a round that expands; the laws look at one that does not."""
    found = simulate.audit(strategy_of(), rounds[1][0], dataset.store, KEY, clients=4)
    assert found["message"] == found["ledger"]


def test_pseudonyms_tell_equal_items_and_hide_which(dataset, met):
    cohort = Cohort(jnp.arange(USERS), dataset.store)
    sent = asks(cohort, jnp.zeros((USERS, WIDTH)), jnp.bool_(True)).body["items"]
    assert isinstance(sent, wire.Live)
    of = {}
    for u in range(USERS):
        tokens = [tuple(t) for t in np.asarray(sent.values[u])[np.asarray(sent.live[u])].tolist()]
        for token in tokens:
            of.setdefault(token, set()).add(u)
    shared = sorted(map(sorted, of.values()))
    assert shared == sorted(sorted(np.flatnonzero(column)) for column in met.T if column.any())


def test_who_is_away_keeps_graph_and_vector(rounds):
    (before, _), (after, _) = rounds[2], rounds[3]
    away = np.array([0, 3, 5, 7, 8])
    for leaf, old in zip(*map(jax.tree.leaves, (after.private, before.private)), strict=True):
        np.testing.assert_array_equal(leaf[away], old[away])
    assert (after.private["user"][1] != before.private["user"][1]).all()


def test_it_takes_noise_and_covers(dataset):
    stages, batches = [privacy.local_laplace(0.1, 100.0)], data.covered(data.pointwise(1), 1.0)
    model = models.fedpergnn(ITEMS, width=WIDTH)
    strategy = strategies.fedpergnn(model, batches, every=1, stages=stages, **RATES)
    cohort = Cohort(jnp.arange(USERS), dataset.store)
    state, info = jax.jit(strategy.round)(KEY, strategy.init(KEY, USERS), cohort)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.shared))
    assert np.asarray(info.metrics["neighbours"]).max() > 0 and np.asarray(info.bytes_up).all()


def test_what_it_refuses(dataset):
    with pytest.raises(ValueError, match=r"fedpergnn\(every=0\) is too small"):
        strategies.fedpergnn(models.fedpergnn(ITEMS), examples(), every=0)
    with pytest.raises(ValueError, match=r"the model keeps user; use models\.fedpergnn"):
        strategy_of(models.fedmf(ITEMS)).init(KEY, USERS)
    grouped = data.pack(split(), data.by_hash(2)(split()), evaluation_negatives=0)
    strategy = strategy_of(models.fedpergnn(ITEMS, grouped.members, width=WIDTH))
    like = jax.eval_shape(lambda: strategy.init(KEY, 2))
    with pytest.raises(ValueError, match="clients hold several users; make each user a client"):
        jax.eval_shape(strategy.round, KEY, like, Cohort(jnp.arange(2), grouped.store))
    pairs = strategies.fedpergnn(models.fedpergnn(ITEMS), data.pairwise())
    like = jax.eval_shape(lambda: pairs.init(KEY, USERS))
    cohort = Cohort(jnp.arange(USERS), dataset.store)
    with pytest.raises(ValueError, match=r"several items an example; train it on data\.pointwise"):
        jax.eval_shape(pairs.round, KEY, like, cohort)
