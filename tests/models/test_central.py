"""Central fits against NumPy, written from the definitions and in float64; and the strategy that
plays them: what it reads, whom it leaves alone and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, strategies
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.strategies.central import histories
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

CLIENTS, MEMBERS, ITEMS, WIDTH = 6, 4, 15, 3
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def history():
    """float32[N, M, I]: the last client has one user, and nobody met the last item."""
    draw = np.random.default_rng(0).random((CLIENTS, MEMBERS, ITEMS))
    met = draw < np.linspace(0.7, 0.1, ITEMS)
    met[:, :, 0] = True
    met[-1, 1:] = False
    met[:, :, -1] = False
    return met.astype(np.float32)


def flat(history) -> np.ndarray:
    return history.reshape(-1, ITEMS).astype(np.float64)


def users_of(x) -> int:
    return int((x.sum(1) > 0).sum())


def solved(fit, model, history):
    """(shared, private, loss) of `fit` from the start of `model`."""
    return once(fit, history, *start(model))


def once(fit, history, shared, private):
    """The same from these parameters, of a fit that keeps nothing."""
    client, member, item = np.nonzero(history)
    row = client * history.shape[1] + member
    here = np.ones(row.shape, bool)
    met = models.Histories(row, row, item, here, None, *history.shape)
    return jax.jit(fit.solve)(KEY, fit.init(shared, private), met, shared, private)[1]


def start(model):
    state = strategies.central(model, fit=models.popularity()).init(KEY, CLIENTS)
    return state.shared, state.private


def weights_model():
    return models.item_weights(ITEMS, MEMBERS)


def test_popularity_counts_users(history):
    shared, private, loss = solved(models.popularity(), models.item_scores(ITEMS), history)
    x = flat(history)
    counted = [sum(row[i] for row in x) / users_of(x) for i in range(ITEMS)]
    np.testing.assert_allclose(shared["item"].values[:, 0], counted, rtol=1e-6)
    assert jax.tree.leaves(private) == []
    real = x[x.sum(1) > 0]
    np.testing.assert_allclose(loss, ((real - counted) ** 2).sum() / len(real), rtol=1e-5)
    score = models.item_scores(ITEMS).score(shared, {}, jnp.int32([4, 0]), 0)
    np.testing.assert_allclose(score, [counted[4], counted[0]], rtol=1e-6)


@pytest.mark.parametrize("l2", [0.5, 20.0])
def test_ease_is_a_ridge_regression_of_each_item_on_the_others(history, l2):
    shared, private, loss = solved(models.ease(l2), weights_model(), history)
    x = flat(history)
    expected, least = np.zeros((ITEMS, ITEMS)), 0.0
    for j in range(ITEMS):
        others = np.delete(np.arange(ITEMS), j)
        stacked = np.concatenate([x[:, others], np.sqrt(l2) * np.eye(ITEMS - 1)])
        aim = np.concatenate([x[:, j], np.zeros(ITEMS - 1)])
        expected[j, others], *_ = np.linalg.lstsq(stacked, aim)
        least += ((aim - stacked @ expected[j, others]) ** 2).sum()
    np.testing.assert_allclose(shared["weights"], expected, atol=2e-5)
    assert not np.diag(shared["weights"]).any()
    np.testing.assert_array_equal(private["history"], history > 0)
    np.testing.assert_allclose(loss, least / users_of(x), rtol=1e-4)


@pytest.mark.parametrize(("neighbours", "shrinkage"), [(3, 0.0), (3, 2.5), (100, 1.0)])
def test_item_knn_keeps_the_most_similar_of_each_item(history, neighbours, shrinkage):
    fit = models.item_knn(neighbours, shrinkage)
    shared, private, loss = solved(fit, weights_model(), history)
    x = flat(history)
    expected = np.zeros((ITEMS, ITEMS))
    for i in range(ITEMS):
        similar = []
        for j in range(ITEMS):
            both = sum(row[i] * row[j] for row in x)
            below = np.sqrt(x[:, i].sum()) * np.sqrt(x[:, j].sum()) + shrinkage
            similar.append(both / below if i != j and below > 0 else 0.0)
        for j in sorted(range(ITEMS), key=lambda j: (-similar[j], j))[:neighbours]:
            expected[i, j] = similar[j]
    np.testing.assert_allclose(shared["weights"], expected, atol=1e-6)
    assert ((np.asarray(shared["weights"]) > 0).sum(1) <= neighbours).all()
    np.testing.assert_array_equal(private["history"], history > 0)
    np.testing.assert_allclose(loss, ((x - x @ expected.T) ** 2).sum() / users_of(x), rtol=1e-4)


def test_scores_sum_the_weights_of_the_history(history):
    model = weights_model()
    shared, private, _ = solved(models.ease(5.0), model, history)
    w = np.asarray(shared["weights"], np.float64)
    mine = jax.tree.map(lambda x: x[2], private)
    for items in (slice(None), jnp.int32([7, 1, 7])):
        expected = [sum(w[i, j] for j in range(ITEMS) if history[2, 1, j]) for i in range(ITEMS)]
        got = model.score(shared, mine, items, 1)
        np.testing.assert_allclose(got, np.asarray(expected)[items], atol=1e-5)


def objective(x, p, q, a, r, v):
    """iALS's L, term by term."""
    total = 0.0
    for u in range(len(p)):
        for i in range(len(q)):
            total += x[u, i] * (p[u] @ q[i] - 1) ** 2 + a * (p[u] @ q[i]) ** 2
    users = users_of(x)
    total += r * sum((x[u].sum() + a * len(q)) ** v * p[u] @ p[u] for u in range(len(p)))
    return total + r * sum((x[:, i].sum() + a * users) ** v * q[i] @ q[i] for i in range(len(q)))


@pytest.mark.parametrize(("a", "r", "v"), [(0.1, 0.01, 1.0), (0.5, 0.2, 0.0)])
def test_ials_alternates_least_squares(history, a, r, v):
    model = models.fedmf(ITEMS, MEMBERS, width=WIDTH, scale=0.3)
    shared, private = start(model)
    x = flat(history)
    q = np.asarray(shared["item"].values, np.float64)
    p = np.asarray(private["user"], np.float64).reshape(-1, WIDTH)
    p[x.sum(1) == 0] = 0
    fit, losses = models.ials(a, r, v), []
    for _ in range(3):
        for i in range(ITEMS):
            system = a * p.T @ p + r * (x[:, i].sum() + a * users_of(x)) ** v * np.eye(WIDTH)
            aim = np.zeros(WIDTH)
            for u in np.flatnonzero(x[:, i]):
                system, aim = system + np.outer(p[u], p[u]), aim + p[u]
            q[i] = np.linalg.solve(system, aim)
        for u in range(len(x)):
            system = a * q.T @ q + r * (x[u].sum() + a * ITEMS) ** v * np.eye(WIDTH)
            aim = np.zeros(WIDTH)
            for i in np.flatnonzero(x[u]):
                system, aim = system + np.outer(q[i], q[i]), aim + q[i]
            p[u] = np.linalg.solve(system, aim)
        shared, private, loss = once(fit, history, shared, private)
        losses.append(float(loss))
        np.testing.assert_allclose(loss, objective(x, p, q, a, r, v) / users_of(x), rtol=1e-4)
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]
    np.testing.assert_allclose(shared["item"].values, q, atol=1e-4)
    np.testing.assert_allclose(private["user"].reshape(-1, WIDTH), p, atol=1e-4)
    at_once = solved(models.ials(a, r, v, sweeps=3), model, history)
    np.testing.assert_allclose(at_once[0]["item"].values, shared["item"].values, atol=1e-5)


FILLED = {
    "popularity": (models.popularity, lambda m: models.item_scores(ITEMS)),
    "item_knn": (models.item_knn, lambda m: models.item_weights(ITEMS, m)),
    "ease": (models.ease, lambda m: models.item_weights(ITEMS, m)),
    "ials": (models.ials, lambda m: models.fedmf(ITEMS, m, width=WIDTH)),
}


def packed(clients: int | None = None):
    """(split, its pack) of 20 users with 5 to 9 items, repeated pairs among them, and ratings."""
    rng = np.random.default_rng(4)
    count = 5 + np.arange(20) % 5
    users = np.repeat(np.arange(20), count).astype(np.int32)
    items = rng.integers(0, ITEMS, len(users)).astype(np.int32)
    part = np.full(len(users), TRAIN, np.int8)
    part[np.cumsum(count) - 1] = TEST
    names = np.arange(20).astype(str), np.arange(ITEMS).astype(str)
    ratings = rng.integers(1, 6, len(users)).astype(np.float32)
    split = Split(
        Interactions(
            "drawn", users, items, np.arange(len(users), dtype=np.float64), ratings, *names
        ),
        part,
    )
    partition = data.by_hash(clients)(split) if clients else None
    return split, data.pack(split, partition, evaluation_negatives=0)


@pytest.mark.parametrize("clients", [None, 1, 3])
def test_histories_are_the_training_interactions(clients):
    split, dataset = packed(clients)
    seen = np.asarray(histories(dataset.store).dense())
    train = split.part == TRAIN
    users, items = split.interactions.users[train], split.interactions.items[train]
    for user, client, member in places(dataset):
        met = np.unique(items[users == user])
        np.testing.assert_array_equal(np.flatnonzero(seen[client, member]), met)
    assert seen.sum() == len(set(zip(users, items, strict=True)))


def places(dataset):
    """(user, client, member) of every user."""
    cases = dataset.test
    return zip(*(np.asarray(x) for x in (cases.users, cases.clients, cases.members)), strict=True)


def begun(strategy, dataset, model):
    """The start, with users' vectors that do not depend on who holds them."""
    state = strategy.init(KEY, dataset.num_clients)
    return replace(state, private=jax.tree.map(jnp.ones_like, state.private))


def scores(model, state, dataset) -> np.ndarray:
    """float32[U, I]"""
    of = lambda client: jax.tree.map(lambda x: x[client], state.private)
    return np.stack(
        [
            model.score(state.shared, of(client), slice(None), member)
            for _, client, member in places(dataset)
        ]
    )


@pytest.mark.parametrize("name", FILLED)
def test_it_does_not_matter_who_holds_the_users(name):
    """One client a user, or all users in one: the same scores, and nothing is sent."""
    make, model_of = FILLED[name]
    found = []
    for clients in (None, 1):
        _, dataset = packed(clients)
        model = model_of(dataset.members)
        strategy = strategies.central(model, fit=make())
        cohort = Cohort(jnp.arange(dataset.num_clients), dataset.store)
        start = begun(strategy, dataset, model)
        state, info = jax.jit(strategy.round)(KEY, start, cohort)
        assert int(state.round) == 1 and float(info.weight.sum()) == dataset.activity.sum()
        assert not np.asarray(info.bytes_up).any() and not np.asarray(info.bytes_down).any()
        found.append(scores(model, state, dataset))
    assert np.ptp(found[0]) > 0
    np.testing.assert_allclose(*found, atol=1e-5)


@pytest.mark.parametrize("name", FILLED)
def test_who_is_not_in_the_cohort_counts_for_nothing_and_keeps_what_he_had(name):
    make, model_of = FILLED[name]
    _, dataset = packed()
    model = model_of(1)
    strategy = strategies.central(model, fit=make())
    there = np.array([7, 2, 11, 20, 5], np.int32)  # 20 is no client
    start = begun(strategy, dataset, model)
    state, info = jax.jit(strategy.round)(KEY, start, Cohort(jnp.asarray(there), dataset.store))
    of_them = histories(dataset.store).dense()[there[there < 20]]
    mine = jax.tree.map(lambda x: x[there[there < 20]], start.private)
    shared, private, loss = once(make(), np.asarray(of_them), start.shared, mine)
    for got, wanted in zip(*map(jax.tree.leaves, (state.shared, shared)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    after = jax.tree.map(lambda x: x[there[there < 20]], state.private)
    for got, wanted in zip(*map(jax.tree.leaves, (after, private)), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    others = np.setdiff1d(np.arange(20), there)
    for got, before in zip(*map(jax.tree.leaves, (state.private, start.private)), strict=True):
        np.testing.assert_array_equal(got[others], before[others])
    assert info.metrics["loss"][3] == 0 == info.weight[3]
    np.testing.assert_allclose(info.metrics["loss"][0], loss, rtol=1e-5)


def one_round(strategy, dataset):
    like = jax.eval_shape(lambda: strategy.init(KEY, dataset.num_clients))
    cohort = Cohort(jnp.arange(dataset.num_clients), dataset.store)
    return jax.eval_shape(strategy.round, KEY, like, cohort)


@pytest.mark.parametrize(
    ("fit", "model", "message"),
    [
        (models.ease, models.fedmf, r"fills shared\['weights'\] \[15, 15\], .*; use the model"),
        (models.popularity, models.fedmf, r"the model holds shared\['item'\]\S* \[15, 32\]"),
        (models.popularity, models.item_weights, "and the model holds shared"),
        (models.item_knn, models.item_scores, "central.* and the model holds shared"),
        (models.ials, models.item_weights, r"not \['history', 'weights'\]; use model fedmf"),
        (models.ials, models.item_scores, r"not \['item'\]; use model fedmf"),
    ],
)
def test_a_fit_of_another_model_is_refused_in_one_line(fit, model, message):
    _, dataset = packed()
    with pytest.raises(ValueError, match=message) as caught:
        one_round(strategies.central(model(ITEMS), fit=fit()), dataset)
    assert "\n" not in str(caught.value)


def test_labelled_examples_are_no_histories():
    clicks = data.pack_examples(data.clicks(6, 10, 50, sparse=3, dense=2))
    strategy = strategies.central(models.item_scores(50), fit=models.popularity())
    with pytest.raises(ValueError, match=r"of which ExampleStore has none; use a data\.source"):
        one_round(strategy, clicks)


def test_item_weights_are_not_trained_by_steps():
    _, dataset = packed()
    trained = strategies.fedavg(models.item_weights(ITEMS), data.pointwise(2))
    with pytest.raises(ValueError, match="no loss of a batch; use the strategy central"):
        one_round(trained, dataset)


def test_histories_of_all_clients_must_fit():
    strategy = strategies.central(models.item_weights(1000), fit=models.ease())
    with strategies.memory_budget("1MiB"), pytest.raises(MemoryError, match="private state of"):
        strategy.init(KEY, 2000)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: models.ease(0.0), r"ease\(l2=0.0\) must be positive"),
        (lambda: models.item_knn(0), r"item_knn\(neighbours=0\) is too small"),
        (lambda: models.item_knn(5, -1.0), r"item_knn\(shrinkage=-1.0\) is too small"),
        (lambda: models.ials(0.0), r"ials\(unobserved_weight=0.0\) must be positive"),
        (lambda: models.ials(regularization=-1.0), r"ials\(regularization=-1.0\) must be"),
        (lambda: models.ials(exponent=-0.5), r"ials\(exponent=-0.5\) is too small"),
        (lambda: models.ials(sweeps=0), r"ials\(sweeps=0\) is too small"),
    ],
)
def test_numbers_that_make_no_sense(make, message):
    with pytest.raises(ValueError, match=message):
        make()
