"""Models over fields of users and items, against NumPy: scores, slopes, rounds, and new items."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate, clients, data, models, simulate, strategies, trees
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.types import Cohort

USERS, ITEMS, WIDTH = 24, 30, 4
OF_USER, OF_ITEM = (2, 3), (4, 1)
RNG = np.random.default_rng(0)
ABOUT = RNG.normal(size=(USERS, 1, 5)).astype(np.float32)
WHAT = RNG.normal(size=(ITEMS, 5)).astype(np.float32)
FEATURES = {
    "user_features": ABOUT, "item_features": WHAT,
    "user_field_sizes": OF_USER, "item_field_sizes": OF_ITEM,
}  # fmt: skip
MADE = {
    "two_tower": lambda **f: models.two_tower(ITEMS, width=WIDTH, scale=0.5, **f),
    "two_tower(deep)": lambda **f: models.two_tower(ITEMS, 1, WIDTH, (6,), 0.5, **f),
    "feature_deepfm": lambda **f: models.feature_deepfm(ITEMS, 1, WIDTH, (6,), 0.5, **f),
    "feature_dcn": lambda **f: models.feature_dcn(ITEMS, 1, WIDTH, 2, 3, (6,), 0.5, **f),
}
pytestmark = pytest.mark.usefixtures("compiled_fast")


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def gelu(x):
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def ordered(layers):
    return [layer for _, layer in sorted(layers.items(), key=lambda pair: int(pair[0]))]


def fields(x, table, sizes):
    out, at = [], 0
    for size in sizes:
        out.append(sum(x[at + j] * table[at + j] for j in range(size)))
        at += size
    return out


def two_tower(shared, user, item):
    def tower(layers, vectors):
        *before, last = ordered(layers)
        x = np.concatenate(vectors)
        for layer in before:
            x = gelu(affine(layer, x))
        return affine(last, x)

    return tower(shared["user_tower"]["layers"], user) @ tower(shared["item_tower"]["layers"], item)


def relu_layers(layers, x, last):
    for i, layer in enumerate(layers):
        x = affine(layer, x)
        x = np.maximum(x, 0) if last or i + 1 < len(layers) else x
    return x


def feature_deepfm(shared, user, item):
    vectors = [*user, *item]
    pairs = sum(a[1:] @ b[1:] for a, b in itertools.combinations(vectors, 2))
    layers = ordered(shared["logit"]["deep"]["layers"])
    deep = relu_layers(layers, np.concatenate([v[1:] for v in vectors]), last=False)[0]
    return sum(v[0] for v in vectors) + pairs + deep


def feature_dcn(shared, user, item):
    logit, first = shared["logit"], np.concatenate([*user, *item])
    x = first
    for cross in ordered(logit["crosses"]):
        x = first * affine(cross["up"], x @ cross["down"]["kernel"]) + x
    deep = relu_layers(ordered(logit["deep"]["layers"]), first, last=True)
    return affine(logit["readout"], np.concatenate([x, deep]))[0]


WRITTEN = {
    "two_tower": two_tower, "two_tower(deep)": two_tower, "feature_deepfm": feature_deepfm,
    "feature_dcn": feature_dcn,
}  # fmt: skip


def written(name, shared, private, item):
    """float: the score of one item for the one user that `private` is of."""
    user = [
        private["user"][0],
        *fields(private["user_fields"]["about"][0], shared["user_fields"]["table"], OF_USER),
    ]
    item = [
        shared["item"][item], *fields(WHAT[item], shared["item_fields"]["table"], OF_ITEM)
    ]  # fmt: skip
    return WRITTEN[name](shared, user, item)


def moved(name, seed=3):
    """(model, shared, private) somewhere behind the start, of user 7."""
    model = MADE[name](**FEATURES)
    shared, private = model.init(jax.random.key(1))
    shake = np.random.default_rng(seed)
    jitter = lambda x: x + jnp.asarray(shake.normal(size=x.shape, scale=0.3), jnp.float32)
    shared = trees.with_frozen(jax.tree.map(jitter, trees.trainable(shared)), shared)
    private = jax.tree.map(jitter, private)
    private["user_fields"]["about"] = jnp.asarray(ABOUT[7])
    return model, shared, private


def wide(tree):
    values = jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    return {**values, "item": values["item"].values} if "item" in values else values


@pytest.fixture(scope="module")
def dataset():
    found = data.synthetic(USERS, ITEMS, interactions_per_user=8)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


@pytest.mark.parametrize("name", MADE)
def test_scores_are_the_formula(name):
    model, shared, private = moved(name)
    got = model.score(shared, private, slice(None), 0)
    want = [written(name, wide(shared), wide(private), i) for i in range(ITEMS)]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    few = model.score(shared, private, jnp.array([3, 1]), 0)
    np.testing.assert_allclose(few, np.array(want)[[3, 1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_slopes_are_differences_of_the_formula(name):
    """Along random directions in all that is trained, of one batch."""
    model, shared, private = moved(name)
    items, labels = np.array([3, 1, 7, 3]), np.array([1.0, 0, 0, 1])
    batch = {"items": jnp.array(items), "labels": jnp.array(labels), "mask": jnp.ones(4)}
    trained = trees.trainable(shared)

    def ours(trained, private):
        whole = trees.with_frozen(trained, shared)
        return model.loss(whole, private, batch, jax.random.key(0))

    slopes = jax.grad(ours, argnums=(0, 1))(trained, private)
    assert not np.asarray(slopes[1]["user_fields"]["about"]).any()  # features are not trained
    shake = np.random.default_rng(5)
    for _ in range(3):
        along = jax.tree.map(lambda x: shake.normal(size=x.shape), (trained, private))
        along[1]["user_fields"]["about"] *= 0

        def loss(step, along=along):
            there = jax.tree.map(
                lambda x, d: np.asarray(x, np.float64) + step * d, (trained, private), along
            )
            s, p = {**there[0], "item": there[0]["item"].values}, there[1]
            z = np.array([written(name, s, p, i) for i in items])
            return np.mean(np.logaddexp(0, z) - z * labels)

        want = (loss(1e-5) - loss(-1e-5)) / 2e-5
        products = jax.tree.map(lambda g, d: (np.asarray(g) * d).sum(), slopes, along)
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), want, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["two_tower", "feature_deepfm"])
def test_a_round_moves_fields_by_the_mean_of_steps(dataset, name):
    """Of each client by itself a step of a field is the outer product of what it knows and of one
    slope, that of the field's vector; the server adds their mean."""
    model = MADE[name](**FEATURES)
    client = clients.local_training(model, data.pointwise(2), clients.sgd(0.5), batch_size=64)
    strategy = strategies.federated(client, model, aggregator=aggregate.uniform())
    strategy = strategies.described(strategy, ABOUT)
    state = strategy.init(jax.random.key(0), USERS)
    cohort = Cohort(jnp.arange(USERS), dataset.store)
    sent = strategy.uploads(jax.random.key(2), state, cohort)
    after, _ = strategy.round(jax.random.key(2), state, cohort)
    dense = sent["user_fields"]["table"]
    np.testing.assert_allclose(
        after.shared["user_fields"]["table"] - state.shared["user_fields"]["table"],
        np.asarray(dense).mean(0), rtol=1e-4, atol=1e-7,
    )  # fmt: skip
    for u in (0, 5):
        change, at = np.asarray(dense[u]), 0
        for size in OF_USER:
            own = ABOUT[u, 0, at : at + size]
            slope = own @ change[at : at + size] / (own @ own)
            np.testing.assert_allclose(
                change[at : at + size], np.outer(own, slope), rtol=1e-3, atol=1e-6
            )
            at += size


@pytest.mark.parametrize("name", ["two_tower", "feature_deepfm", "feature_dcn"])
def test_a_single_update_tells_the_labels_of_its_user(dataset, name):
    """As `models.fields` says: rows of columns that a user has not do not change, others do."""
    labels = np.zeros((USERS, 1, 5), np.float32)
    for u in range(USERS):
        labels[u, 0, [u % 2, 2 + u % 3]] = 1
    model = MADE[name](**{**FEATURES, "user_features": labels})
    strategy = strategies.fedncf(model, data.pointwise(2))
    strategy = strategies.described(strategy, labels)
    state = strategy.init(jax.random.key(0), USERS)
    assert "about" not in str(trees.named(state.shared).keys())
    sent = strategy.uploads(jax.random.key(2), state, Cohort(jnp.arange(USERS), dataset.store))
    told = (np.asarray(sent["user_fields"]["table"]) != 0).any(-1)
    np.testing.assert_array_equal(told, labels[:, 0] > 0)


@pytest.mark.parametrize("name", ["two_tower", "feature_deepfm", "feature_dcn"])
def test_new_items_are_ranked_by_their_fields(name):
    """Users of town 0 met items of kind 0, and those of town 1 the others; two items of
    each kind are in no training row and among no negatives."""
    towns, kinds = np.arange(USERS) % 2, np.arange(ITEMS) % 2
    rows = [(u, i) for u in range(USERS) for i in range(4, ITEMS) if towns[u] == kinds[i]]
    rng = np.random.default_rng(1)
    rows = [row for row in rows if rng.random() < 0.6]
    users, items = np.array(rows).T
    found = data.from_arrays("towns", [*users, 0, 0, 1, 1], [*items, 0, 2, 1, 3])
    persons, names = (np.asarray(x).astype(int) for x in (found.user_names, found.item_names))
    absent = names < 4
    part = np.where(absent[found.items], TEST, TRAIN).astype(np.int8)
    dataset = data.pack(Split(found, part, absent), evaluation_negatives=0)
    about = np.eye(2, dtype=np.float32)[towns[persons]][:, None]
    what = np.eye(2, dtype=np.float32)[kinds[names]]
    model = MADE[name](user_features=about, item_features=what)
    strategy = strategies.fedncf(
        model, data.pointwise(2), user_learning_rate=1.0, item_learning_rate=1.0,
        layer_learning_rate=0.5,
    )  # fmt: skip
    strategy = strategies.described(strategy, about)
    *_, last = simulate.simulate(strategy, dataset.store, 25, jax.random.key(0))
    state, fresh = last.state, np.argsort(names)[:4]
    assert not np.asarray(state.shared["item"].values)[fresh].any()  # nobody touched their rows
    for at, u in enumerate(persons):
        mine = jax.tree.map(lambda x, at=at: x[at], state.private)
        score = model.score(state.shared, mine, jnp.array(fresh), 0)
        alike = kinds[:4] == towns[u]
        assert np.asarray(score)[alike].min() > np.asarray(score)[~alike].max()


@pytest.mark.parametrize("name", MADE)
def test_several_users_of_a_client_have_their_own_fields(name):
    two = {**FEATURES, "user_features": ABOUT.reshape(-1, 2, 5)}
    make = {
        "two_tower": lambda **f: models.two_tower(ITEMS, 2, WIDTH, **f),
        "two_tower(deep)": lambda **f: models.two_tower(ITEMS, 2, WIDTH, (6,), **f),
        "feature_deepfm": lambda **f: models.feature_deepfm(ITEMS, 2, WIDTH, (6,), **f),
        "feature_dcn": lambda **f: models.feature_dcn(ITEMS, 2, WIDTH, **f),
    }[name]
    model = make(**two)
    shared, private = model.init(jax.random.key(0))
    private["user_fields"]["about"] = jnp.asarray(ABOUT[:2, 0])
    private["user"] = private["user"] + jnp.array([[0.3], [-0.2]])
    items, users = jnp.array([3, 1, 3]), jnp.array([0, 1, 1])
    each = [model.score(shared, private, items[i : i + 1], users[i])[0] for i in range(3)]
    batch = {"items": items, "users": users, "labels": jnp.ones(3), "mask": jnp.ones(3)}
    told = model.loss(shared, private, batch, jax.random.key(0))
    np.testing.assert_allclose(told, np.mean(np.logaddexp(0, -np.array(each))), rtol=1e-5)
    # Pairs of a user have the user's fields on both sides.
    paired = make(**two, objective=models.bpr())
    pairs = {"items": items[:, None] + jnp.array([0, 5]), "users": users, "mask": jnp.ones(3)}
    scores = np.array([model.score(shared, private, pairs["items"][i], users[i]) for i in range(3)])
    told = paired.loss(shared, private, pairs, jax.random.key(0))
    want = np.mean(np.logaddexp(0, scores[:, 1] - scores[:, 0]))
    np.testing.assert_allclose(told, want, rtol=1e-5)


@pytest.mark.parametrize("name", MADE)
def test_without_features_they_know_ids_alone(name, dataset):
    model = MADE[name]()
    shared, private = model.init(jax.random.key(0))
    assert set(private) == {"user"} and "item_fields" not in shared
    assert np.asarray(private["user"]).any() and np.asarray(shared["item"].values).any()
    begun = MADE[name](**FEATURES).init(jax.random.key(0))
    assert not np.asarray(begun[0]["item"].values).any() and not np.asarray(begun[1]["user"]).any()
    strategy = strategies.fedncf(model, data.pointwise(2), item_learning_rate=2.0)
    seen = [
        s.metrics["loss"] for s in simulate.simulate(strategy, dataset.store, 6, jax.random.key(0))
    ]
    assert seen[-1] < seen[0]


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match=r"two_tower\(user_features: \(24, 5\)\): give \[N"):
        MADE["two_tower"](user_features=ABOUT[:, 0])
    with pytest.raises(ValueError, match=r"feature_dcn\(item_features: \(5, 30\)\): give \[30, Fi"):
        MADE["feature_dcn"](item_features=WHAT.T)
    with pytest.raises(ValueError, match=r"feature_deepfm\(user_field_sizes=\[2, 2\]\) of 5 colum"):
        MADE["feature_deepfm"](user_features=ABOUT, user_field_sizes=(2, 2))
    with pytest.raises(ValueError, match=r"feature_deepfm\(deep=0\) is too small"):
        models.feature_deepfm(ITEMS, deep=(0,))
    with pytest.raises(ValueError, match=r"two_tower\(layers=0\) must be positive"):
        models.two_tower(ITEMS, layers=(0,))
