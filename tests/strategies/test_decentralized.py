"""Rounds of client models: a loop over clients, laws of a round, and how fast models agree."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST, begins

from fedjax_rec import clients, data, keys, models, rows, simulate, strategies, trees, wire
from fedjax_rec.rounds import memory
from fedjax_rec.rounds.decentralized import consensus, decentralized
from fedjax_rec.types import Client, Cohort, Packet, Upload

KEY, USERS, ITEMS = jax.random.key(2), 15, 60
OPTIONS = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def ds():
    found = data.synthetic(num_users=USERS, num_items=ITEMS, interactions_per_user=9)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def training(ds, epochs=2):
    model = models.fedmf(ds.num_items, width=4)
    client = clients.local_training(
        model, data.pointwise(2), clients.sgd(0.5), epochs, batch_size=16
    )
    return model, client


def swapping(ds, exchange, chunk=4, client=None):
    model, trains = training(ds)
    init = model
    return decentralized(client or trains, init, exchange, clients_per_chunk=chunk)


def run(strategy, ds, rounds=1, ids=None, state=None, key=KEY):
    step = jax.jit(strategy.round, compiler_options=OPTIONS)
    state = strategy.init(key, ds.num_clients) if state is None else state
    ids = jnp.arange(USERS) if ids is None else jnp.int32(ids)
    for _ in range(rounds):
        state, info = step(key, state, Cohort(ids, ds.store))
    return state, info


def item(state) -> np.ndarray:
    """float[N, I, D], the clients' tables."""
    return np.asarray(state.server["models"]["item"].values)


def test_a_round_is_a_loop_over_clients(ds):
    """Each client trains its own model, alone; then the models go round."""
    strategy = swapping(ds, strategies.cycle())
    _, client = training(ds)
    start = run(strategy, ds)[0]  # models that differ
    after, info = run(strategy, ds, state=start)
    stream = keys.stream(jax.random.fold_in(KEY, 1), "clients")
    update = jax.jit(client.update, compiler_options=OPTIONS)
    trained = []
    for k in range(USERS):
        model = jax.tree.map(lambda x, k=k: x[k], start.server["models"])
        private = jax.tree.map(lambda x, k=k: x[k], start.private)
        taken = ds.store.take(jnp.int32([k]))
        mine = replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
        key = jax.random.split(jax.random.fold_in(stream, k))[0]
        private, upload = update(key, private, model, mine, FIRST)
        change = rows.to_dense(upload.update["item"].delta())
        trained.append(np.asarray(model["item"].values + change))
        np.testing.assert_allclose(after.private["user"][k], private["user"], atol=1e-5)
        np.testing.assert_allclose(info.metrics["loss"][k], upload.metrics["loss"], rtol=1e-4)
    trained = np.stack(trained)
    np.testing.assert_allclose(item(after), np.roll(trained, 1, 0), atol=1e-5)
    np.testing.assert_allclose(after.shared["item"].values, trained.mean(0), atol=1e-5)
    spread = np.sqrt(((trained - trained.mean(0)) ** 2).sum() / USERS)
    np.testing.assert_allclose(info.metrics["consensus"], spread, rtol=1e-4)


def test_chunks_order_and_padding_change_nothing(ds):
    ids = np.array([3, 1, 14, 8, 0, 6, 11])
    padded = np.array([USERS, 8, 0, 14, USERS, 11, 1, 3, 6])
    a, info = run(swapping(ds, strategies.gossip(strategies.torus()), 2), ds, 2, ids)
    b, other = run(swapping(ds, strategies.gossip(strategies.torus()), 5), ds, 2, padded)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=2e-6)
    place = [list(padded).index(i) for i in ids]
    np.testing.assert_array_equal(info.bytes_up, np.asarray(other.bytes_up)[place])
    assert not np.asarray(other.bytes_up)[padded == USERS].any()
    assert not np.asarray(other.metrics["consensus"])[padded == USERS].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "exchange",
    [strategies.derangement(), strategies.gossip(strategies.complete()), strategies.average()],
)
def test_others_are_not_touched(ds, exchange):
    strategy = swapping(ds, exchange)
    start = run(strategy, ds)[0]
    ids = [2, 9, 4, 13, USERS]
    after, info = run(strategy, ds, ids=ids, state=start)
    others = np.setdiff1d(np.arange(USERS), ids)
    for x, y in zip(
        jax.tree.leaves((start.private, start.server)),
        jax.tree.leaves((after.private, after.server)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(x)[others], np.asarray(y)[others])
    changed = (item(after) != item(start)).any((1, 2))
    assert sorted(np.flatnonzero(changed)) == sorted(ids[:-1])
    assert info.weight[-1] == 0


def test_bytes_are_the_models_that_were_sent(ds):
    strategy = swapping(ds, strategies.gossip(strategies.ring()))
    state, info = run(strategy, ds)
    message = len(wire.to_bytes(Packet(rows.dense(trees.trainable(state.shared)))))
    np.testing.assert_array_equal(info.bytes_up, 2 * message)
    np.testing.assert_array_equal(info.bytes_down, 2 * message)
    found = simulate.audit(strategy, state, ds.store, KEY, clients=3)
    assert found["message"] == found["ledger"] == 3 * message


def test_averaging_after_every_round_is_federated_averaging(ds):
    """From the second round on all clients hold the model of the server."""
    model, client = training(ds)
    init = model
    a = run(swapping(ds, strategies.average()), ds, 3)[0]
    b = run(strategies.federated(client, init, clients_per_chunk=4), ds, 3)[0]
    np.testing.assert_allclose(a.shared["item"].values, b.shared["item"].values, atol=1e-5)
    np.testing.assert_allclose(a.private["user"], b.private["user"], atol=1e-5)
    assert np.ptp(item(a), 0).max() < 1e-6


def still(shared) -> Client:
    """A client that learns nothing."""

    def update(key, private, shared, data, now):
        return private, Upload(trees.zeros_like(shared), jnp.float32(1.0), {"loss": jnp.zeros(())})

    return Client(lambda key, client: (), update)


@pytest.mark.parametrize("n", [8, 15, 24])
@pytest.mark.parametrize("graph", ["ring", "torus"])
def test_gossip_contracts_at_the_rate_of_the_second_eigenvalue(n, graph):
    """Within 5%: of models that start apart, the distance after 40 rounds against after 20."""
    found = data.synthetic(num_users=n, num_items=20, interactions_per_user=6)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    which = getattr(strategies, graph)()
    shared = {"w": jnp.zeros(6)}
    strategy = decentralized(still(shared), begins(shared), strategies.gossip(which), 4)
    state = strategy.init(KEY, n)
    apart = {"w": jax.random.normal(KEY, (n, 6))}
    state = replace(state, server={"models": apart})
    step, seen = jax.jit(strategy.round), []
    for _ in range(40 if graph == "ring" else 20):
        state, info = step(KEY, state, Cohort(jnp.arange(n), store))
        seen.append(float(info.metrics["consensus"][0]))
    half = len(seen) // 2
    rate = (seen[-1] / seen[half - 1]) ** (1 / half)
    want = strategies.contraction(which.mixing(n))
    assert rate == pytest.approx(want, rel=0.05)
    np.testing.assert_allclose(state.shared["w"], apart["w"].mean(0), atol=1e-5)


def test_consensus_is_its_definition():
    stack = {"a": jax.random.normal(KEY, (7, 3, 2)), "b": jnp.arange(7.0)}
    mean, distance = consensus(stack)
    flat = np.concatenate([np.asarray(stack["a"]).reshape(7, -1), np.arange(7.0)[:, None]], 1)
    want = np.sqrt(((flat - flat.mean(0)) ** 2).sum(1).mean())
    assert float(distance) == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(mean["b"], 3.0)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["model_swapping", "gossip_sgd"])
def test_recipes_learn_resume_and_trace_once(ds, recipe):
    model, _ = training(ds)
    strategy = getattr(strategies, recipe)(
        model, data.pointwise(2), optimizer=clients.sgd(2.0), epochs=2, batch_size=16
    )
    traces = []

    def counted(key, state, cohort):
        traces.append(1)
        return strategy.round(key, state, cohort)

    whole = replace(strategy, round=counted)
    steps = list(simulate.simulate(whole, ds.store, 12, KEY, every=4))
    losses = [step.metrics["loss"] for step in steps]
    assert losses[-1] < losses[0] - 0.01 and len(traces) == 1
    assert 0 < steps[-1].metrics["consensus"] < 100
    begun = list(simulate.simulate(strategy, ds.store, 8, KEY, every=4))
    (rest,) = simulate.simulate(strategy, ds.store, 12, KEY, every=4, state=begun[-1].state)
    for x, y in zip(jax.tree.leaves(rest.state), jax.tree.leaves(steps[-1].state), strict=True):
        np.testing.assert_array_equal(x, y)


def test_too_many_models_are_refused(ds, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"models of 15 clients .* use fewer clients"):
        swapping(ds, strategies.cycle()).init(KEY, USERS)
