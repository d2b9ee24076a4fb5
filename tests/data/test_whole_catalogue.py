"""All items of a client once, weighted so that their loss is that of drawn negatives on average."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import data, models, strategies
from fedjax_rec.types import Cohort

CLIENTS, ITEMS = 6, 24
INTERACTIONS = data.synthetic(CLIENTS, ITEMS, interactions_per_user=6, seed=3)
SPLIT = data.leave_one_out()(INTERACTIONS)


@pytest.fixture(scope="module")
def packed():
    return data.pack(SPLIT, evaluation_negatives=0)


def drawn(store, kind, client):
    """The examples of one client, in NumPy."""
    mine = store.take(jnp.array([client]))
    mine = jax.tree.map(lambda x, axis: x if axis is None else x[0], mine, store.axes(),
                        is_leaf=lambda x: x is None or x is store)  # fmt: skip
    q = jnp.arange(int(kind.count(mine)), dtype=jnp.uint32)
    return {name: np.asarray(x) for name, x in kind.draw(jnp.zeros(2, jnp.uint32), mine, q).items()}


def own(client):
    train = (SPLIT.part == 0) & (INTERACTIONS.users == client)
    return INTERACTIONS.items[train]


@pytest.mark.parametrize("policy", ["train", "paper"])
def test_every_item_is_there_once_by_its_weight(policy):
    store = data.pack(SPLIT, negatives=policy, evaluation_negatives=0).store
    kind, seen = data.whole_catalogue(3.0), []
    for client in range(CLIENTS):
        batch, mine = drawn(store, kind, client), own(client)
        known = batch["labels"] == 1
        excluded = INTERACTIONS.items[INTERACTIONS.users == client] if policy == "paper" else mine
        np.testing.assert_array_equal(np.sort(batch["items"][known]), np.sort(mine))
        left = np.setdiff1d(np.arange(ITEMS), excluded)
        np.testing.assert_array_equal(batch["items"][~known], left)
        np.testing.assert_array_equal(batch["weights"][known], 1)
        np.testing.assert_allclose(batch["weights"][~known].sum(), 3 * len(mine), rtol=1e-6)
        seen.append(len(known))
    assert kind.most(store) == max(seen)


def test_a_round_is_a_step_on_the_exact_loss(packed):
    """One round of everybody against NumPy."""
    model = models.fedmf(ITEMS, width=4, objective=models.weighted(models.bce()))
    strategy = strategies.fedmf(
        model, data.whole_catalogue(2.0), user_learning_rate=0.5, item_learning_rate=0.3,
        batch_size=ITEMS + 8,
    )  # fmt: skip
    key = jax.random.key(5)
    state = strategy.init(key, CLIENTS)
    users = np.array(state.private["user"])
    items = np.array(state.shared["item"].values)
    wanted, changes = users.copy(), np.zeros((CLIENTS, *items.shape))
    for u in range(CLIENTS):
        mine = own(u)
        label = np.zeros(ITEMS)
        label[mine] = 1
        weight = np.where(label == 1, 1.0, 2 * len(mine) / (ITEMS - len(mine)))
        slope = weight / weight.sum() * (1 / (1 + np.exp(-items @ users[u].ravel())) - label)
        changes[u] = -0.3 * slope[:, None] * users[u].reshape(1, -1)
        wanted[u] = users[u] - 0.5 * (slope @ items).reshape(users[u].shape)
    state, _ = jax.jit(strategy.round)(key, state, Cohort(jnp.arange(CLIENTS), packed.store))
    np.testing.assert_allclose(state.private["user"], wanted, atol=1e-6)
    np.testing.assert_allclose(state.shared["item"].values, items + changes.mean(0), atol=1e-6)


def test_drawn_negatives_have_it_on_average(packed):
    """The mean of many draws of the loss is within four standard errors of it."""
    scores = np.random.default_rng(0).normal(size=ITEMS)
    objective = models.weighted(models.bce())
    exact = drawn(packed.store, data.whole_catalogue(4), 1)
    exact = {name: jnp.asarray(x) for name, x in exact.items()}
    exact["mask"] = jnp.ones_like(exact["labels"])
    whole = float(objective(jnp.asarray(scores)[exact["items"]], exact))
    n = len(own(1))
    rng, left = np.random.default_rng(1), np.setdiff1d(np.arange(ITEMS), own(1))
    loss = np.log1p(np.exp(scores))
    positive = (loss - scores)[own(1)].sum()
    draws = [(positive + loss[rng.choice(left, 4 * n)].sum()) / (5 * n) for _ in range(2000)]
    assert abs(np.mean(draws) - whole) < 4 * np.std(draws) / np.sqrt(len(draws))


def test_what_it_cannot_be(packed):
    with pytest.raises(ValueError, match=r"negatives=0"):
        data.whole_catalogue(0)
    silos = data.pack(SPLIT, data.by_hash(2)(SPLIT), evaluation_negatives=0)
    with pytest.raises(ValueError, match=r"clients that are one user each"):
        data.whole_catalogue().most(silos.store)
    scores = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"train it on data.whole_catalogue"):
        models.weighted(models.bce())(scores, {"labels": scores, "mask": scores})
