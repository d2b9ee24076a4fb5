"""FedMF with features: FedMF at the start, then the formula; what clients know stays theirs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, simulate, strategies, trees

USERS, ITEMS, FU, FI = 30, 40, 3, 5
RNG = np.random.default_rng(0)
ABOUT = RNG.normal(size=(USERS, 1, FU)).astype(np.float32)
WHAT = (RNG.random((ITEMS, FI)) < 0.4).astype(np.float32)


@pytest.fixture(scope="module")
def dataset():
    found = data.synthetic(USERS, ITEMS, interactions_per_user=8)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def made(**features):
    return models.feature_mf(ITEMS, width=4, **features)


def strategy_of(model):
    return strategies.fedncf(
        model, data.pointwise(4), user_learning_rate=2.0, item_learning_rate=10.0,
        layer_learning_rate=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(dataset):
    model = made(user_features=ABOUT, item_features=WHAT)
    strategy = strategies.described(strategy_of(model), ABOUT)
    steps = list(simulate.simulate(strategy, dataset.store, 6, jax.random.key(0)))
    return model, strategy, steps


def test_it_begins_as_fedmf(dataset):
    key = jax.random.key(1)
    plain, featured = models.fedmf(ITEMS, width=4), made(user_features=ABOUT, item_features=WHAT)
    for model in (featured, made()):
        shared, private = model.init(key)
        (theirs, own) = plain.init(key)
        np.testing.assert_array_equal(shared["item"].values, theirs["item"].values)
        np.testing.assert_array_equal(private["user"], own["user"])
        np.testing.assert_allclose(
            model.score(shared, private, slice(None), 0),
            plain.score(theirs, own, slice(None), 0), rtol=1e-6,
        )  # fmt: skip


def test_scores_and_losses_are_the_formula(trained):
    model, _, steps = trained
    state = steps[-1].running
    shared = trees.named(state.shared)
    get = lambda name: np.asarray(next(x for path, x in shared.items() if name in path))
    q, c = get("['item']"), get("centre")
    a, b = get("['user_fields']['table']"), get("['item_fields']['table']")
    assert all(np.abs(x).max() > 1e-3 for x in (a, b, c))  # they are learned
    p = np.asarray(state.private["user"])
    for u in (0, 17):
        mine = jax.tree.map(lambda x, u=u: x[u], state.private)
        vector = p[u, 0] + c + ABOUT[u, 0] @ a
        got = model.score(state.shared, mine, slice(None), 0)
        np.testing.assert_allclose(got, (q + WHAT @ b) @ vector, rtol=2e-4, atol=2e-6)
    few = jnp.array([3, 1])
    np.testing.assert_allclose(
        model.score(state.shared, mine, few, 0), got[few], rtol=1e-5, atol=1e-7
    )


def test_features_stay_with_clients_and_are_not_trained(trained, dataset):
    _, strategy, steps = trained
    np.testing.assert_array_equal(steps[-1].running.private["user_fields"]["about"], ABOUT)
    losses = [step.metrics["loss"] for step in steps]
    assert losses[-1] < losses[0]
    # What goes up is rows, and A, B and c; the features of a user are in no packet.
    bare = strategy_of(made(user_features=ABOUT, item_features=WHAT))
    sent = next(iter(simulate.simulate(bare, dataset.store, 1, jax.random.key(0))))
    assert sent.metrics["bytes_up"] == steps[0].metrics["bytes_up"]
    assert "about" not in str(trees.named(strategy.init(jax.random.key(0), USERS).shared).keys())


def test_gradients_are_those_of_numpy():
    """One batch, against the derivative by differences."""
    model = made(user_features=ABOUT, item_features=WHAT)
    shared, private = model.init(jax.random.key(2))
    private["user_fields"]["about"] = jnp.asarray(ABOUT[3])
    batch = {
        "items": jnp.array([3, 1, 7]), "labels": jnp.array([1.0, 0, 0]), "mask": jnp.ones(3)
    }  # fmt: skip

    def loss(a, b, c):
        q = np.asarray(shared["item"].values, np.float64) + WHAT @ b
        z = q[[3, 1, 7]] @ (np.asarray(private["user"][0], np.float64) + c + ABOUT[3, 0] @ a)
        return np.mean(np.logaddexp(0, z) - z * np.array([1.0, 0, 0]))

    zero = [np.zeros((FU, 4)), np.zeros((FI, 4)), np.zeros(4)]
    grads = jax.grad(lambda s: model.loss(s, private, batch, jax.random.key(0)), allow_int=True)(
        shared
    )
    for i, name in enumerate(("user_fields", "item_fields", "centre")):
        want = np.zeros_like(zero[i])
        for place in np.ndindex(want.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [x.copy() for x in zero]
                moved[i][place] += step
                ends.append(loss(*moved))
            want[place] = (ends[0] - ends[1]) / 2e-5
        found = grads[name] if name == "centre" else grads[name]["table"]
        np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-6)


def test_several_users_of_a_client_have_their_own_features():
    model = models.feature_mf(ITEMS, 2, width=4, user_features=np.ones((1, 2, FU), np.float32))
    shared, private = model.init(jax.random.key(0))
    shared["user_fields"]["table"] = jnp.ones((FU, 4))
    private["user_fields"]["about"] = jnp.asarray(ABOUT[:2, 0])
    items, users = jnp.array([3, 1, 3]), jnp.array([0, 1, 1])
    each = [model.score(shared, private, items[i : i + 1], users[i])[0] for i in range(3)]
    batch = {"items": items, "users": users, "labels": jnp.ones(3), "mask": jnp.ones(3)}
    told = model.loss(shared, private, batch, jax.random.key(0))
    np.testing.assert_allclose(told, np.mean(np.logaddexp(0, -np.array(each))), rtol=1e-5)


def test_wrong_shapes_are_told():
    with pytest.raises(ValueError, match=r"user_features: \(30, 3\)\): give \[N, members, Fu\]"):
        made(user_features=ABOUT[:, 0])
    with pytest.raises(ValueError, match=r"item_features: \(5, 40\)\): give \[40, Fi\]"):
        made(item_features=WHAT.T)
    key = jax.random.key(0)
    wrong = strategies.described(strategy_of(made(user_features=ABOUT)), ABOUT[:, :, :2])
    with pytest.raises(ValueError, match=r"clients keep \(30, 1, 3\)"):
        wrong.init(key, USERS)
    with pytest.raises(ValueError, match="its clients keep no features of users"):
        strategies.described(strategy_of(models.fedmf(ITEMS, width=4)), ABOUT).init(key, USERS)


def test_strategies_that_keep_more_find_their_place():
    ditto = strategies.ditto(made(user_features=ABOUT), data.pointwise(4))
    state = strategies.described(ditto, ABOUT).init(jax.random.key(0), USERS)
    told = [x for path, x in trees.named(state.private).items() if "about" in path]
    assert told and all(np.array_equal(x, ABOUT) for x in told)
