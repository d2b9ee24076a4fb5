"""Rounds against other ways to compute them: centralised descent, dense tables, a NumPy loop."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST
from worlds import KEY, USERS, close, compiled, federated, named, run, world

from fedjax_rec import aggregate, clients, keys, models, rows
from fedjax_rec.data import batches
from fedjax_rec.types import Model

BATCH = 16


def client_data(data, id: int):
    """The `ClientData` of one client, alone in its chunk."""
    taken = data.store.take(jnp.int32([id]))
    return replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])


@functools.cache
def epoch_of(name: str, epoch: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(items, labels) of each client's epoch of round 0 in the order of its batches.

    Pointwise examples with 4 negatives, drawn as documented: named key streams, then `permute`.
    """
    store, kind = named(name).store, batches.pointwise(4)

    def one(id, mine):
        key = keys.for_client(keys.stream(jax.random.fold_in(KEY, 0), "clients"), id)
        seed = keys.words(keys.stream(jax.random.split(key)[0], "examples"), 4)
        n = kind.count(mine).astype(jnp.uint32)
        place = jnp.arange(kind.most(store), dtype=jnp.uint32)
        order = keys.mix(seed[:2] + jnp.uint32(epoch))
        number = keys.permute(jnp.where(place < n, place, 0), jnp.maximum(n, 1), order)
        batch = kind.draw(seed[2:], mine, number)
        return batch["items"], batch["labels"], n

    ids = jnp.arange(USERS)
    items, labels, n = compiled(jax.vmap(one, in_axes=(0, store.axes())))(ids, store.take(ids))
    return [
        (np.asarray(items[k])[: int(n[k])], np.asarray(labels[k], np.float64)[: int(n[k])])
        for k in range(USERS)
    ]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize(("name", "epochs", "steps"), [("whole", 2, None), ("compact", 1, 3)])
def test_a_fedmf_round_equals_a_numpy_loop(name, epochs, steps):
    """Every client's batches one after another, gradients by hand, in float64."""
    data, kind, eta = named(name), batches.pointwise(4), 0.5
    model = models.fedmf(data.num_items, width=8)
    training = {"batch_size": BATCH, "epochs": epochs, "steps": steps}
    strategy = federated(data, model, clients.sgd(eta), kind, training=training)
    start = strategy.init(KEY, USERS)
    after, info = run(strategy, data, state=start)

    table = np.asarray(start.shared["item"].values, np.float64)
    total, weights = np.zeros_like(table), 0.0
    users = np.asarray(start.private["user"], np.float64)[:, 0].copy()
    for k in range(USERS):
        items = table.copy()
        n = 5 * int(data.store.length[k])
        losses, seen, taken, epoch = 0.0, 0, 0, 0
        while n and (taken < steps if steps else epoch < epochs):
            order, labels = epoch_of(name, epoch)[k]
            for low in range(0, n, BATCH):
                if steps and taken == steps:
                    break
                i, y = order[low : low + BATCH], labels[low : low + BATCH]
                z = items[i] @ users[k]
                losses += (np.log1p(np.exp(z)) - y * z).sum()
                seen += len(i)
                slope = (sigmoid(z) - y)[:, None] / len(i)
                user_gradient = (slope * items[i]).sum(0)
                np.subtract.at(items, i, eta * slope * users[k])
                users[k] -= eta * user_gradient
                taken += 1
            epoch += 1
        np.testing.assert_allclose(info.metrics["loss"][k], losses / max(seen, 1), rtol=1e-4)
        assert float(info.weight[k]) == n
        total += n * (items - table)
        weights += n
    np.testing.assert_allclose(after.shared["item"].values, table + total / weights, atol=2e-6)
    np.testing.assert_allclose(np.asarray(after.private["user"])[:, 0], users, atol=5e-6)


def test_one_full_batch_step_is_centralised_gradient_descent():
    name = "compact"
    data, kind, eta = named(name), batches.pointwise(4), 0.7
    model = models.fedmf(data.num_items, width=8)
    strategy = federated(data, model, clients.sgd(eta), kind, training={"batch_size": 128})
    start = strategy.init(KEY, USERS)
    after, info = run(strategy, data, state=start)
    drawn = epoch_of(name)
    user = np.concatenate([np.full(len(i), k) for k, (i, _) in enumerate(drawn)])
    item = np.concatenate([i for i, _ in drawn])
    label = jnp.float32(np.concatenate([y for _, y in drawn]))

    def loss(p, q):
        z = (p[user] * q[item]).sum(-1)
        return jnp.mean(jnp.logaddexp(0.0, z) - label * z)

    p, q = start.private["user"][:, 0], start.shared["item"].values
    value, (of_p, of_q) = jax.value_and_grad(loss, argnums=(0, 1))(p, q)
    close(after.shared["item"].values, q - eta * of_q, atol=1e-6)
    # A client's own part of the mean loss is n_k / n of its loss.
    share = np.bincount(user, minlength=USERS)[:, None] / len(user)
    own = np.where(share > 0, of_p / np.maximum(share, 1e-9), 0)
    close(after.private["user"][:, 0], p - eta * own, atol=1e-6)
    weights = np.asarray(info.weight)
    mean = (np.asarray(info.metrics["loss"]) * weights).sum() / weights.sum()
    np.testing.assert_allclose(mean, value, rtol=1e-5)


def touched_and_whole(data, model: Model, ids, **kwargs):
    """(state, info) of one round, with row tables and with tables as plain arrays, which each
    client copies, trains and uploads whole."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        return rows.dense(shared), private

    start = federated(data, model, **kwargs).init(KEY, data.num_clients)
    dense = replace(model, init=init)
    whole = replace(start, shared=rows.dense(start.shared))
    return (
        run(federated(data, model, **kwargs), data, ids, state=start),
        run(federated(data, dense, **kwargs), data, ids, state=whole),
    )


OPTIMIZERS = {
    "sgd": lambda: clients.sgd(0.5),
    "momentum": lambda: clients.from_optax(optax.sgd(0.1, momentum=0.9)),
    "adam": lambda: clients.from_optax(optax.adam(1e-2)),
}


@pytest.mark.parametrize(
    ("name", "items"),
    [
        pytest.param("sgd", 1_000, marks=pytest.mark.slow),
        pytest.param("momentum", 10_000, marks=pytest.mark.slow),
        ("adam", 100_000),
        pytest.param("sgd", 100_000, marks=pytest.mark.slow),
    ],
)
def test_touched_rows_equal_whole_tables(name, items):
    """Two epochs of several batches on 6 clients; the server's table differs by rounding alone."""
    data = world(8, items, 6)
    a, b = touched_and_whole(
        data,
        models.fedmf(items, width=4),
        jnp.int32([0, 1, 2, 4, 6, 7]),
        optimizer=OPTIMIZERS[name](),
        chunk=2,
        training={"epochs": 2, "batch_size": 8},
    )
    touched, whole = a[0].shared["item"].values, b[0].shared["item"]
    np.testing.assert_allclose(touched, whole, rtol=1e-5, atol=2e-6)
    close(a[0].private, b[0].private, rtol=1e-4, atol=2e-6)
    close(a[1].metrics, b[1].metrics)
    assert int(a[1].bytes_up.max()) < int(b[1].bytes_up.min())


def test_touched_rows_equal_whole_tables_with_two_tables_and_pairs():
    """NeuMF trained by BPR: two tables of one id field, two ids an example."""
    model = models.neumf(1_000, width=4, layers=(4,), objective=models.bpr())
    a, b = touched_and_whole(
        world(8, 1_000, 6),
        model,
        jnp.arange(8),
        kind=batches.pairwise(2),
        aggregator=aggregate.uniform(),
    )
    close(rows.dense(a[0].shared), b[0].shared, atol=2e-6)
    close(a[0].private, b[0].private, atol=2e-6)


def test_per_row_means_equal_a_loop_over_clients():
    """The assembly with per_row against one client at a time."""
    data = named("compact")
    model = models.fedmf(data.num_items, width=8)
    strategy = federated(data, model, aggregator=aggregate.per_row(), chunk=5)
    start = strategy.init(KEY, USERS)
    after, _ = run(strategy, data, state=start)
    client = clients.local_training(model, batches.pointwise(4), clients.sgd(0.5), batch_size=BATCH)
    stream = keys.stream(jax.random.fold_in(KEY, 0), "clients")

    @compiled
    def alone(id, private, mine):
        key = jax.random.split(keys.for_client(stream, id))[0]
        upload = client.update(key, private, start.shared, mine, FIRST)[1]
        return upload.update["item"].delta()

    total, count = np.zeros((data.num_items, 8)), np.zeros(data.num_items)
    for k in range(USERS):
        private = jax.tree.map(lambda x, k=k: x[k], start.private)
        update = alone(jnp.int32(k), private, client_data(data, k))
        live = np.asarray(update.live)
        np.add.at(total, np.asarray(update.ids)[live], np.asarray(update.values)[live])
        count += np.bincount(np.asarray(update.ids)[live], minlength=data.num_items)
    want = np.asarray(start.shared["item"].values) + total / np.maximum(count, 1)[:, None]
    np.testing.assert_allclose(after.shared["item"].values, want, atol=2e-6)
    assert count.max() > 1 and (count == 0).any()
