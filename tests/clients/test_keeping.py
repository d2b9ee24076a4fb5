"""Optimizers that go on over rounds, and rates that follow a schedule, against NumPy."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST

from fedjax_rec import clients, data, models, strategies

sys.path.insert(0, str(Path(__file__).parents[1] / "strategies"))
from quadratic import Problem, of, rounds, worlds

RATE, BETA, STEPS = 0.2, 0.8, 3


def made(problem, client, **kwargs):
    model = problem.model()
    return strategies.federated(client, model, clients_per_chunk=5, **kwargs)


@pytest.mark.parametrize("name", ["whole", "compact"])
def test_momentum_that_is_kept_is_its_loop(name):
    problem = Problem(name)
    transform = optax.sgd(RATE, momentum=BETA)
    passes = clients.Passes(STEPS, None, 128)
    client = clients.keeping(problem.model(), problem.examples(), transform, passes)
    n = problem.clients
    cohorts = [np.arange(n), np.arange(0, n, 2), np.arange(n)]
    state, _ = rounds(problem, made(problem, client), cohorts)
    q, x = problem.start, np.zeros(3)
    m_q, m_x = np.zeros((n, *q.shape)), np.zeros((n, 3))
    for ids in cohorts:
        there, after = [k for k in ids if problem.sizes[k]], []
        for k in there:
            y_q, y_x = q.copy(), x.copy()
            for _ in range(STEPS):
                g_q, g_x = problem.gradient(k, y_q, y_x)
                rows = problem.own[k]
                m_q[k, rows] = BETA * m_q[k, rows] + g_q[rows]
                m_x[k] = BETA * m_x[k] + g_x
                y_q[rows] -= RATE * m_q[k, rows]
                y_x = y_x - RATE * m_x[k]
            after.append((y_q, y_x))
        share = problem.sizes[there] / problem.sizes[there].sum()
        q, x = (sum(w * p for w, p in zip(share, y, strict=True)) for y in zip(*after, strict=True))
    got_q, got_x = of(state.shared)
    np.testing.assert_allclose(got_q, q, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(got_x, x, rtol=2e-4, atol=2e-5)


def test_adam_counts_on_over_rounds():
    """Two rounds of one step are one round of two for a client alone whose model is its own."""
    problem = Problem("compact")
    k = int(np.argmax(problem.sizes))
    states = []
    for steps, times in ((2, 1), (1, 2)):
        client = clients.keeping(
            problem.model(), problem.examples(), optax.adam(0.1), clients.Passes(1, steps, 128)
        )
        states.append(rounds(problem, made(problem, client), [[k]] * times)[0])
    worlds.close(states[0].shared, states[1].shared, atol=1e-5)
    worlds.close(states[0].private, states[1].private, atol=1e-5)


@pytest.mark.slow
def test_a_schedule_is_the_rate_of_its_round_in_one_compilation():
    problem, schedule = Problem("compact"), optax.linear_schedule(0.4, 0.1, 3)
    local = clients.scheduled(clients.sgd, schedule)
    falling = strategies.scheduled_step(lambda t: 1.0 - 0.2 * t)
    for server, fall in ((strategies.step(1.0), 0.0), (falling, 0.2)):
        client = clients.local_training(problem.model(), problem.examples(), local, batch_size=128)
        ids = np.flatnonzero(problem.sizes)[:4]
        state, _ = rounds(problem, made(problem, client, server=server), [ids] * 4)
        q, x = problem.start, np.zeros(3)
        share = problem.sizes[ids] / problem.sizes[ids].sum()
        for t in range(4):
            step = 1.0 - fall * t
            parts = zip(*(problem.gradient(k, q, x) for k in ids), strict=True)
            of_q, of_x = (sum(w * g for w, g in zip(share, p, strict=True)) for p in parts)
            q = q - step * float(schedule(t)) * of_q
            x = x - step * float(schedule(t)) * of_x
        got_q, got_x = of(state.shared)
        np.testing.assert_allclose(got_q, q, rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(got_x, x, rtol=2e-4, atol=2e-5)


def test_bad_arguments_are_named():
    problem = Problem("compact")
    with pytest.raises(TypeError, match="give an optax transform"):
        clients.keeping(problem.model(), problem.examples(), clients.sgd(0.1))


def test_rows_that_a_client_does_not_touch_wait_with_their_momentum():
    """Negatives drawn anew: in a whole local table other rows are touched in the next round."""
    users = worlds.named("whole")
    model, examples = models.fedmf(users.num_items, width=4, scale=0.3), data.pointwise(1)
    client = clients.keeping(
        model, examples, optax.sgd(0.1, momentum=0.9), clients.Passes(1, None, 4)
    )
    update = worlds.compiled(client.update)
    shared, _ = model.init(worlds.KEY)
    mine = users.store.take(jnp.int32([3]))
    mine = replace(mine, id=mine.id[0], start=mine.start[0], length=mine.length[0])
    private = client.init(worlds.KEY, jnp.int32(3))
    private, first = update(jax.random.key(1), private, shared, mine, FIRST)
    after, upload = update(jax.random.key(2), private, shared, mine, FIRST)
    touched = np.asarray(upload.update["item"].live)
    had = np.asarray(first.update["item"].live) & ~touched
    assert had.any()
    moved = upload.update["item"].delta()
    assert not np.asarray(moved.values)[~touched].any()
    momentum = lambda own: next(
        np.asarray(x) for x in jax.tree.leaves(own["optimizer"]) if x.shape == (users.num_items, 4)
    )
    np.testing.assert_array_equal(momentum(after)[had], momentum(private)[had])
    assert momentum(private)[had].any()
