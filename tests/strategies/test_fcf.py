"""FCF against central ALS and against the formulas in NumPy."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import worlds

from fedjax_rec import aggregate, models, privacy, strategies
from fedjax_rec.types import Cohort

A, R = 0.3, 0.02
ALL = dict(unobserved_weight=A, regularization=R, clients_per_chunk=4)


def model_of(data, width=5):
    return models.fedmf(data.num_items, data.members, width=width, scale=0.3)


def items(state) -> np.ndarray:
    return np.asarray(state.shared["model"]["item"].values)


@pytest.mark.parametrize("name", ["whole", "compact", "silos"])
def test_it_is_als_in_one_place(name):
    """From the users' vectors of the first round on, both have the same items after every sweep."""
    data = worlds.named(name)
    model = model_of(data)
    here, there = strategies.fcf(model, **ALL), strategies.central(model, fit=models.ials(A, R))
    met = np.zeros(data.num_items, bool)
    met[np.asarray(data.store.items)] = True
    state = here.init(worlds.KEY, data.num_clients)
    begin = state.shared["model"]["item"]
    begin = replace(begin, values=jnp.where(met[:, None], begin.values, 0.0))  # as als has them
    state = replace(state, shared={**state.shared, "model": {"item": begin}})
    state, _ = worlds.run(here, data, state=state)
    central = there.init(worlds.KEY, data.num_clients)
    central = replace(central, private=state.private)
    for _ in range(4):
        central, _ = worlds.run(there, data, state=central)
        want = np.asarray(central.shared["item"].values)
        np.testing.assert_allclose(items(state), want, atol=2e-5)
        state, _ = worlds.run(here, data, state=state)
        some = np.asarray(data.store.sizes(jnp.arange(data.num_clients))) > 0
        users = [np.asarray(x.private["user"])[some] for x in (state, central)]
        if data.members == 1:  # of several, some have nothing
            np.testing.assert_allclose(*users, atol=2e-5)


def test_one_round_is_the_formulas():
    data = worlds.named("compact")
    ids = np.array([3, 1, 7, 11, 20])
    strategy = strategies.fcf(model_of(data), memory=0.5, **ALL)
    before = strategy.init(worlds.KEY, data.num_clients)
    first, info = worlds.run(strategy, data, ids, state=before)
    second, _ = worlds.run(strategy, data, ids[:2] + 1, state=first)
    store, width, count = data.store, 5, data.num_items
    of = lambda u: np.asarray(store.items)[store.start[u] : store.start[u] + store.length[u]]
    sums = {"s": np.zeros((count, width, width)), "b": np.zeros((count, width)),
            "n": np.zeros(count), "g": np.zeros((width, width)), "u": 0.0}  # fmt: skip
    q, had = items(before).astype(float), {}
    for cohort, state in ((ids, first), (ids[:2] + 1, second)):
        sums = {k: 0.5 * x for k, x in sums.items()}
        everything = A * q.T @ q
        for u in cohort:
            met = of(u)
            ridge = R * (len(met) + A * count) * np.eye(width)
            p = np.linalg.solve(everything + q[met].T @ q[met] + ridge, q[met].sum(0))
            had[u] = p
            sums["s"][met] += np.outer(p, p)
            sums["b"][met] += p
            sums["n"][met] += 1
            sums["g"] += np.outer(p, p)
            sums["u"] += 1
        system = sums["s"] + A * sums["g"]
        system += R * (sums["n"] + A * sums["u"])[:, None, None] * np.eye(width)
        solved = np.linalg.solve(system, sums["b"][..., None])[..., 0]
        q = np.where(sums["n"][:, None] > 0, solved, q)
        np.testing.assert_allclose(items(state), q, atol=1e-5)
    for u, p in had.items():
        np.testing.assert_allclose(second.private["user"][u, 0], p, atol=1e-5)
    # A user tells T + D + 1 numbers a row, and of everything T + 1; sizes beside them are few.
    each = 15 + 5 + 1
    rows_of = np.array([len(set(of(u))) for u in ids])
    spent = np.asarray(info.bytes_up) - 4 * (each * rows_of + 16)
    assert (spent >= 0).all() and (spent <= 4 * rows_of + 16).all(), spent


def test_sums_means_and_secure_sums_are_one():
    data = worlds.named("whole")
    run = lambda rule: items(
        worlds.run(strategies.fcf(model_of(data), aggregator=rule, **ALL), data, rounds=2)[0]
    )
    want = run(None)
    np.testing.assert_allclose(run(aggregate.total()), want, atol=1e-5)
    secure = privacy.secure_aggregation(bound=50.0, clients=worlds.USERS, bits=32)
    np.testing.assert_allclose(run(secure), want, atol=2e-3)


def test_what_is_wrong_is_said():
    data = worlds.named("whole")
    with pytest.raises(ValueError, match=r"fcf\(memory=1.0\) is too large"):
        strategies.fcf(model_of(data), memory=1.0)
    with pytest.raises(ValueError, match=r"fcf\(regularization=0\) must be positive"):
        strategies.fcf(model_of(data), regularization=0)
    wrong = strategies.fcf(models.pfedrec(data.num_items, width=4))
    with pytest.raises(ValueError, match=r"use models\.fedmf"):
        wrong.init(worlds.KEY, data.num_clients)
    clicks = worlds.clicks()
    strategy = strategies.fcf(model_of(data))
    state = strategy.init(worlds.KEY, clicks.num_clients)
    cohort = Cohort(jnp.arange(clicks.num_clients), clicks.store)
    with pytest.raises(ValueError, match="solves from histories"):
        jax.eval_shape(strategy.round, worlds.KEY, state, cohort)
