"""LightGCN against dense matrices in NumPy, in float64: propagation, the gradient of BPR at layer 0
written from its definition, Adam, and a whole fit; and what a fit draws, keeps and refuses."""

import sys
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import data, models, strategies
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.models.central.lightgcn import _batches, _descent, _propagation
from fedjax_rec.strategies.central import histories
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

USERS, ITEMS, WIDTH, LAYERS, L2, BATCH, RATE = 20, 15, 4, 3, 0.05, 32, 0.03
KEY = jax.random.key(3)


def packed(clients: int | None = None):
    """20 users with 5 to 9 items, repeated pairs among them; nobody met the last item."""
    rng = np.random.default_rng(4)
    count = 5 + np.arange(USERS) % 5
    users = np.repeat(np.arange(USERS), count).astype(np.int32)
    items = rng.integers(0, ITEMS - 1, len(users)).astype(np.int32)
    part = np.full(len(users), TRAIN, np.int8)
    part[np.cumsum(count) - 1] = TEST
    time, names = np.arange(len(users), dtype=np.float64), np.arange(USERS).astype(str)
    found = Interactions("drawn", users, items, time, None, names, np.arange(ITEMS).astype(str))
    split = Split(found, part)
    partition = data.by_hash(clients)(split) if clients else None
    return data.pack(split, partition, evaluation_negatives=0)


@pytest.fixture(scope="module")
def dataset():
    return packed()


def fit(**changes):
    numbers: dict[str, Any] = dict(
        layers=LAYERS, l2=L2, batch_size=BATCH, optimizer=optax.adam(RATE)
    )
    return models.lightgcn(**numbers | changes)


def strategy_of(dataset, **changes):
    model = models.fedmf(ITEMS, dataset.members, width=WIDTH)
    return strategies.central(model, fit=fit(**changes))


def dense_mean(x: np.ndarray, layers: int) -> np.ndarray:
    """float64[U + I, U + I]: the mean of powers of the normalised adjacency of histories [U, I]."""
    users, items = x.shape
    adjacent = np.block([[np.zeros((users, users)), x], [x.T, np.zeros((items, items))]])
    root = np.where(adjacent.sum(1) > 0, adjacent.sum(1), 1.0) ** -0.5
    normal = root[:, None] * adjacent * root
    powers = [np.linalg.matrix_power(normal, layer) for layer in range(layers + 1)]
    return np.mean(powers, axis=0)


def by_hand(e: np.ndarray, mean: np.ndarray, batch: dict, users: int):
    """(loss, gradient) at layer 0, e float64[U + I, D], one example after another."""
    final, count = mean @ e, float(batch["mask"].sum())
    loss, outer, inner = 0.0, np.zeros_like(e), np.zeros_like(e)
    for u, (i, j), real in zip(batch["row"], batch["items"] + users, batch["mask"], strict=True):
        if real:
            apart = final[u] @ (final[i] - final[j])
            loss += np.log1p(np.exp(-apart)) + L2 / 2 * sum(e[k] @ e[k] for k in (u, i, j))
            slope = -1 / (1 + np.exp(apart))
            outer[u] += slope * (final[i] - final[j])
            outer[i] += slope * final[u]
            outer[j] -= slope * final[u]
            for k in (u, i, j):
                inner[k] += L2 * e[k]
    return loss / count, (mean.T @ outer + inner) / count


def parts(store):
    met = jax.jit(histories)(store)
    made = jax.jit(_batches, static_argnums=2)(met, jnp.uint32([5, 9]), BATCH)
    epochs = jax.tree.map(np.asarray, made)
    batches = [jax.tree.map(lambda x, t=t: x[t], epochs) for t in range(len(epochs["mask"]))]
    return met, np.asarray(histories(store).dense()).reshape(-1, ITEMS), batches


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_and_gradient_are_those_of_dense_matrices(dataset, layers):
    met, x, batches = parts(dataset.store)
    mean = dense_mean(x.astype(np.float64), layers)
    e = np.random.default_rng(0).normal(size=(USERS + ITEMS, WIDTH)).astype(np.float32)
    begin = {"user": jnp.asarray(e[:USERS]), "item": jnp.asarray(e[USERS:])}
    propagate = lambda met, tables: _propagation(met, layers)(tables)
    got = jax.jit(propagate)(met, begin)
    np.testing.assert_allclose(np.concatenate([got["user"], got["item"]]), mean @ e, atol=1e-6)
    descent = jax.jit(lambda batch: _descent(begin, _propagation(met, layers), batch, L2))
    for batch in batches:
        loss, gradient = descent(batch)
        expected, slope = by_hand(e.astype(np.float64), mean, batch, USERS)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        got = np.concatenate([gradient["user"], gradient["item"]])
        np.testing.assert_allclose(got, slope, atol=1e-6)
        assert np.abs(slope).max() > 0.01


def test_rounds_are_adam_on_layer_zero(dataset, monkeypatch):
    """Two rounds of two epochs, to 1e-5, with the batches that the fit drew."""
    drawn = []

    def seen(met, seeds, size):
        found = _batches(met, seeds, size)
        jax.debug.callback(lambda b: drawn.append(b), found, ordered=True)
        return found

    monkeypatch.setattr(sys.modules[_batches.__module__], "_batches", seen)
    strategy = strategy_of(dataset, epochs=2)
    state = strategy.init(KEY, USERS)
    e = np.concatenate([state.private["user"][:, 0], state.shared["item"].values]).astype(float)
    first, second = np.zeros_like(e), np.zeros_like(e)
    x = np.asarray(histories(dataset.store).dense())[:, 0].astype(np.float64)
    mean, t, cohort = dense_mean(x, LAYERS), 0, Cohort(jnp.arange(USERS), dataset.store)
    step = jax.jit(strategy.round)
    for _ in range(2):
        drawn.clear()
        state, info = step(KEY, state, cohort)
        jax.effects_barrier()
        losses = []
        for epoch in drawn:
            values = []
            for k in range(len(epoch["mask"])):
                batch = jax.tree.map(lambda z, k=k: np.asarray(z[k]), epoch)
                loss, slope = by_hand(e, mean, batch, USERS)
                values.append((loss, batch["mask"].sum()))
                t += 1
                first = 0.9 * first + 0.1 * slope
                second = 0.999 * second + 0.001 * slope**2
                root = np.sqrt(second / (1 - 0.999**t))
                e = e - RATE * first / (1 - 0.9**t) / (root + 1e-8)
            losses.append(np.average([v for v, _ in values], weights=[n for _, n in values]))
        final = mean @ e
        np.testing.assert_allclose(state.private["user"][:, 0], final[:USERS], atol=1e-5)
        np.testing.assert_allclose(state.shared["item"].values, final[USERS:], atol=1e-5)
        np.testing.assert_allclose(info.metrics["loss"], np.mean(losses), rtol=1e-5)
    assert t == 2 * 2 * len(drawn[0]["mask"]) > 8


def test_an_epoch_has_every_interaction_once_and_no_negative_that_was_met(dataset):
    met, x, batches = parts(dataset.store)
    seen = np.zeros_like(x)
    for batch in batches:
        real = batch["mask"] > 0
        np.add.at(seen, (batch["row"][real], batch["items"][real, 0]), 1)
        assert not x[batch["row"][real], batch["items"][real, 1]].any()
    np.testing.assert_array_equal(seen, x)
    others = _batches(met, jnp.uint32([6, 9]), BATCH)
    assert (others["row"][0] != batches[0]["row"]).any()


def test_it_does_not_matter_who_holds_the_users(dataset):
    scores = []
    for held in (dataset, packed(clients=3)):
        strategy = strategy_of(held)
        state = strategy.init(KEY, held.num_clients)
        begin = jnp.ones_like(state.server["begin"]["user"])
        server = {**state.server, "begin": {**state.server["begin"], "user": begin}}
        cohort = Cohort(jnp.arange(held.num_clients), held.store)
        state, _ = jax.jit(strategy.round)(KEY, replace(state, server=server), cohort)
        cases = held.test
        user = state.private["user"][np.asarray(cases.clients), np.asarray(cases.members)]
        order = np.argsort(np.asarray(cases.users))
        scores.append((user @ state.shared["item"].values.T)[order])
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.fixture(scope="module")
def played(dataset):
    """(a state after a round of everybody, play(state, ids))."""
    strategy = strategy_of(dataset)
    step = jax.jit(strategy.round)

    def play(state, ids):
        ids = np.append(ids, np.full(USERS - len(ids), USERS)).astype(np.int32)
        return step(KEY, state, Cohort(jnp.asarray(ids), dataset.store))

    return play(strategy.init(KEY, USERS), np.arange(USERS))[0], play


def test_who_is_away_counts_for_nothing_and_keeps_what_he_had(dataset, played):
    before, play = played
    there = np.array([7, 2, 11, USERS, 5], np.int32)
    after, _ = play(before, there)
    away = np.setdiff1d(np.arange(USERS), there)
    of_users = lambda state: [
        x for path, x in jax.tree_util.tree_leaves_with_path((state.private, state.server))
        if x.ndim and "user" in jax.tree_util.keystr(path)
    ]  # fmt: skip
    kept = list(zip(of_users(after), of_users(before), strict=True))
    assert len(kept) == 4
    for new, old in kept:
        np.testing.assert_array_equal(new[away], old[away])
        assert (np.asarray(new[there[there < USERS]]) != old[there[there < USERS]]).all()
    met = histories(dataset.store, jnp.zeros(USERS, bool).at[there].set(True, mode="drop"))
    x = np.asarray(met.dense())[:, 0].astype(np.float64)
    begin = np.concatenate([after.server["begin"]["user"], after.server["begin"]["item"]])
    final = (dense_mean(x, LAYERS) @ begin)[USERS:]
    np.testing.assert_allclose(after.shared["item"].values, final, atol=1e-5)


def test_a_round_of_nobody_changes_nothing(played):
    state, play = played
    after, info = play(state, [])
    same = lambda old, new: np.testing.assert_array_equal(old, new)
    jax.tree.map(same, replace(state, round=state.round + 1), after)
    assert not np.asarray(info.weight).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.lightgcn(layers=-1), r"lightgcn\(layers=-1\) is too small"),
        (lambda: models.lightgcn(l2=-0.1), r"lightgcn\(l2=-0.1\) is too small"),
        (lambda: models.lightgcn(batch_size=0), r"lightgcn\(batch_size=0\) is too small"),
        (lambda: models.lightgcn(epochs=0), r"lightgcn\(epochs=0\) is too small"),
    ],
)
def test_numbers_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("model", [models.item_weights, models.item_scores])
def test_another_model_is_refused_in_one_line(model):
    with pytest.raises(ValueError, match="use model fedmf") as caught:
        strategies.central(model(ITEMS), fit=models.lightgcn()).init(KEY, USERS)
    assert "\n" not in str(caught.value) and "lightgcn()" in str(caught.value)
