"""GPFedRec: the graph by loops as released, a round as a loop over clients, and laws of a round."""

import functools
import importlib
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import clients, compress, data, keys, rows, trees, wire
from fedjax_rec.rounds import memory, user_graph
from fedjax_rec.rounds.downlink import downloaded
from fedjax_rec.types import Cohort, Packet

# The modules, which have functions of the same name.
models = importlib.import_module("fedjax_rec.models.factorization.gpfedrec")
graph_guided = importlib.import_module("fedjax_rec.rounds.graph_guided")
recipe = importlib.import_module("fedjax_rec.strategies.gpfedrec")

KEY, USERS, WIDTH, STRENGTH = jax.random.key(5), 11, 3, 0.7
HERE = [9, 2, USERS, 0, 5, 3] + [USERS] * 5
# A plain array; rows of which a client holds the whole table; rows of which it holds some.
ITEMS = {"dense": 20, "whole": 20, "compact": 300}


def fast(f):
    """`f` compiled without costly optimisations: it compiles for longer than it runs."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def packed(layout):
    found = data.synthetic(
        num_users=USERS, num_items=ITEMS[layout], interactions_per_user=6, spread=0.5
    )
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def model_of(layout):
    factory = models.gpfedrec if layout == "dense" else models.gpfedrec_rows
    return factory(ITEMS[layout], 1, WIDTH, (4,))


@functools.cache
def client(layout):
    model = models.guided(model_of(layout), STRENGTH)
    optimizer = clients.groups({"shared": clients.sgd(20.0), "private": clients.sgd(0.5)})
    trains = clients.local_training(model, data.pointwise(1), optimizer, batch_size=8)
    return trains, fast(trains.update)


@functools.cache
def strategy(layout, uplink=None):
    init = model_of(layout)
    made = graph_guided.graph_guided(client(layout)[0], init, uplink=uplink, clients_per_chunk=4)
    return made, fast(made.round)


@functools.cache
def begun(layout):
    """A state in which all but the last two clients have reported."""
    made, step = strategy(layout)
    ids = jnp.int32([*range(USERS - 2), USERS, USERS])
    return step(
        KEY, fast(lambda key: made.init(key, USERS))(KEY), Cohort(ids, packed(layout).store)
    )[0]


def item(shared) -> np.ndarray:
    """A table, or a stack of them, however it is held."""
    return np.asarray(rows.dense(shared)["item"], np.float64)


def models_of(state) -> np.ndarray:
    return item(state.server["models"])


def cosine(a, b):
    return (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def test_similarities_are_those_of_whole_models():
    a = {"x": jax.random.normal(KEY, (3, 4, 2)), "y": jnp.arange(3.0)}
    b = {"x": jax.random.normal(jax.random.key(1), (5, 4, 2)), "y": jnp.arange(5.0) - 2}
    flat = lambda s: np.concatenate([np.reshape(s["x"], (-1, 8)), np.reshape(s["y"], (-1, 1))], 1)
    want = np.array([[cosine(x, y) for y in flat(b)] for x in flat(a)])
    np.testing.assert_allclose(user_graph.cosine_similarity().between(a, b), want, atol=1e-6)
    distance = user_graph.cosine_distance_as_released().between(a, b)
    np.testing.assert_allclose(distance, 1 - want, atol=1e-6)
    nothing = jax.tree.map(jnp.zeros_like, a)
    assert not np.asarray(user_graph.cosine_similarity().between(nothing, b)).any()


def released(similarity, known, size=0, threshold=1.0):
    """The neighbourhood of the released code, client by client, of those that are known."""
    weights, there = np.zeros(similarity.shape), np.flatnonzero(known)
    mean = similarity[np.ix_(there, there)].mean() if len(there) else 0.0
    for i in there:
        if size:
            near = sorted(there, key=lambda j: -similarity[i, j])[:size]
        else:
            near = [j for j in there if similarity[i, j] > mean * threshold] or [i]
        weights[i, near] = 1 / len(near)
    return weights


@pytest.mark.parametrize("known", [np.ones(8, bool), np.arange(8) % 3 > 0, np.zeros(8, bool)])
def test_neighbours_are_those_of_the_released_loops(known):
    raw = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    similarity = 1 + 0.3 * (raw + raw.T)
    similarity[4] = similarity[:, 4] = 0.1  # far from everybody, itself too
    for threshold in (0.5, 1.0, 1.3, 100.0):
        got = user_graph.above_mean(threshold).weigh(jnp.asarray(similarity), jnp.asarray(known))
        np.testing.assert_allclose(got, released(similarity, known, 0, threshold), atol=1e-6)
    for size in (1, 3, 20):
        got = user_graph.nearest(size).weigh(jnp.asarray(similarity), jnp.asarray(known))
        np.testing.assert_allclose(got, released(similarity, known, size), atol=1e-6)


def test_the_pull_counts_each_row_of_the_batch_once():
    """Trained on rows, gathered; and on a plain array, which is pulled whole."""
    inner = models.gpfedrec_rows(6, 1, WIDTH, (4,))
    model = models.guided(inner, STRENGTH)
    target = np.random.default_rng(0).normal(size=(6, WIDTH)).astype(np.float32)
    ids = jnp.int32([2, 4, 2, 2, 5, 1])
    batch = {
        "items": ids,
        "labels": jnp.float32([1, 0, 1, 1, 0, 0]),
        "mask": jnp.float32([1, 1, 1, 1, 1, 0]),
    }

    @fast
    def seen(key):
        shared, private = model.init(key)
        table = shared["model"]["item"]
        held = rows.Gathered((ids,), (table[ids],), ("items",)), table.values
        given = trees.Frozen({"item": jnp.asarray(target)})
        pulled = [
            model.loss({"model": {"item": x}, "target": given}, private, batch, key) for x in held
        ]
        scores = [
            model.score(shared, private, slice(None), 0),
            inner.score(shared["model"], private, slice(None), 0),
        ]
        bare = inner.loss(shared["model"], private, batch, key)
        return table.values, bare, pulled, scores

    table, bare, pulled, scores = jax.device_get(seen(KEY))
    for loss, which in zip(pulled, ([2, 4, 5], range(6)), strict=True):
        square = sum(((table[i] - target[i]) ** 2).sum() for i in which) / table.size
        np.testing.assert_allclose(loss, bare + STRENGTH * square, rtol=1e-5)
    np.testing.assert_array_equal(*scores)


def test_scores_are_a_private_tower():
    model = models.gpfedrec(5, 2, WIDTH, (4, 2))

    @fast
    def seen(key):
        shared, private = model.init(key)
        private = {**private, "user": jax.random.normal(key, (2, WIDTH))}
        start = [model.init(jax.random.key(i), key)[1] for i in (1, 2)]
        return shared, private, model.score(shared, private, slice(None), 1), start

    shared, private, scores, start = jax.device_get(seen(KEY))
    x = np.concatenate([np.tile(private["user"][1], (5, 1)), shared["item"]], 1)
    for layer in ("0", "1"):
        part = private["layers"][layer]
        x = np.maximum(0, x @ part["kernel"] + part["bias"])
    out = x @ private["readout"]["kernel"] + private["readout"]["bias"]
    np.testing.assert_allclose(scores, out[:, 0], rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, start), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "layout", ["dense", "whole", pytest.param("compact", marks=pytest.mark.slow)]
)
def test_a_round_is_a_loop_over_clients(layout):
    """In three chunks, of clients in any order, most places empty: none of that shows."""
    store, start = packed(layout).store, begun(layout)
    after, info = jax.device_get(strategy(layout)[1](KEY, start, Cohort(jnp.int32(HERE), store)))
    start = jax.device_get(start)
    known = np.arange(USERS) < USERS - 2
    np.testing.assert_array_equal(start.server["known"], known)
    table, q = models_of(start), item(start.shared)

    def graph(table, known):
        alike = np.array([[cosine(a, b) for b in table] for a in table])
        return released(alike, known)

    weights, trained = graph(table, known), table.copy()
    stream = keys.stream(jax.random.fold_in(KEY, 1), "clients")
    for place, k in enumerate(HERE):
        if k == USERS:
            continue
        target = np.tensordot(weights[k], table, 1) if known[k] else q
        target = {"item": np.asarray(target, np.float32)}
        given = {"model": start.shared, "target": trees.Frozen(target)}
        taken = store.take(jnp.int32([k]))
        mine = replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
        key = jax.random.split(jax.random.fold_in(stream, k))[0]
        private = jax.tree.map(lambda x, k=k: x[k], start.private)
        private, upload = jax.device_get(client(layout)[1](key, private, given, mine, FIRST))
        change = upload.update["model"]["item"]
        trained[k] = q + (rows.to_dense(change.delta()) if rows.is_table(change) else change)
        np.testing.assert_allclose(after.private["user"][k], private["user"], atol=1e-5)
        np.testing.assert_allclose(info.metrics["loss"][place], upload.metrics["loss"], rtol=1e-4)
        assert info.metrics["neighbours"][place] == (weights[k] > 0).sum()
        packet = Packet(rows.map_tables(lambda u: u.delta(), upload.update["model"]))
        assert len(wire.to_bytes(packet)) == info.bytes_up[place]
    known[[k for k in HERE if k < USERS]] = True
    np.testing.assert_allclose(models_of(after), trained, atol=1e-5)
    targets = np.tensordot(graph(trained, known), trained, 1)
    np.testing.assert_allclose(item(after.shared), targets[known].mean(0), atol=1e-5)
    others = np.setdiff1d(np.arange(USERS), HERE)
    held = lambda s: jax.tree.leaves((s.private, s.server["models"], s.server["known"]))
    for x, y in zip(held(start), held(after), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[others], np.asarray(y)[others])
    assert info.weight[2] == info.bytes_up[2] == info.bytes_down[2] == 0


def test_everyone_starts_at_the_mean_of_targets_not_of_models():
    """They differ: clients with many neighbours weigh less."""
    state = begun("dense")
    known = np.asarray(state.server["known"])
    plain = models_of(state)[known].mean(0)
    assert np.abs(item(state.shared) - plain).max() > 1e-3


def test_bytes_are_what_is_sent_and_models_kept_as_they_arrive():
    store, start = packed("compact").store, begun("compact")
    cast = compress.cast("bfloat16")
    made, step = strategy("compact", cast)
    start = replace(start, memory=fast(lambda key: made.init(key, USERS))(KEY).memory)
    cohort = Cohort(jnp.arange(USERS), store)
    after, info = step(KEY, start, cohort)
    packets, up = fast(made.packets)(KEY, start, cohort)
    np.testing.assert_array_equal(info.bytes_up, up)
    for k in range(USERS):
        packet = jax.tree.map(lambda x, k=k: x[k], packets)
        assert len(wire.to_bytes(packet)) == info.bytes_up[k]
        update = cast.decode(packet, rows.zero_update(start.shared), FIRST)
        arrived = item(start.shared) + np.asarray(rows.to_dense(update["item"]))
        np.testing.assert_allclose(models_of(after)[k], arrived, atol=1e-5)
        # Down come those rows of the model and of the target that it uploads the change of.
        got = downloaded(trees.trainable(start.shared), update).body
        got = Packet({"model": got, "target": got})
        assert len(wire.to_bytes(got)) == info.bytes_down[k]
    assert len(set(np.asarray(info.bytes_up))) > 3


def test_the_recipe_learns_resumes_and_traces_once():
    ds, traces = packed("dense"), []
    model = model_of("dense")
    made = recipe.gpfedrec(
        model, data.pointwise(1), learning_rate=0.3, item_learning_rate=10.0, batch_size=8, epochs=2
    )

    def round(key, state, cohort):
        traces.append(1)
        return made.round(key, state, cohort)

    cohort, step = Cohort(jnp.arange(USERS), ds.store), fast(round)
    state, losses, middle = fast(lambda key: made.init(key, USERS))(KEY), [], None
    for t in range(12):
        state, info = step(KEY, state, cohort)
        losses.append(float((info.metrics["loss"] * info.weight).sum() / info.weight.sum()))
        middle = jax.device_get(state) if t == 5 else middle
    assert losses[-1] < losses[0] - 0.02 and len(traces) == 1
    for _ in range(6):
        middle, _ = step(KEY, middle, cohort)
    for x, y in zip(jax.tree.leaves(middle), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(x, y)


def test_default_rates_are_those_of_the_released_code(monkeypatch):
    """lr 0.1, of users lr * 80 - lr, of items lr * num_items * 80 - lr."""
    seen = []
    monkeypatch.setattr(recipe, "sgd", lambda rate: seen.append(rate) or clients.sgd(rate))
    recipe.gpfedrec(models.gpfedrec(1682, 1, WIDTH), data.pointwise())
    assert sorted(seen) == pytest.approx([0.1, 7.9, 13455.9])


def test_bad_arguments(monkeypatch):
    with pytest.raises(ValueError, match=r"above_mean\(multiple=0\)"):
        user_graph.above_mean(0)
    with pytest.raises(ValueError, match=r"nearest\(count=0\)"):
        user_graph.nearest(0)
    with pytest.raises(ValueError, match=r"gpfedrec\(layers=\[\]\)"):
        models.gpfedrec(5, layers=[])
    with pytest.raises(ValueError, match=r"guided\(strength=-1\)"):
        models.guided(models.gpfedrec(5), -1)
    with pytest.raises(ValueError, match=r"graph_guided\(clients_per_chunk=0\)"):
        graph_guided.graph_guided(client("dense")[0], None, clients_per_chunk=0)
    monkeypatch.setattr(memory, "device_bytes", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"what the server keeps of 11 clients .* use fewer"):
        strategy("dense")[0].init(KEY, USERS)
