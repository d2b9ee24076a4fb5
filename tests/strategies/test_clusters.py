"""IFCA: who trains which model, against a loop on the host; means by cluster; bytes; recovery."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, clients, compress, data, keys, rows, strategies, trees, wire
from fedjax_rec.strategies.ifca import by_cluster, clustered, of_clusters, of_one_cluster
from fedjax_rec.types import Cohort, Model, Now, Packet, Ranking, Upload

KEY, USERS, WIDTH, K = jax.random.key(2), 9, 2, 3
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
EXAMPLES = data.pointwise(3)


def factorization(items: int) -> Model:
    """(q_i . p + b - y)^2 with a frozen base, in few operations."""

    def init(key, common=None):
        a, b = jax.random.split(key)
        base = trees.Frozen(jnp.float32(0.1))
        item = rows.Table(jax.random.normal(a, (items, WIDTH)))
        return {"base": base, "bias": jax.random.normal(a), "item": item}, {
            "user": jax.random.normal(b, (WIDTH,))
        }

    def score(shared, private, items, user=0):
        return shared["item"][items] @ private["user"] + shared["bias"] + shared["base"].value

    def loss(shared, private, batch, key):
        error = score(shared, private, batch["items"]) - batch["labels"]
        return (batch["mask"] * error**2).sum() / jnp.maximum(batch["mask"].sum(), 1.0)

    return Model(init, loss, Ranking.of(score))


def probe(scorer, data):
    return {"all": scorer()(slice(None)), "some": scorer()(jnp.int32([3, 1]))}


def packed(items):
    """Of 9 users with up to 6 interactions; user 4 has none."""
    found = data.synthetic(num_users=USERS, num_items=items, interactions_per_user=5)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    return replace(store, length=store.length.at[4].set(0))


def world(items, uplink=None, aggregator=None):
    """(model, the inner client, strategy)."""
    model = factorization(items)
    inner = clients.local_training(model, EXAMPLES, clients.sgd(0.1), 2, batch_size=4, probe=probe)
    strategy = strategies.federated(
        clustered(inner, model, EXAMPLES, batch_size=4), of_clusters(model, K), uplink,
        by_cluster(aggregator or aggregate.mean(), K), clients_per_chunk=4,
    )  # fmt: skip
    return model, inner, strategy


def one_client(store, k):
    taken = store.take(jnp.int32([k]))
    return replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])


def whole(models, j):
    return trees.with_frozen(trees.trainable(models[j]), models[0])


# A client touches few rows of a table, a good part of them, or might touch all.
HELD = pytest.mark.parametrize("items", [60, 40, 10])


@HELD
def test_a_round_is_traced_however_much_of_a_table_is_held(items):
    store, (*_, strategy) = packed(items), world(items)
    state = strategy.init(KEY, USERS)
    cohort = Cohort(jnp.int32([7, USERS, 0, 4]), store)
    after, _ = jax.eval_shape(strategy.round, KEY, state, cohort)
    assert jax.tree.structure(after) == jax.tree.structure(state)


@pytest.mark.slow
@HELD
def test_a_round_is_a_loop_over_clients(items):
    store = packed(items)
    most = EXAMPLES.most(store)
    assert [most < items, 4 * most < items] == [items > 10, items == 60]
    model, inner, strategy = world(items)
    state = strategy.init(KEY, USERS)
    models = state.shared["clusters"]
    step = jax.jit(strategy.round, compiler_options=OPTIONS)
    cohort = jnp.int32([7, USERS, 0, 4, 2, 5, 1, 8])
    after, info = step(KEY, state, Cohort(cohort, store))

    update = jax.jit(inner.update, compiler_options=OPTIONS)
    stream = keys.stream(jax.random.fold_in(KEY, 0), "clients")
    seed = lambda key: keys.words(keys.stream(key, "examples"), 4)
    sums = [[0.0, 0.0, 0.0] for _ in range(K)]
    for slot, k in enumerate(np.asarray(cohort)):
        if k in (USERS, 4):
            assert float(info.weight[slot]) == 0
            continue
        mine, key = one_client(store, k), jax.random.split(jax.random.fold_in(stream, k))[0]
        q = jnp.arange(int(EXAMPLES.count(mine)), dtype=jnp.uint32)
        batch = {k: np.asarray(x) for k, x in EXAMPLES.draw(seed(key)[2:], mine, q).items()}
        private = jax.tree.map(lambda x, k=k: x[k], state.private["model"])
        losses = []
        for m in models:
            found = np.asarray(m["item"].values)[batch["items"]] @ np.asarray(private["user"])
            losses.append(np.mean((found + float(m["bias"]) + 0.1 - batch["labels"]) ** 2))
        j = int(np.argmin(losses))
        assert int(after.private["cluster"][k]) == int(info.metrics["cluster"][slot]) == j
        mine_now = Now(jnp.int32(0), whole(models, j))
        kept, upload = update(key, private, whole(models, j), mine, mine_now)
        np.testing.assert_allclose(after.private["model"]["user"][k], kept["user"], atol=1e-5)
        for name in ("all", "some", "loss"):
            want = upload.metrics[name]
            np.testing.assert_allclose(info.metrics[name][slot], want, rtol=1e-4, atol=1e-5)
        change, weight = upload.update["item"].delta(), float(upload.weight)
        sums[j][0] += weight * np.asarray(rows.to_dense(change))
        sums[j][1] += weight * float(upload.update["bias"])
        sums[j][2] += weight
        # Up goes one model, down come all three: rows of triple width, under the same ids.
        said = {"cluster": jnp.int32(j)}
        assert int(info.bytes_up[slot]) == int(wire.nbytes(Packet(upload.update, ((), said))))
        live = np.flatnonzero(np.asarray(change.live))
        ids = live if change.ids is None else np.asarray(change.ids)[live]
        wide = np.ones((len(live), K * WIDTH), np.float32)
        got = rows.RowsUpdate(wide, ids, np.ones(len(live), bool), None, items)
        message = wire.to_bytes(Packet({"bias": np.ones(K, np.float32), "item": got}))
        assert int(info.bytes_down[slot]) == len(message)
    assert sum(total[2] > 0 for total in sums) > 1
    for before, now, total in zip(models, after.shared["clusters"], sums, strict=True):
        n = max(total[2], 1.0)
        item = before["item"].values + total[0] / n
        np.testing.assert_allclose(now["item"].values, item, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(now["bias"], before["bias"] + total[1] / n, rtol=1e-4)

    for absent in (3, 4, 6):
        for x, y in zip(*map(jax.tree.leaves, (state.private, after.private)), strict=True):
            np.testing.assert_array_equal(x[absent], y[absent])
    k = 7
    private = jax.tree.map(lambda x: x[k], after.private)
    j = int(private["cluster"])
    mine = whole(after.shared["clusters"], j)
    np.testing.assert_allclose(
        strategy.model.score(after.shared, private, jnp.int32([2, 9])),
        model.score(mine, private["model"], jnp.int32([2, 9])),
        rtol=1e-5,
    )


def uploads(clusters, weights):
    values = np.random.default_rng(0).normal(size=(len(clusters), 4, 2)).astype(np.float32)
    live = jnp.ones(values.shape[:2], bool)
    item = rows.RowsUpdate(jnp.asarray(values), None, live, None, 4)
    aux = {"cluster": jnp.int32(clusters)}
    return Upload({"item": item}, jnp.float32(weights), {}, aux), values


@pytest.mark.parametrize("kind", ["mean", "uniform", "per_row"])
def test_each_cluster_is_aggregated_alone(kind):
    """By its members' weights; a cluster of nobody, or of padding, does not move."""
    sent, values = uploads([0, 2, 0, 2, 1], [3, 1, 1, 5, 0])
    aggregator = by_cluster(getattr(aggregate, kind)(), 3)
    shared = {"clusters": ({"item": rows.Table(jnp.zeros((4, 2)))},) * 3}
    state = aggregator.init(shared)
    now = Now(jnp.int32(0), shared)
    _, update, _ = aggregator.finish(KEY, state, aggregator.reduce(state, sent, now), now)
    found = [np.asarray(rows.to_dense(u["item"].delta())) for u in update["clusters"]]
    shares = {0: {0: 3 / 4, 2: 1 / 4}, 1: {}, 2: {1: 1 / 6, 3: 5 / 6}}
    if kind != "mean":
        shares = {0: {0: 0.5, 2: 0.5}, 1: {}, 2: {1: 0.5, 3: 0.5}}
    for j, share in shares.items():
        want = sum((w * values[k] for k, w in share.items()), np.zeros((4, 2)))
        np.testing.assert_allclose(found[j], want, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compressors_remember_one_model_of_a_client():
    """And a whole run goes on from its state to the bit."""
    store = packed(60)
    uplink = of_one_cluster(compress.error_feedback(compress.top_k(0.2)))
    _, _, strategy = world(60, uplink, aggregate.per_row())
    state = strategy.init(KEY, USERS)
    assert {x.shape[0] for x in jax.tree.leaves(state.memory)} == {USERS}
    assert (USERS, 60, WIDTH) in {x.shape for x in jax.tree.leaves(state.memory)}
    step = jax.jit(strategy.round, compiler_options=OPTIONS)
    cohort = Cohort(jnp.int32([2, 4, 7, USERS]), store)
    once, info = step(KEY, state, cohort)
    plain = jax.tree.map(np.asarray, once)
    for x, y in zip(
        jax.tree.leaves(step(KEY, once, cohort)),
        jax.tree.leaves(step(KEY, jax.tree.map(jnp.asarray, plain), cohort)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(jax.tree.leaves(state.memory), jax.tree.leaves(once.memory), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[[0, 1, 3, 4, 5, 6, 8]],
                                      np.asarray(y)[[0, 1, 3, 4, 5, 6, 8]])  # fmt: skip
    assert (np.asarray(info.bytes_up)[[0, 2]] > 0).all()


def test_clients_of_two_kinds_part():
    """Half of them like the first half of the items, half the second: so do the clusters end."""
    items, users = 8, 10
    labels = np.where(np.arange(users)[:, None] % 2 == np.arange(items)[None] // 4, 1.0, -1.0)
    count = np.full(users, items, np.int32)
    store = replace(
        packed(10),
        items=jnp.tile(jnp.arange(items, dtype=jnp.int32), users),
        labels=jnp.asarray(labels.reshape(-1), jnp.float32),
        start=jnp.asarray(np.arange(users) * items, jnp.int32),
        length=jnp.asarray(count),
        num_items=items,
        longest=items,
    )

    def init(key, common=None):
        return {"item": rows.Table(0.1 * jax.random.normal(key, (items, 1)))}, {}

    def score(shared, private, items, user=0):
        return shared["item"][items][..., 0]

    def loss(shared, private, batch, key):
        error = score(shared, private, batch["items"]) - batch["labels"]
        return (batch["mask"] * error**2).sum() / jnp.maximum(batch["mask"].sum(), 1.0)

    model = Model(init, loss, Ranking.of(score))
    inner = clients.local_training(model, data.ratings(), clients.sgd(1.0), batch_size=items)
    strategy = strategies.federated(
        clustered(inner, model, data.ratings(), batch_size=items), of_clusters(model, 2),
        None, by_cluster(aggregate.mean(), 2),
    )  # fmt: skip
    state = strategy.init(jax.random.key(1), users)
    step = jax.jit(strategy.round, compiler_options=OPTIONS)
    for _ in range(30):
        state, info = step(KEY, state, Cohort(jnp.arange(users), store))
    found = np.asarray(state.private["cluster"])
    assert (found[::2] == found[0]).all() and (found[1::2] == 1 - found[0]).all()
    assert float(info.metrics["loss"].max()) < 1e-3
    for k in (0, 1):
        private = jax.tree.map(lambda x, k=k: x[k], state.private)
        scores = strategy.model.score(state.shared, private, slice(None))
        np.testing.assert_allclose(scores, labels[k], atol=0.02)


def test_clusters_of_a_model_that_begins_alike_are_a_little_apart():
    """As of one that starts from another run; the others begin as they are drawn."""
    wide = lambda key: {"item": rows.Table(jax.random.normal(key, (40, 3))), "b": jnp.zeros(3)}
    drawn = Model(lambda key, common=None: (wide(key), {}), lambda *args: jnp.zeros(()))
    same = replace(drawn, init=lambda key, common=None: (wide(jax.random.key(1)), {}))
    key = jax.random.key(3)
    first, *others = of_clusters(same, 3).init(key)[0]["clusters"]
    apart = [np.asarray(x["item"].values - first["item"].values) for x in others]
    for off in apart:
        assert 0.008 < np.sqrt((off**2).mean()) < 0.012
    assert np.abs(apart[0] - apart[1]).max() > 0.005
    np.testing.assert_array_equal(first["item"].values, wide(jax.random.key(1))["item"].values)
    for j, x in enumerate(of_clusters(drawn, 3).init(key)[0]["clusters"]):
        want = wide(jax.random.fold_in(key, j))["item"].values
        np.testing.assert_array_equal(x["item"].values, want)


def test_bad_arguments_are_named():
    for make in (
        lambda: of_clusters(factorization(5), 0),
        lambda: by_cluster(aggregate.mean(), 0),
    ):
        with pytest.raises(ValueError, match=r"clusters=0\) is too small"):
            make()
