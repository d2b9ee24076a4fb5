"""Adaptive servers against their papers' algorithms, written as loops over NumPy arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import strategies
from fedjax_rec.rows import RowsUpdate, Table

TAU = 1e-3
ITEMS, WIDTH, ROUNDS = 9, 3, 12


def updates():
    """Of each round, rows that some clients touched (two of them twice), and a dense leaf."""
    rng = np.random.default_rng(0)
    for t in range(ROUNDS):
        ids = rng.permutation(ITEMS - 1)[:4]
        values = rng.normal(size=(6, WIDTH)) * 10.0 ** rng.integers(-4, 2, (6, 1))
        ids = np.concatenate([ids, ids[:2]])
        live = np.ones(6, bool)
        rows = RowsUpdate(jnp.float32(values), jnp.int32(ids), jnp.asarray(live), None, ITEMS)
        dense = np.zeros((ITEMS, WIDTH))
        np.add.at(dense, ids, values)
        bias = rng.normal(size=2) * (t != 3)
        yield {"item": rows, "bias": jnp.float32(bias)}, {"item": dense, "bias": bias}


def reddi(second, eta, beta1):
    """Algorithm 2: (x, u, state) -> x, with state {m, v} of one leaf."""

    def one(x, u, s):
        s["m"] = beta1 * s.get("m", 0.0) + (1 - beta1) * u
        s["v"] = second(s.get("v", np.full(u.shape, TAU**2)), u**2)
        return x + eta * s["m"] / (np.sqrt(s["v"]) + TAU)

    return one


def momentum(x, u, s):
    s["m"] = 0.8 * s.get("m", 0.0) + u
    return x + 0.5 * s["m"]


def lion(x, u, s):
    m = s.get("m", np.zeros(u.shape))
    s["m"] = 0.95 * m + 0.05 * u
    return x + 0.02 * np.sign(0.9 * m + 0.1 * u)


CASES = {
    "fed_adagrad": (strategies.fed_adagrad(0.1), reddi(lambda v, q: v + q, 0.1, 0.0)),
    "fed_adam": (strategies.fed_adam(0.03), reddi(lambda v, q: 0.99 * v + 0.01 * q, 0.03, 0.9)),
    "fed_yogi": (
        strategies.fed_yogi(0.02, 0.8, 0.95),
        reddi(lambda v, q: v - 0.05 * q * np.sign(v - q), 0.02, 0.8),
    ),
    "fed_avg_m": (strategies.fed_avg_m(0.5, 0.8), momentum),
    "fed_lion": (strategies.fed_lion(0.02, 0.9, 0.95), lion),
}


@pytest.mark.parametrize("name", CASES)
def test_twelve_rounds_are_those_of_the_paper(name):
    server, one = CASES[name]
    shared = {"item": Table(jnp.ones((ITEMS, WIDTH))), "bias": jnp.zeros(2)}
    x = {"item": np.ones((ITEMS, WIDTH)), "bias": np.zeros(2)}
    states = {key: {} for key in x}
    state, apply = server.init(shared), jax.jit(server.apply)
    for update, dense in updates():
        state, shared = apply(state, shared, update)
        x = {key: one(x[key], dense[key], states[key]) for key in x}
        np.testing.assert_allclose(shared["item"].values, x["item"], rtol=2e-4, atol=1e-5)
        np.testing.assert_allclose(shared["bias"], x["bias"], rtol=2e-4, atol=1e-5)
    # The last row was never touched.
    np.testing.assert_array_equal(shared["item"].values[-1], 1.0)


def test_without_momentum_it_is_a_step():
    shared = {"item": Table(jnp.ones((ITEMS, WIDTH))), "bias": jnp.zeros(2)}
    a, b = strategies.fed_avg_m(0.7, momentum=0.0), strategies.step(0.7)
    update, _ = next(updates())
    one, other = (s.apply(s.init(shared), shared, update)[1] for s in (a, b))
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: strategies.fed_adam(0.0), r"fed_adam\(learning_rate=0.0\) must be positive"),
        (lambda: strategies.fed_adagrad(tau=-1), r"fed_adagrad\(tau=-1\) must be positive"),
        (lambda: strategies.fed_yogi(beta2=1.5), r"fed_yogi\(beta2=1.5\) is no fraction"),
        (lambda: strategies.fed_avg_m(momentum=-0.1), r"fed_avg_m\(momentum=-0.1\) is no fraction"),
        (lambda: strategies.fed_lion(beta1=2), r"fed_lion\(beta1=2\) is no fraction"),
    ],
)
def test_errors_name_the_argument(make, told):
    with pytest.raises(ValueError, match=told):
        make()
