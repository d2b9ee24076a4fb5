"""FedFast against a loop in NumPy over clients, rows and clusters; what it is without its parts;
bytes; who is drawn, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hetefedrec import ITEMS, USERS, examples, items_of, rows_of, split

from fedjax_rec import (
    aggregate,
    clients,
    compress,
    data,
    models,
    privacy,
    simulate,
    strategies,
    wire,
)
from fedjax_rec.data.sources.sources import find
from fedjax_rec.experiment.config import read
from fedjax_rec.experiment.prepare import prepare
from fedjax_rec.types import Cohort, Packet

pytestmark = pytest.mark.usefixtures("compiled_fast")

WIDTH, CLUSTERS, DISCOUNT, DECAY = 3, 3, 0.8, 0.5
RATES: dict[str, Any] = {"user_learning_rate": 0.9, "item_learning_rate": 2.0}
KEY = jax.random.key(5)
ROOT = Path(__file__).resolve().parents[2]
# Far apart, so that K-means has one result whatever it draws: user u is in cluster u mod 3.
CLUSTER = np.arange(USERS) % CLUSTERS
# Who is there, round by round; 9 is nobody.
COHORTS = [range(USERS), [8, 0, 3, 5, 2, 9, 9, 9, 9], [1, 2, 4, 9, 6, 7, 8, 0, 9]]


@pytest.fixture(scope="module")
def dataset():
    return data.pack(split(), evaluation_negatives=0)


def model_of(**given):
    return models.fedmf(ITEMS, **{"width": WIDTH, "scale": 0.5} | given)


def strategy_of(model=None, **parts):
    given = {"clusters": CLUSTERS, "discount": DISCOUNT, "decay": DECAY, "clients_per_chunk": 4}
    return strategies.fedfast(model or model_of(), examples(), **given | RATES | parts)


def begun(strategy):
    """A state whose users are near 4 e_c of their cluster c."""
    state = strategy.init(KEY, USERS)
    near = 0.2 * np.random.default_rng(2).normal(size=(USERS, WIDTH))
    user = jnp.asarray(4 * np.eye(WIDTH)[CLUSTER] + near, jnp.float32)
    return replace(state, private={"user": user[:, None]})


def played(strategy, dataset, cohorts=None):
    """(State, RoundInfo) after each of the rounds, and before them."""
    state, round = begun(strategy), jax.jit(strategy.round)
    out: list[Any] = [(state, None)]
    for ids in cohorts or COHORTS:
        state, info = round(KEY, state, Cohort(jnp.array(list(ids), jnp.int32), dataset.store))
        out.append((state, info))
    return out


def parts_of(state):
    return (
        np.asarray(state.shared["item"].values, float),
        np.asarray(state.private["user"][:, 0], float),
    )


def trained(p, q, items, client):
    """(p, {item: change}) of one client after a step on all of its examples."""
    named, labels = rows_of(items, client)
    error = (1 / (1 + np.exp(-(q[named] @ p))) - np.array(labels)) / len(named)
    change = {
        i: -RATES["item_learning_rate"] * error[np.array(named) == i].sum() * p for i in set(named)
    }
    return p - RATES["user_learning_rate"] * error @ q[named], change


def by_hand(q, users, everyone, chosen, discount=DISCOUNT):
    """(q, users) after each round of the clients `chosen`."""
    for t, ids in enumerate(chosen):
        told = {u: trained(users[u], q, everyone[u], u) for u in ids}
        top, amount = np.zeros_like(q), np.zeros(ITEMS)
        for _, change in told.values():
            for i, row in change.items():
                top[i] += np.abs(row).sum() * row
                amount[i] += np.abs(row).sum()
        q = q + top / np.where(amount > 0, amount, 1)[:, None]
        moved = users.copy()
        for u in range(USERS):
            beside = [told[v][0] - users[v] for v in ids if CLUSTER[v] == CLUSTER[u]]
            if u in told:
                moved[u] = told[u][0]
            elif beside:
                moved[u] += discount * DECAY**t * np.mean(beside, axis=0)
        users = moved
        yield q, users


@pytest.mark.parametrize("clients", [None, 6], ids=["all of the cohort", "six of it"])
def test_rounds_are_those_of_a_loop(dataset, clients):
    cohorts = [range(USERS)] * 3 if clients else COHORTS
    (start, _), *rounds = played(strategy_of(clients=clients), dataset, cohorts)
    chosen = [
        np.array(list(ids))[np.asarray(info.weight) > 0]
        for ids, (_, info) in zip(cohorts, rounds, strict=True)
    ]
    if clients:
        assert all((np.bincount(CLUSTER[ids]) == 2).all() for ids in chosen)
        assert len({tuple(ids) for ids in chosen}) > 1
    else:
        assert [set(ids) for ids in chosen] == [{u for u in ids if u < USERS} for ids in COHORTS]
    hand = by_hand(*parts_of(start), items_of(split()), chosen)
    for (state, _), (q, users) in zip(rounds, hand, strict=True):
        for got, want in zip(parts_of(state), (q, users), strict=True):
            np.testing.assert_allclose(got, want, atol=3e-6)


def test_chunks_and_order_change_nothing(dataset):
    *_, (a, _) = played(strategy_of(clients=4), dataset, [COHORTS[2], COHORTS[0]])
    turned = [list(ids)[::-1] for ids in (COHORTS[2], COHORTS[0])]
    *_, (b, _) = played(strategy_of(clients=4, clients_per_chunk=None), dataset, turned)
    for x, y in zip(parts_of(a), parts_of(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_without_its_parts_it_is_fedmf_that_sends_the_vector(dataset):
    bare = strategy_of(discount=None, aggregator=aggregate.per_row())
    plain = strategies.fedmf(model_of(), examples(), clients_per_chunk=4, **RATES)
    for (got, info), (want, alone) in zip(
        played(bare, dataset)[1:], played(plain, dataset)[1:], strict=True
    ):
        for x, y in zip(parts_of(got), parts_of(want), strict=True):
            np.testing.assert_array_equal(x, y)
        there = np.asarray(alone.weight) > 0
        more_up = np.asarray(info.bytes_up, int) - np.asarray(alone.bytes_up, int)
        more_down = np.asarray(info.bytes_down, int) - np.asarray(alone.bytes_down, int)
        vector = np.zeros((1, WIDTH), np.float32)
        alone_costs = int(wire.nbytes(Packet(()))), int(wire.nbytes(Packet({"user": vector})))
        header = alone_costs[1] - alone_costs[0] - 4 * WIDTH
        assert 0 < header < 8
        np.testing.assert_array_equal(more_up, there * (4 * WIDTH + header))
        np.testing.assert_array_equal(more_down, there * (4 * WIDTH + header))


def test_the_ledger_is_what_is_sent(dataset):
    for strategy in (strategy_of(clients=4), strategy_of(uplink=compress.cast())):
        found = simulate.audit(strategy, begun(strategy), dataset.store, KEY, clients=USERS)
        assert found["message"] == found["ledger"] > 0


def test_only_who_counts_is_learned_from(dataset):
    """A rejected client is one of the others, to its model and to its cluster."""
    strategy = strategy_of(aggregator=aggregate.krum(f=1))
    (start, _), (state, info) = played(strategy, dataset, COHORTS[:1])
    taken = np.flatnonzero(np.asarray(info.verdicts) > 0)
    assert 0 < len(taken) < USERS
    before, after = parts_of(start)[1], parts_of(state)[1]
    for u in set(range(USERS)) - set(taken):
        beside = [after[v] - before[v] for v in taken if CLUSTER[v] == CLUSTER[u]]
        want = before[u] + (DISCOUNT * np.mean(beside, axis=0) if beside else 0)
        np.testing.assert_allclose(after[u], want, atol=1e-6)


def test_a_round_of_nobody_changes_nothing(dataset):
    nobody = [[USERS] * USERS]
    for some in (None, 4):
        (start, _), (state, info) = played(strategy_of(clients=some), dataset, nobody)
        for x, y in zip(parts_of(start), parts_of(state), strict=True):
            np.testing.assert_array_equal(x, y)
        assert not info.bytes_up.any() and not info.bytes_down.any()


def test_evenly_is_as_many_of_each_group(dataset):
    """Of groups of 5, 3 and 1, six places are 3, 2 and 1, or 2, 3 and 1; then the others."""
    groups = [0, 0, 1, 0, 2, 1, 0, 1, 0]
    utility, seen = strategies.evenly(groups), []
    cohort = Cohort(jnp.arange(USERS + 1, dtype=jnp.int32), dataset.store)
    state = utility.init(USERS)
    for round in range(60):
        key = jax.random.fold_in(KEY, round)
        value = np.asarray(utility.value(key, state, jnp.int32(round), cohort, 6))[:USERS]
        for g in range(3):
            ranks = np.sort(-value[np.array(groups) == g])
            np.testing.assert_array_equal(ranks, np.arange(len(ranks)))
        seen.append(value == 0)
    first = np.sum(seen, axis=0)
    assert (first.reshape(-1)[[4]] == 60).all()
    # Which of a group is first is by lot: 60 draws of 5, and of 3, within 4.5 deviations.
    for g, size in ((0, 5), (1, 3)):
        mine = first[np.array(groups) == g]
        assert mine.sum() == 60
        p = 1 / size
        assert (np.abs(mine - 60 * p) < 4.5 * np.sqrt(60 * p * (1 - p))).all()


def test_in_proportion_draws_everybody_as_often(dataset):
    """Of groups of 6 and 3, three places are 2 and 1; of 5, 3 and 1, next to 5/3, 1 and 1/3."""
    cohort = Cohort(jnp.arange(USERS + 1, dtype=jnp.int32), dataset.store)
    for groups in ([0, 1, 0, 0, 1, 0, 0, 1, 0], [0, 0, 1, 0, 2, 1, 0, 1, 0]):
        utility, times, share = strategies.in_proportion(groups), np.zeros(USERS), 3 / USERS
        draw = jax.jit(lambda key, u=utility: u.value(key, u.init(USERS), 0, cohort, 3))
        for round in range(200):
            value = np.asarray(draw(jax.random.fold_in(KEY, round)))[:USERS]
            chosen = np.argsort(-value)[:3]
            times[chosen] += 1
            of_group = np.bincount(np.array(groups)[chosen], minlength=max(groups) + 1)
            assert (np.abs(of_group - share * np.bincount(groups)) < 1.01).all()
        assert (np.abs(times - 200 * share) < 4.5 * np.sqrt(200 * share * (1 - share))).all()


def test_clusters_in_proportion(dataset):
    strategy = strategy_of(clients=6, utility=strategies.in_proportion())
    *_, (_, info) = played(strategy, dataset, [range(USERS)])
    assert (np.bincount(CLUSTER[np.asarray(info.weight) > 0]) == 2).all()


def test_small_groups_leave_their_places_to_others(dataset):
    groups = [0, 0, 0, 0, 0, 0, 0, 0, 1]
    strategy = strategies.selecting(
        strategies.fedmf(model_of(), examples(), **RATES), strategies.evenly(groups), 5
    )
    *_, (_, info) = played(strategy, dataset, [range(USERS)])
    chosen = np.asarray(info.weight) > 0
    assert chosen.sum() == 5 and chosen[8]


def without_vectors():
    model = models.pfedrec(ITEMS, width=4)
    return strategies.fedfast(model, examples())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: strategy_of(downlink=compress.cast()), "downlink"),
        (
            lambda: strategy_of(aggregator=privacy.secure_aggregation(2.0, clients=USERS)),
            "without a seal",
        ),
        (lambda: strategy_of(discount=1.5), "discount=1.5"),
        (lambda: strategy_of(decay=-0.1), "decay=-0.1"),
        (lambda: strategy_of(clusters=0), "clusters=0"),
        (lambda: strategy_of(turns=0), "turns=0"),
        (lambda: strategy_of(clusters=10).init(KEY, USERS), r"clusters=10\) of 9 users"),
        (lambda: strategy_of(clients=2, discount=None, clusters=10).init(KEY, USERS), "of 9 users"),
        (lambda: strategy_of(model_of(members=2)).init(KEY, USERS), r"keep \[2, 3\]"),
        (lambda: without_vectors().init(KEY, USERS), "keep none"),
        (lambda: strategies.evenly([0, 1]).init(USERS), "of 2 clients, and there are 9"),
        (lambda: strategies.in_proportion([0, 1]).init(USERS), "in_proportion.groups. of 2"),
    ],
)
def test_what_is_wrong_is_said(make, told):
    with pytest.raises(ValueError, match=told):
        make()


@pytest.mark.parametrize("choose", ["sampling", "in_proportion"])
def test_who_is_drawn_on_movielens_is_as_the_page_says(choose):
    """docs/results.md: as many of each cluster are the same users, who have much to learn from."""
    if find("ml-100k") is None:
        pytest.skip("needs ml-100k; fetch it with fedjax-rec data get.")
    config = read(ROOT / "configs/strategies/fedfast.yaml", {"choose": choose})
    experiment = prepare(config)
    strategy, dataset = experiment.strategy, experiment.dataset
    state, round = strategy.init(jax.random.key(0), dataset.num_clients), jax.jit(strategy.round)
    everybody, times = jnp.arange(dataset.num_clients), np.zeros(dataset.num_clients)
    for _ in range(100):
        cohort = Cohort(everybody, dataset.store)
        state, info = round(jax.random.key(0), state, cohort)
        times += np.asarray(info.weight) > 0
    sizes = np.sort(np.bincount(np.asarray(state.server["selection"]), minlength=20))
    mean = (times * dataset.activity).sum() / times.sum()
    assert times.sum() == 9400 and abs(dataset.activity.mean() - 104) < 0.1
    if choose == "sampling":
        assert (sizes == 1).sum() > 7 and sizes[-2:].sum() > 0.6 * dataset.num_clients
        assert times.max() > 75 and 165 < mean < 195
    else:
        assert times.max() < 30 and abs(mean - 104) < 5


def test_a_client_without_a_vector_has_none_to_send(dataset):
    client = clients.local_training(models.pfedrec(ITEMS, width=4), examples(), clients.sgd(0.1))
    strategy = strategies.federated(strategies.sending_user(client), models.pfedrec(ITEMS, width=4))
    state = strategy.init(KEY, USERS)
    with pytest.raises(ValueError, match="keeps no vector"):
        jax.eval_shape(strategy.round, KEY, state, Cohort(jnp.arange(USERS), dataset.store))
