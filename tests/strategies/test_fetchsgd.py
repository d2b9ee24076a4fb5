"""FetchSGD: the round against its algorithm in NumPy, exact where the sketch is wide enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, models, strategies
from fedjax_rec.compress.sketch import hash_words, sketch
from fedjax_rec.data import batches, pack, synthetic
from fedjax_rec.data.splits import leave_one_out
from fedjax_rec.strategies.fetchsgd import fetch_sgd, unsketching
from fedjax_rec.types import Cohort

KEY = jax.random.key(0)
CLIENT = {"optimizer": clients.sgd(0.5), "batch_size": 16, "clients_per_chunk": 4}


@pytest.fixture(scope="module")
def world():
    found = synthetic(num_users=12, num_items=40, interactions_per_user=8)
    return pack(leave_one_out()(found), evaluation_negatives=0)


def play(strategy, data, rounds):
    state, seen = strategy.init(KEY, data.num_clients), []
    step = jax.jit(strategy.round, compiler_options={"xla_backend_optimization_level": 0})
    for _ in range(rounds):
        state, info = step(KEY, state, Cohort(jnp.arange(12), data.store))
        seen.append(info)
    return state, seen


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


@pytest.mark.slow
def test_with_everything_kept_and_no_collision_it_is_federated_averaging(world):
    """All numbers taken from a sketch far wider than the model, without momentum."""
    model = models.gmf(world.num_items, width=2)
    size = flat(model.init(KEY)[0]).size
    plain = strategies.fedavg(model, batches.pointwise(2), **CLIENT)
    sketched = fetch_sgd(
        model, batches.pointwise(2), keep=size, rows=5, columns=300 * size, momentum=0.0, **CLIENT
    )
    a, _ = play(plain, world, 2)
    b, seen = play(sketched, world, 2)
    np.testing.assert_allclose(flat(b.shared), flat(a.shared), atol=1e-5)
    assert np.abs(flat(a.shared) - flat(plain.init(KEY, 12).shared)).max() > 1e-3
    np.testing.assert_allclose(seen[0].bytes_up, 4 * 5 * 300 * size, rtol=1e-3)


def test_momentum_and_error_follow_the_algorithm():
    """Against the algorithm on vectors: the sketch has no collisions, keep takes a few numbers."""
    shared, keep, rho, eta, columns = {"a": jnp.zeros(7), "b": jnp.zeros((4, 3))}, 3, 0.8, 0.5, 8192
    server = unsketching(5, columns, 0, keep, rho, eta)
    state, words = server.init(shared), hash_words(0, 0, 5)
    where = jnp.arange(19, dtype=jnp.uint32)
    rng, momentum, error, x = np.random.default_rng(0), np.zeros(19), np.zeros(19), np.zeros(19)
    apply = jax.jit(server.apply)
    for _ in range(6):
        update = rng.normal(size=19)
        momentum = rho * momentum + update
        error = error + eta * momentum
        chosen = np.argsort(-np.abs(error))[:keep]
        x[chosen] += error[chosen]
        error[chosen] = 0
        table = sketch(jnp.float32(update), where, words, columns)
        state, shared = apply(state, shared, table)
        np.testing.assert_allclose(flat(shared), x, atol=1e-5)
    np.testing.assert_allclose(
        state["error"], sketch(jnp.float32(error), where, words, columns), atol=1e-5
    )


def test_a_table_is_learnt_from_sketches(world):
    """The loss falls, and every client sends the same bytes, whatever it touched."""
    model = models.fedmf(world.num_items, width=4, scale=1.0)
    strategy = fetch_sgd(
        model, batches.pointwise(2), keep=80, rows=3, columns=200, momentum=0.5,
        learning_rate=2.0, **CLIENT,
    )  # fmt: skip
    state, seen = play(strategy, world, 12)
    losses = [float(info.metrics["loss"].mean()) for info in seen]
    assert np.isfinite(flat(state.shared)).all() and losses[-1] < 0.9 * losses[0]
    assert set(np.asarray(seen[0].bytes_up).tolist()) == {4 * 3 * 200 + 6}


def test_wrong_arguments(world):
    model = models.fedmf(world.num_items, width=4)
    for wrong, message in (
        ({"keep": 0}, r"fetch_sgd\(keep=0\)"),
        ({"keep": 1, "columns": 0}, r"fetch_sgd\(columns=0\)"),
        ({"keep": 1, "momentum": 1.0}, r"fetch_sgd\(momentum=1.0\).*use momentum < 1"),
        ({"keep": 1, "learning_rate": 0}, r"fetch_sgd\(learning_rate=0\)"),
    ):
        with pytest.raises(ValueError, match=message):
            fetch_sgd(model, batches.pointwise(2), **wrong)
    strategy = fetch_sgd(model, batches.pointwise(2), keep=161)
    with pytest.raises(ValueError, match=r"keep=161\) is more than the model has.*keep <= 160"):
        strategy.init(KEY, 12)
