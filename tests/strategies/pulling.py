"""A client whose training is one line, so that rounds of it compile fast and NumPy can follow.

    x <- x + (target_k - x) / 2,   target_k = k / 10, on six item rows and a bias

Client k touches the items 7 k + (0..5) mod 30, and counts its rounds in `private`.
"""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from compiling import fast

from fedjax_rec import data, rows, simulate
from fedjax_rec.rows import Table
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Client, Cohort, Model, Upload

KEY, USERS, ITEMS, TOUCHED = jax.random.key(3), 15, 30, 6
OPTIONS = {"xla_backend_optimization_level": 0}


def store(users: int = USERS):
    """Clients of 2 to 8 interactions; what they are is not looked at."""
    found = data.synthetic(num_users=users, num_items=ITEMS, interactions_per_user=6)
    made = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    return replace(made, length=jnp.int32(2 + 5 * np.arange(users) % 7))


def touched(k):
    return (7 * k + np.arange(TOUCHED)) % ITEMS


def start(key=None):
    return {
        "item": Table(jnp.linspace(-1, 1, ITEMS * 2).reshape(ITEMS, 2)),
        "bias": jnp.ones(3),
        "base": Frozen(jnp.ones(4)),
    }


MODEL = Model(lambda key, common=None: (start(key), ()), lambda *args: jnp.zeros(()))


def pulling(whole: bool = False) -> Client:
    """whole: the local tables are whole tables; else the touched rows."""

    def update(key, private, shared, data, now):
        target, ids = data.id * 0.1, (7 * data.id + jnp.arange(TOUCHED)) % ITEMS
        if whole:
            local = rows.mark(rows.whole(shared["item"]), ids, jnp.ones(TOUCHED))
        else:
            local = rows.localize(shared["item"], ids)
        pulled = jnp.where(local.live[:, None], (target - local.values) / 2, 0)
        item = rows.update_of(replace(local, values=local.values + pulled), shared["item"])
        bias = (target - shared["bias"]) / 2
        metrics = {"loss": (bias**2).mean(), "steps": jnp.float32(1), "seen": jnp.ones(2)}
        change = {"item": item, "bias": bias, "base": Frozen(None)}
        real = data.length > 0
        upload = Upload(change, data.length.astype(jnp.float32), metrics)
        return private + real.astype(jnp.float32), upload

    return Client(lambda key, client: jnp.zeros(()), update)


def change_of(k, item, bias):
    """(items, change of their rows, change of the bias) of client k, in NumPy."""
    ids = touched(k)
    return ids, (0.1 * k - item[ids]) / 2, (0.1 * k - bias) / 2


@functools.cache
def compiled(round):
    return jax.jit(round, compiler_options=OPTIONS)


def run(strategy, store, cohorts, state=None, key=KEY):
    """(state, [RoundInfo]) over rounds of these cohorts, all of one size."""
    step = compiled(strategy.round)
    state = strategy.init(key, store.num_clients) if state is None else state
    infos = []
    for ids in cohorts:
        state, info = step(key, state, Cohort(jnp.asarray(ids, jnp.int32), store))
        infos.append(info)
    return state, infos


def resumes(strategy, store, rounds, cohorts=None):
    """The last `Progress` of a run in two measurements, traced once, that goes on from the first to
    the same bits."""
    traces = []

    def counted(key, state, cohort, chunk=None):
        traces.append(1)
        return strategy.round(key, state, cohort, chunk)

    half, last = {"every": rounds // 2}, None
    with fast():
        run = simulate.simulate(
            replace(strategy, round=counted), store, rounds, KEY, cohorts, **half
        )
        begun = jax.tree.map(jnp.copy, next(run).state)
        (last,) = run
        assert len(traces) == 1
        (rest,) = simulate.simulate(strategy, store, rounds, KEY, cohorts, **half, state=begun)
    same(rest.state, last.state)
    # NaN, of a round in which nobody counts, is NaN.
    np.testing.assert_equal(rest.metrics | {"seconds": 0}, last.metrics | {"seconds": 0})
    return last


def close(a, b, atol=2e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol)


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
