"""Cold users fit what they keep before they are measured: in NumPy, alone, and for the better."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, data, evaluate, models, simulate, strategies
from fedjax_rec.data.cold_users import is_cold, support_of_cold
from fedjax_rec.data.splits import TEST, TRAIN, UNUSED, VALIDATION
from fedjax_rec.evaluate import Protocol
from fedjax_rec.types import Cohort

USERS, ITEMS, KEY = 40, 30, jax.random.key(2)
FAST = {"xla_backend_optimization_level": 0}
# All scores of a user, in place of a metric.
SCORES = Protocol(
    tuple(map(str, range(ITEMS))), lambda score, case: score(slice(None), case.member), "scores",
    lambda values, counts: jnp.nanmean(values, 0), tuple(map(str, range(ITEMS))),
)  # fmt: skip


class World:
    """A FedMF that has trained on the warm users, and what is known of the cold ones."""

    def __init__(self):
        # Half of the users have odd items alone, the others even ones.
        rng = np.random.default_rng(3)
        chosen = [2 * rng.permutation(ITEMS // 2)[:10] + user % 2 for user in range(USERS)]
        users = np.repeat(np.arange(USERS), 10)
        interactions = data.from_arrays("halves", users, np.concatenate(chosen))
        self.split = data.cold_users(0.25, seed=4)(interactions)
        self.cold = np.flatnonzero(is_cold(self.split))
        self.data = data.pack(self.split, evaluation_negatives=0)
        self.warm = data.pack(data.warm_users(0.25, seed=4)(interactions), evaluation_negatives=0)
        self.support = data.pack(support_of_cold(self.split), evaluation_negatives=0).store
        self.strategy = strategies.fedmf(
            models.fedmf(ITEMS, width=6), data.pointwise(4), user_learning_rate=5.0,
            item_learning_rate=20.0,
        )  # fmt: skip
        everyone = Cohort(jnp.arange(USERS), self.data.store)
        step = jax.jit(lambda s: self.strategy.round(KEY, s, everyone)[0], compiler_options=FAST)
        self.start = state = self.strategy.init(KEY, USERS)
        for _ in range(60):
            state = step(state)
        self.state = state

    def values(self, protocol, cases, fit=True, negatives=4):
        private = clients.groups({"private": clients.sgd(5.0)})
        client = clients.local_training(
            self.strategy.model, data.pointwise(negatives), private, 3, None, 256
        )
        measure = simulate.aggregated(self.strategy.model, protocol, {"test": cases})
        if fit:
            measure = simulate.fitted(measure, client, self.support, self.cold, KEY, chunk=4)
        values = jax.jit(lambda s: measure.values(s, None, None)[0]["test"], compiler_options=FAST)
        return np.asarray(values(self.state))


@pytest.fixture(scope="module")
def world():
    return World()


def test_what_is_known_of_a_cold_user_trains_and_nothing_else(world):
    split, support = world.split, support_of_cold(world.split)
    users, cold = split.interactions.users, is_cold(split)
    for user in range(USERS):
        mine = np.flatnonzero(users == user)
        trains = mine[support.part[mine] == TRAIN]
        if not cold[user]:
            assert not trains.size
            continue
        held = mine[np.isin(split.part[mine], (VALIDATION, TEST))]
        assert trains.size and trains.max() < held.min()
        assert (split.part[trains] == UNUSED).all()
    assert np.asarray(world.data.store.length)[world.cold].sum() == 0


def test_scores_are_those_of_a_fit_in_numpy(world):
    """p <- p - eta mean_i (sigmoid(p q_i) - 1) q_i over what is known of the user, three times,
    with Q as the server has it."""
    table = np.asarray(world.state.shared["item"].values, np.float64)
    got = world.values(SCORES, world.data.test, negatives=0)
    rows = dict(zip(np.asarray(world.data.test.users).tolist(), got, strict=True))
    part = support_of_cold(world.split).part
    for user in world.cold.tolist():
        p = np.asarray(world.state.private["user"][user, 0], np.float64)
        mine = (world.split.interactions.users == user) & (part == TRAIN)
        q = table[world.split.interactions.items[mine]]
        for _ in range(3):
            p = p - 5.0 * ((1 / (1 + np.exp(-q @ p)) - 1)[:, None] * q).mean(0)
        np.testing.assert_allclose(rows[user], table @ p, atol=1e-5)
    assert np.abs(got - world.values(SCORES, world.data.test, fit=False)).max() > 0.1


def test_warm_users_and_the_state_are_as_they_were(world):
    before = jax.tree.map(np.asarray, world.state)
    fitted, plain = (world.values(SCORES, world.warm.test, fit) for fit in (True, False))
    np.testing.assert_array_equal(fitted, plain)
    jax.tree.map(np.testing.assert_array_equal, before, world.state)


def test_cold_users_are_served_better_for_it(world):
    protocol = evaluate.full_catalogue(evaluate.metrics(["auc"]), ITEMS)
    plain, fitted = (world.values(protocol, world.data.test, fit).mean() for fit in (False, True))
    assert fitted > plain + 0.1
