"""Losses that guard against attackers, against NumPy; and the server that finds popular items."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, rows, simulate, strategies
from fedjax_rec.models.contrastive import drawn, task
from fedjax_rec.trees import Frozen

ITEMS, WIDTH, POPULAR = 30, 4, 3


def batch_of(items, labels, mask):
    return {
        "items": jnp.int32(items), "labels": jnp.float32(labels), "mask": jnp.float32(mask)
    }  # fmt: skip


BATCH = batch_of([3, 9, 4, 9, 12, 5, 0], [1, 1, 0, 0, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0])


def model_of(**numbers):
    return models.with_popular(models.fedmf(ITEMS, width=WIDTH, scale=0.5), POPULAR, **numbers)


def known(shared, ids):
    """`shared` in which the items `ids` are popular."""
    table = shared["model"]["item"].values
    popular = Frozen({"ids": jnp.int32(ids), "rows": table[jnp.int32(ids)]})
    return {**shared, "popular": popular}


def terms(table, user, ids):
    """(alignment, separation) of BATCH in NumPy."""
    items, real = np.asarray(BATCH["items"]), np.asarray(BATCH["mask"]) > 0
    others = [i for i in items[real] if i not in ids]
    soft = lambda x: np.exp(x) / np.exp(x).sum()
    alike = unlike = 0.0
    for rank, p in enumerate(ids):
        weight = (len(ids) - rank) ** 2 / sum((r + 1) ** 2 for r in range(len(ids)))
        cosine = [
            table[p] @ table[i] / np.linalg.norm(table[p]) / np.linalg.norm(table[i])
            for i in others
        ]
        alike += weight * np.mean(cosine)
        divergence = soft(user) * (np.log(soft(user)) - np.log(soft(table[p])))
        unlike += weight * divergence.mean()
    return alike, unlike


@pytest.mark.parametrize(("alignment", "separation"), [(0.0, 0.0), (0.7, 0.0), (0.0, 2.0)])
def test_the_loss_has_both_terms_of_pieck(alignment, separation):
    model = model_of(alignment=alignment, separation=separation)
    shared, private = model.init(jax.random.key(1))
    ids = [9, 20, 4]
    key = jax.random.key(2)
    plain = models.fedmf(ITEMS, width=WIDTH, scale=0.5).loss(shared["model"], private, BATCH, key)
    np.testing.assert_allclose(model.loss(shared, private, BATCH, key), plain, rtol=1e-6)
    got = model.loss(known(shared, ids), private, BATCH, key)
    table, user = np.asarray(shared["model"]["item"].values), np.asarray(private["user"])[0]
    alike, unlike = terms(table, user, ids)
    np.testing.assert_allclose(plain - got, alignment * alike + separation * unlike, rtol=1e-4)
    assert abs(alike) > 0.01 and unlike > 0.001


def test_a_batch_of_padding_and_rows_of_zero_have_finite_slopes():
    model = model_of()
    shared, private = model.init(jax.random.key(1))
    shared = known(jax.tree.map(jnp.zeros_like, shared), [0, 1, 2])
    nothing = {**BATCH, "mask": jnp.zeros(7)}
    for batch in (BATCH, nothing):
        slope = jax.grad(lambda p, b=batch: model.loss(shared, p, b, jax.random.key(0)))(private)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(slope))


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_server_finds_the_items_that_moved_furthest(rounds):
    """After `rounds` rounds, from where they began; they stay so, and their rows are followed."""
    model, server = model_of(), strategies.mining(strategies.step(1.0), rounds)
    shared, _ = model.init(jax.random.key(1))
    state, draw = server.init(shared), np.random.default_rng(0)
    first = np.asarray(shared["model"]["item"].values)
    for turn in range(4):
        values = jnp.float32(draw.normal(size=(ITEMS, WIDTH)))
        item = rows.RowsUpdate(values, None, jnp.ones(ITEMS, bool), None, ITEMS)
        update = {"model": {"item": item}, "popular": Frozen(None)}
        state, shared = jax.jit(server.apply)(state, shared, update)
        now = np.asarray(shared["model"]["item"].values)
        if turn + 1 == rounds:
            wanted = np.argsort(-np.linalg.norm(now - first, axis=1))[:POPULAR]
        told = shared["popular"].value
        if turn + 1 < rounds:
            assert (np.asarray(told["ids"]) == ITEMS).all() and not np.asarray(told["rows"]).any()
        else:
            assert told["ids"].tolist() == wanted.tolist()
            np.testing.assert_array_equal(told["rows"], now[wanted])


def test_the_contrastive_task_is_its_formula():
    """On the draws that it makes: positives of the client, and K items that it does not have."""
    table, key = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)), jax.random.key(5)
    items, labels = np.asarray(BATCH["items"]), np.asarray(BATCH["labels"])
    real = np.asarray(BATCH["mask"]) > 0
    got = task(key, jnp.float32(table), BATCH, 2)
    of_like, of_unlike = jax.random.split(key)
    like = np.asarray(drawn(of_like, jnp.asarray(real & (labels > 0)), (7, 1)))[:, 0]
    unlike = np.asarray(drawn(of_unlike, jnp.asarray(real & (labels <= 0)), (7, 2)))
    assert {int(x) for x in like} <= {0, 1, 4} and {int(x) for x in unlike.flat} <= {2, 3, 5}
    costs = []
    for i in (0, 1, 4):
        if like[i] != i:
            near, *far = (table[items[i]] @ table[items[j]] for j in (like[i], *unlike[i]))
            costs.append(-np.log(np.exp(near) / (np.exp(near) + np.exp(far).sum())))
    np.testing.assert_allclose(got, np.mean(costs), rtol=1e-5)
    assert len(costs) >= 1
    alone = batch_of([3, 9], [1, 0], [1, 1])  # one item of the client
    assert float(task(key, jnp.float32(table), alone, 2)) == 0


def test_clients_of_kept_apart_tell_their_items_from_others():
    """By how much more alike the items of a client are than they are to those it does not have."""
    found = data.synthetic(num_users=20, num_items=40, interactions_per_user=12)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    start, length, items = (np.asarray(x) for x in (store.start, store.length, store.items))
    told = {}
    for weight in (0.0, 3.0):
        strategy = strategies.kept_apart(
            models.fedmf(40, width=4, scale=0.3), data.pointwise(2), weight=weight, negatives=4
        )
        *_, last = simulate.simulate(strategy, store, 5, jax.random.key(0))
        q = np.asarray(last.state.shared["item"].values)
        margins = []
        for begin, many in zip(start, length, strict=True):
            mine = np.isin(np.arange(40), items[begin : begin + many])
            alike = q @ q.T - np.diag((q**2).sum(1))
            near = alike[np.ix_(mine, mine)].sum() / (mine.sum() * (mine.sum() - 1))
            margins.append(near - alike[np.ix_(mine, ~mine)].mean())
        told[weight] = np.mean(margins)
    assert told[3.0] > told[0.0] + 0.01


def test_what_cannot_be_guarded_is_refused():
    with pytest.raises(ValueError, match=r"^with_popular\(popular=31\) is more than the 30 items"):
        models.with_popular(models.fedmf(ITEMS), 31).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^with_popular\(model\) takes users away from items"):
        models.with_popular(models.pfedrec(ITEMS, width=4), 3).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^a regularised model reads one table"):
        models.with_popular(models.logistic(2), 3).init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^mining\(server\) has nowhere to put popular items"):
        shared, _ = models.fedmf(ITEMS).init(jax.random.key(0))
        strategies.mining().init(shared)
