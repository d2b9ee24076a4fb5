"""PTF-FedRec: what is said and learned against loops in NumPy, and the laws of a round."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST

from fedjax_rec import clients, data, keys, models, rows, wire
from fedjax_rec.rounds import memory
from fedjax_rec.strategies import soft_labels
from fedjax_rec.strategies.ptf_fedrec import by_client, by_server, ptf_fedrec
from fedjax_rec.types import Cohort, Model, Packet, Ranking

KEY, USERS, ITEMS, EMPTY = jax.random.key(2), 15, 60, 4
OPTIONS = {"xla_backend_optimization_level": 0}
RATE = clients.sgd(0.5)


@pytest.fixture(scope="module")
def ds():
    """User EMPTY has nothing to train on."""
    found = data.synthetic(num_users=USERS, num_items=ITEMS, interactions_per_user=9)
    packed = data.pack(data.leave_one_out()(found), evaluation_negatives=0)
    return replace(packed, store=replace(packed.store, length=packed.store.length.at[EMPTY].set(0)))


def fast(f):
    """`f` compiled without costly optimisations: these tests compile for longer than they run."""
    return jax.jit(f, compiler_options=OPTIONS)


def recipe(chunk=4, **changes):
    settings = {
        "optimizer": RATE, "epochs": 2, "batch_size": 16, "server_batch_size": 32, "sent": 7,
        "server_optimizer": optax.adam(0.02), "clients_per_chunk": chunk, **changes,
    }  # fmt: skip
    server = settings.pop("server_model", models.gmf(ITEMS, width=5))
    examples = settings.pop("examples", data.pointwise(2))
    return ptf_fedrec(models.fedmf(ITEMS, width=4), examples, server_model=server, **settings)


@pytest.fixture(scope="module")
def step():
    return fast(recipe().round)


def begin(strategy, users):
    return fast(partial(strategy.init, num_clients=users))(KEY)


@pytest.fixture(scope="module")
def begun():
    return begin(recipe(), USERS)


def run(step, state, ds, rounds=1, ids=None):
    """After rounds of `ids`, everybody by default, padded so that all are one compiled call."""
    ids = np.arange(USERS) if ids is None else np.asarray(ids, np.int32)
    ids = jnp.int32(np.pad(ids, (0, max(0, USERS - len(ids))), constant_values=USERS))
    for _ in range(rounds):
        state, info = step(KEY, state, Cohort(ids, ds.store))
    return state, info


def leaves(*trees):
    return [np.asarray(x) for x in jax.tree.leaves(trees)]


def positives(ds, k) -> np.ndarray:
    store = ds.store
    return np.asarray(store.items)[int(store.start[k]) :][: int(store.length[k])]


def test_a_client_speaks_of_as_much_as_it_draws():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, (40, ITEMS))
    kind[0], kind[1] = 2, np.where(kind[1] == 1, 2, kind[1])
    positive, negative = jnp.asarray(kind == 0), jnp.asarray(kind == 1)
    draw = fast(jax.vmap(soft_labels.selected, (0, 0, 0, None, None)))
    drawn = jax.random.split(KEY, 40), positive, negative
    chosen = [np.asarray(x) for x in draw(*drawn, (0.2, 0.6), (0.5, 1.5))]
    first, second, have = chosen[0].sum(1), chosen[1].sum(1), (kind == 0).sum(1)
    assert not (chosen[0] & (kind != 0)).any() and not (chosen[1] & (kind != 1)).any()
    assert not chosen[0][0].any() and not chosen[1][:2].any()
    share, ratio = first[2:] / have[2:], second[2:] / first[2:]
    assert share.min() > 0.12 and share.max() <= 0.6 and np.ptp(share) > 0.2
    assert ratio.min() > 0.3 and ratio.max() <= 1.5 and np.ptp(ratio) > 0.4
    everything = [np.asarray(x) for x in draw(*drawn, (1.0, 1.0), (99.0, 99.0))]
    np.testing.assert_array_equal(everything[0], kind == 0)
    np.testing.assert_array_equal(everything[1][1:], (kind == 1)[1:])


@pytest.mark.parametrize("share", [0.1, 0.4])
def test_the_highest_change_places(share):
    rng = np.random.default_rng(1)
    values, kind = rng.random(30).astype(np.float32), rng.integers(0, 3, 30)
    swap = fast(lambda *of_items: soft_labels.swapped(*of_items, share, 20))
    out = swap(values, kind == 0, kind == 1)
    pairs = min(max(int(share * (kind == 0).sum()), 1), (kind == 1).sum())
    want = values.copy()
    ranked = [sorted(np.flatnonzero(kind == k), key=lambda i: -values[i]) for k in (0, 1)]
    for a, b in list(zip(*ranked, strict=False))[:pairs]:
        want[a], want[b] = values[b], values[a]
    np.testing.assert_array_equal(out, want)
    assert (want != values).sum() == 2 * pairs


def test_an_upload_is_listed_without_gaps():
    live = np.random.default_rng(2).random(ITEMS) < 0.3
    values = jnp.arange(ITEMS, dtype=jnp.float32)[:, None] / ITEMS
    upload = rows.RowsUpdate(values, None, jnp.asarray(live), None, ITEMS)
    items, labels, count = fast(lambda u: soft_labels.listed(u, 40))(upload)
    assert count == live.sum()
    np.testing.assert_array_equal(items[:count], np.flatnonzero(live))
    np.testing.assert_array_equal(labels[:count], np.asarray(values)[live, 0])


@pytest.mark.parametrize("frequent", [0, 3, 8])
def test_the_server_answers_with_what_it_knows_and_what_is_hard(frequent):
    rng = np.random.default_rng(3)
    scores, updates = rng.normal(size=ITEMS).astype(np.float32), rng.permutation(ITEMS)
    uploaded = rng.random(ITEMS) < 0.4
    answer = fast(lambda *of_items: soft_labels.answers(*of_items, 8, frequent))
    told, message = answer(scores, uploaded, updates)
    rest = list(np.flatnonzero(~uploaded))
    known = sorted(rest, key=lambda i: -updates[i])[:frequent]
    hard = sorted(set(rest) - set(known), key=lambda i: -scores[i])[: 8 - frequent]
    want = np.sort(known + hard)
    np.testing.assert_array_equal(told["items"], want)
    np.testing.assert_allclose(told["labels"], 1 / (1 + np.exp(-scores[want])), rtol=1e-5)
    assert wire.nbytes(Packet(message)) == len(wire.to_bytes(Packet(message)))
    # Of a client that uploaded nearly all, there is less to say.
    uploaded[3:] = True
    told, message = answer(scores, uploaded, updates)
    left = np.flatnonzero(~uploaded)
    assert set(np.asarray(told["items"]).tolist()) == {*left.tolist(), ITEMS}
    assert wire.nbytes(Packet(message)) == len(wire.to_bytes(Packet(message)))


def test_a_lesson_is_the_clients_examples_and_what_it_is_told_of_others(ds):
    ids, examples = jnp.int32([0, 6, EMPTY]), data.pointwise(2)
    mine = positives(ds, 0)
    others = np.setdiff1d(np.arange(ITEMS), mine)
    items = np.full((3, 5), ITEMS, np.int32)
    items[0] = [others[3], mine[1], others[9], ITEMS, ITEMS]
    labels = np.linspace(0.1, 0.9, 15, dtype=np.float32).reshape(3, 5)
    told = {"items": jnp.asarray(items), "labels": jnp.asarray(labels)}
    taken = ds.store.take(ids)
    prepare = fast(partial(soft_labels.lessons, examples, ITEMS))
    lesson, positive = prepare(taken, told)
    np.testing.assert_array_equal(np.flatnonzero(positive[0]), np.sort(mine))
    own = 3 * np.asarray(taken.length)
    length = own + np.array([2, 0, 0])
    np.testing.assert_array_equal(lesson.length, length)
    assert lesson.longest == length.max()
    first = replace(
        lesson, items=lesson.items[0], labels=lesson.labels[0], length=lesson.length[0],
        own=replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0]),
    )  # fmt: skip
    batches, seed = soft_labels.taught(examples, 5), jnp.uint32([3, 4])
    numbers = jnp.arange(own[0] + 2, dtype=jnp.uint32)
    batch = fast(batches.draw)(seed, first, numbers)
    plain = fast(examples.draw)(seed, first.own, numbers[: own[0]])
    for name, soft in (("items", [others[3], others[9]]), ("labels", labels[0, [0, 2]])):
        np.testing.assert_array_equal(batch[name], [*np.asarray(plain[name]), *soft])


def counting() -> Model:
    """A loss that is linear, so that a descent of any order ends in the same place."""

    def init(key, common=None):
        return {"item": rows.Table(jnp.zeros((ITEMS, 1)))}, {"user": jnp.zeros(1)}

    def loss(shared, private, batch, key):
        each = batch["labels"] * (shared["item"][batch["items"]][:, 0] + 2 * private["user"][0])
        return models.masked_mean(each, batch["mask"])

    score = lambda shared, private, items, user: shared["item"][items][:, 0]
    return Model(init, loss, Ranking.of(score))


def test_the_server_learns_from_all_that_it_hears():
    """Every (user, item, prediction) once an epoch, whatever the order and the gaps."""
    rng = np.random.default_rng(5)
    ids, counts = jnp.int32([1, 3, 4, 9]), jnp.int32([6, 0, 9, 3])
    items, labels = rng.integers(0, ITEMS, (4, 10)), rng.random((4, 10)).astype(np.float32)
    held = {"shared": counting().init(KEY)[0], "private": {"user": jnp.zeros((10, 1))}}
    batch, rate, epochs = 6, 0.5, 2  # 18 triples: three whole batches
    tx = optax.sgd(rate)
    fit = fast(partial(soft_labels.learned, counting(), tx, epochs, batch))
    heard = ids, jnp.asarray(items, jnp.int32), jnp.asarray(labels), counts
    after, _, loss = fit(KEY, held, tx.init(held), heard)
    table, users = np.zeros((ITEMS, 1)), np.zeros((10, 1))
    for k, id in enumerate(np.asarray(ids)):
        for j in range(int(counts[k])):
            table[items[k, j]] -= epochs * rate * labels[k, j] / batch
            users[id] -= epochs * rate * 2 * labels[k, j] / batch
    np.testing.assert_allclose(after["shared"]["item"].values, table, atol=1e-5)
    np.testing.assert_allclose(after["private"]["user"], users, atol=1e-5)
    assert np.isfinite(loss) and loss < 0
    none, _, loss = fit(KEY, held, tx.init(held), (*heard[:3], jnp.zeros(4, jnp.int32)))
    assert loss == 0 and not any(x.any() for x in leaves(none))


@pytest.mark.slow
def test_in_the_first_round_each_client_trains_alone(ds, step, begun):
    """As `local_training` without a server: nobody has been told anything."""
    after, info = run(step, begun, ds)
    model = models.fedmf(ITEMS, width=4)
    alone = clients.local_training(model, data.pointwise(2), RATE, 2, batch_size=16)
    update = fast(alone.update)
    stream = keys.stream(jax.random.fold_in(KEY, 0), "clients")
    for k in (0, 6, 11):
        one = lambda tree, k=k: jax.tree.map(lambda x: x[k], tree)
        taken = ds.store.take(jnp.int32([k]))
        mine = replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
        key = jax.random.split(jax.random.fold_in(stream, k))[0]
        shared, private = one(begun.private["shared"]), one(begun.private["private"])
        private, upload = update(key, private, shared, mine, FIRST)
        change = rows.to_dense(upload.update["item"].delta())
        item = after.private["shared"]["item"].values[k]
        np.testing.assert_allclose(item, shared["item"].values + change, atol=1e-5)
        np.testing.assert_allclose(after.private["private"]["user"][k], private["user"], atol=1e-5)
        np.testing.assert_allclose(info.metrics["loss"][k], upload.metrics["loss"], rtol=1e-4)


def test_bytes_are_those_of_the_messages(ds, step, begun):
    strategy = recipe()
    state = run(step, begun, ds)[0]
    ids = jnp.int32([0, 6, 11])
    send = fast(strategy.packets)
    packets, ledger = send(KEY, state, Cohort(ids, ds.store))
    after, info = run(step, state, ds)
    for i, k in enumerate(ids):
        packet = jax.tree.map(lambda x, i=i: x[i], packets)
        sent = wire.to_bytes(packet)
        assert len(sent) == ledger[i] == info.bytes_up[k]
        said = wire.from_bytes(sent, packet).body
        # Between the smallest and the largest share of positives and negatives.
        assert 2 <= len(said.ids) <= 3 * len(positives(ds, k)) + 7
        assert ((said.values > 0) & (said.values < 1)).all()
        told = jax.tree.map(lambda x, k=k: x[k], after.private["told"])
        assert not set(np.asarray(told["items"]).tolist()) & set(said.ids.tolist())
        live = told["items"] < ITEMS
        message = rows.RowsUpdate(told["labels"][:, None], told["items"], live, None, ITEMS)
        assert info.bytes_down[k] == len(wire.to_bytes(Packet(message)))
    assert info.bytes_up[EMPTY] == info.bytes_down[EMPTY] == 0


def test_others_are_not_touched(ds, step, begun):
    start = run(step, begun, ds)[0]
    ids = [2, 9, EMPTY, 13]
    after, info = run(step, start, ds, ids=ids)
    others = np.setdiff1d(np.arange(USERS), [2, 9, 13])
    for x, y in zip(leaves(start.private), leaves(after.private), strict=True):
        np.testing.assert_array_equal(x[others], y[others])
    before, now = (np.asarray(s.private["shared"]["item"].values) for s in (start, after))
    assert sorted(np.flatnonzero((before != now).any((1, 2)))) == [2, 9, 13]
    for seen in (info.weight, info.bytes_up, info.bytes_down, info.metrics["server_loss"]):
        np.testing.assert_array_equal(np.flatnonzero(seen), [0, 1, 3])


def test_chunks_order_and_padding_change_nothing(ds, step, begun):
    ids = np.array([3, 1, 14, 8, EMPTY, 0, 6, 11])
    padded = np.array([USERS, 8, 0, 14, USERS, 11, EMPTY, 1, 3, 6])
    other_step, cohort = fast(recipe(7).round), Cohort(jnp.int32(ids), ds.store)
    a = other_step(KEY, begun, cohort)[0]
    a, info = other_step(KEY, a, cohort)
    b, other = run(step, begun, ds, 2, padded)
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    place = [list(padded).index(i) for i in ids]
    np.testing.assert_array_equal(info.bytes_up, np.asarray(other.bytes_up)[place])
    np.testing.assert_array_equal(info.bytes_down, np.asarray(other.bytes_down)[place])
    assert not np.delete(np.asarray(other.bytes_up), place).any()


def area(score, ds) -> float:
    """How likely the held-out item is above one that the user never met. score: float[N, I]."""
    won = []
    held_out = np.asarray(ds.test.targets)[:, 0]
    for k, target in zip(np.asarray(ds.test.clients), held_out, strict=True):
        rest = np.delete(score[k], [target, *positives(ds, k)])
        won.append((score[k][target] > rest).mean())
    return float(np.mean(won))


def test_both_sides_learn_resume_and_trace_once():
    """The server ranks what a user will choose far above chance, from predictions alone, and so
    does a client, from its own few items and what it is told."""
    found = data.synthetic(80, ITEMS, 3, 12, popularity=0.5, affinity=3.0)
    ds = data.pack(data.leave_one_out()(found), evaluation_negatives=0)
    model, server = models.fedmf(ITEMS, width=4), models.fedmf(ITEMS, width=5)
    # Here clients train on whole tables, elsewhere on the rows that they touch.
    examples = data.pointwise(4)
    assert 5 * ds.store.longest + 20 >= ITEMS
    strategy = recipe(
        16, optimizer=clients.sgd(3.0), server_model=server, sent=20, examples=examples
    )
    traces = []

    def counted(key, state, cohort):
        traces.append(1)
        return strategy.round(key, state, cohort)

    step, ids = fast(counted), jnp.arange(80)
    state, first = run(step, begin(strategy, 80), ds, 1, ids)
    half = jax.device_get(run(step, state, ds, 5, ids)[0])
    state, last = run(step, half, ds, 5, ids)
    assert len(traces) == 1
    again = run(step, half, ds, 5, ids)[0]
    for x, y in zip(leaves(again), leaves(state), strict=True):
        np.testing.assert_array_equal(x, y)
    for name in ("loss", "server_loss"):
        assert last.metrics[name].mean() < first.metrics[name].mean() - 0.1
    score = lambda by: np.asarray(
        jax.vmap(lambda p: by.score(state.shared, p, slice(None)))(state.private)
    )
    assert area(score(by_client(model)), ds) > 0.62
    assert area(score(by_server(server)), ds) > 0.7


def test_a_probe_looks_at_the_clients_model(ds, begun):
    """With the client's own data; what it says is a metric of the client."""
    model, seen = models.fedmf(ITEMS, width=4), []

    def probe(scorer, mine):
        seen.append((mine.id.shape, mine.length.shape))
        return {"best": scorer()(slice(None)).max()}

    strategy = ptf_fedrec(
        model, data.pointwise(2), probe, server_model=models.gmf(ITEMS, width=5), sent=7,
        optimizer=RATE, server_optimizer=optax.adam(0.02),
    )  # fmt: skip
    cohort = Cohort(jnp.arange(USERS), ds.store)
    _, info = jax.eval_shape(strategy.round, KEY, begun, cohort)
    assert info.metrics["best"].shape == (USERS,) and set(seen) == {((), ())}


def test_either_side_scores(ds, step, begun):
    state, items = run(step, begun, ds)[0], jnp.int32([4, 7])
    mine = jax.tree.map(lambda x: x[6], state.private)
    want = mine["shared"]["item"].values[items] @ mine["private"]["user"][0]
    np.testing.assert_allclose(recipe().model.score(state.shared, mine, items, 0), want, rtol=1e-5)
    server = state.shared["server"]
    his = jax.tree.map(lambda x: x[6], server["private"])
    want = models.gmf(ITEMS, width=5).score(server["shared"], his, items, 0)
    got = recipe(scored_by="server").model.score(state.shared, mine, items, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"swap": 1.2}, r"ptf_fedrec\(swap=1.2\) is no fraction"),
        ({"beta": (0.2, 1.4)}, r"ptf_fedrec\(beta=1.4\) is no fraction"),
        ({"gamma": (3.0, 1.0)}, r"ptf_fedrec\(gamma=\(3.0, 1.0\)\) bounds nothing"),
        ({"sent": 0}, r"ptf_fedrec\(sent=0\) is too small"),
        ({"sent": 61}, r"ptf_fedrec\(sent=61\) of 60 items"),
        ({"server_epochs": 0}, r"ptf_fedrec\(server_epochs=0\) is too small"),
        ({"scored_by": "sever"}, r"did you mean 'server'"),
        ({"examples": data.pairwise()}, r"needs single items; use data.pointwise"),
        ({"server_model": models.fedmf(7)}, r"tables of \[7\] rows for 60 items"),
    ],
)
def test_bad_arguments(wrong, message):
    with pytest.raises(ValueError, match=message):
        recipe(**wrong)


def test_clients_of_several_users_and_too_many_models_are_refused(ds, begun, monkeypatch):
    store = replace(ds.store, owners=ds.store.items, users=ds.store.items)
    with pytest.raises(ValueError, match="make each user a client"):
        jax.eval_shape(recipe().round, KEY, begun, Cohort(jnp.arange(USERS), store))
    monkeypatch.setattr(memory, "device_bytes", lambda: 10_000)
    with pytest.raises(MemoryError, match=r"models of 15 clients .* use fewer clients"):
        recipe().init(KEY, USERS)
