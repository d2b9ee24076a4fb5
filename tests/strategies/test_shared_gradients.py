"""Gradient sharing: centralised SGD, and the two-trip methods against NumPy loops."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quadratic import Problem, of, rounds, worlds

from fedjax_rec import clients, compress, data, keys, models, rows, strategies, wire
from fedjax_rec.types import Stage

RATE, STEPS = 0.3, 4
WORLDS = pytest.mark.parametrize("name", ["whole", "compact"])


def some_cohorts(problem):
    n = problem.clients
    return [np.arange(0, n, 2), np.arange(1, n, 2), np.arange(0, n, 3)]


def many_cohorts(problem, count=100):
    """Five clients or so at a time, and now and then nobody."""
    draw = np.random.default_rng(5)
    return [np.flatnonzero(draw.uniform(size=problem.clients) < 0.2) for _ in range(count)]


def made(problem, recipe, **kwargs):
    settings = dict(optimizer=clients.sgd(RATE), epochs=STEPS, batch_size=128, clients_per_chunk=4)
    return recipe(problem.model(), problem.examples(), **{**settings, **kwargs})


def check(shared, q, x):
    got_q, got_x = of(shared)
    np.testing.assert_allclose(got_q, q, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(got_x, x, rtol=2e-4, atol=2e-5)


def mean_of(problem, ids, q, x):
    """sum_k n_k grad f_k / sum_k n_k."""
    share = problem.sizes[ids] / problem.sizes[ids].sum()
    parts = [problem.gradient(k, q, x) if problem.sizes[k] else (0, 0) for k in ids]
    return tuple(
        sum(w * p for w, p in zip(share, g, strict=True)) for g in zip(*parts, strict=True)
    )


@WORLDS
def test_full_participation_is_centralised_sgd(name):
    """Matrix factorization with negatives: one gradient of the sum over all examples of all."""
    users = worlds.named(name)
    model, examples = models.fedmf(users.num_items, width=4, scale=0.3), data.pointwise(4)
    rate = 5.0
    strategy = strategies.fedsgd(
        model, examples, private=clients.sgd(1.0), server=strategies.step(rate), batch_size=8,
        clients_per_chunk=5,
    )  # fmt: skip
    state = strategy.init(worlds.KEY, users.num_clients)
    after, info = worlds.run(strategy, users, state=state)

    # The examples as the clients drew them, in one list for each client.
    client_key = keys.stream(jax.random.fold_in(worlds.KEY, 0), "clients")
    ids = jnp.arange(users.num_clients)
    n = 5 * users.store.length
    q = jnp.arange(int(n.max()), dtype=jnp.uint32)

    def examples_of(id, mine):
        key, _ = jax.random.split(keys.for_client(client_key, id))
        seed = keys.words(keys.stream(key, "examples"), 4)
        return examples.draw(seed[2:], mine, jnp.minimum(q, jnp.uint32(5) * mine.length))

    axes = users.store.axes()
    drawn = jax.vmap(examples_of, in_axes=(0, axes))(ids, users.store.take(ids))
    drawn["mask"] = (q < n[:, None]).astype(jnp.float32)

    @jax.jit
    def all_loss(shared, private):
        """The mean over all examples of all clients."""
        one = lambda mine, batch: model.loss(rows.dense(shared), mine, batch, worlds.KEY)
        return (n * jax.vmap(one)(private, drawn)).sum() / n.sum()

    (of_shared, of_private) = jax.grad(all_loss, argnums=(0, 1))(state.shared, state.private)
    np.testing.assert_allclose(
        after.shared["item"].values,
        state.shared["item"].values - rate * of_shared["item"].values,
        rtol=1e-5,
        atol=1e-7,
    )
    # A client's own vector steps on its own mean, n / n_k times its part of the whole.
    times = np.asarray(n.sum() / jnp.maximum(n, 1))[:, None, None]
    moved = np.asarray(state.private["user"]) - times * np.asarray(of_private["user"])
    np.testing.assert_allclose(after.private["user"], moved, rtol=1e-4, atol=1e-6)
    assert worlds.mean_loss(info) == pytest.approx(
        float(all_loss(state.shared, state.private)), rel=1e-5
    )


@WORLDS
def test_fedsgd_sends_the_gradient_whatever_the_batches(name):
    problem = Problem(name)
    cohorts = some_cohorts(problem)
    got = [
        rounds(
            problem,
            strategies.fedsgd(
                problem.model(), problem.examples(), server=strategies.step(RATE), batch_size=b,
                clients_per_chunk=4,
            ),
            cohorts,
        )[0].shared
        for b in (128, 3)
    ]  # fmt: skip
    q, x = problem.start, np.zeros(3)
    for ids in cohorts:
        dq, dx = mean_of(problem, ids, q, x)
        q, x = q - RATE * dq, x - RATE * dx
    for shared in got:
        check(shared, q, x)


@WORLDS
@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=pytest.mark.slow), 0.6])
def test_fsvrg_and_mime_are_their_loop(name, beta):
    """Of the whole array, over a hundred rounds."""
    problem = Problem(name)
    cohorts = many_cohorts(problem)
    recipe, more = (strategies.mime, {"beta": beta}) if beta else (strategies.fsvrg, {})
    state, _ = rounds(problem, made(problem, recipe, **more), cohorts)
    q, x = problem.start, np.zeros(3)
    m_q, m_x = np.zeros_like(q), np.zeros(3)
    for ids in cohorts:
        there = [k for k in ids if problem.sizes[k]]
        if not there:
            continue
        c_q, c_x = mean_of(problem, there, q, x)
        after = []
        for k in there:
            y_q, y_x = q.copy(), x.copy()
            at_q, at_x = problem.gradient(k, q, x)
            for _ in range(STEPS):
                g_q, g_x = problem.gradient(k, y_q, y_x)
                y_q = y_q - RATE * ((1 - beta) * (g_q - at_q + c_q) + beta * m_q)
                y_x = y_x - RATE * ((1 - beta) * (g_x - at_x + c_x) + beta * m_x)
            after.append((y_q, y_x))
        share = problem.sizes[there] / problem.sizes[there].sum()
        q, x = (sum(w * p for w, p in zip(share, y, strict=True)) for y in zip(*after, strict=True))
        m_q, m_x = beta * m_q + (1 - beta) * c_q, beta * m_x + (1 - beta) * c_x
    check(state.shared["model"], q, x)
    if beta:
        check(state.shared["momentum"].value, m_q, m_x)


@WORLDS
def test_mime_lite_is_its_loop(name):
    """Of the whole array, over a hundred rounds."""
    problem, beta = Problem(name), 0.6
    cohorts = many_cohorts(problem)
    state, _ = rounds(problem, made(problem, strategies.mime_lite, beta=beta), cohorts)
    q, x = problem.start, np.zeros(3)
    m_q, m_x = np.zeros_like(q), np.zeros(3)
    for ids in cohorts:
        there = [k for k in ids if problem.sizes[k]]
        if not there:
            continue
        c_q, c_x = mean_of(problem, there, q, x)
        after = []
        for k in there:
            y_q, y_x = q.copy(), x.copy()
            for _ in range(STEPS):
                g_q, g_x = problem.gradient(k, y_q, y_x)
                y_q = y_q - RATE * ((1 - beta) * g_q + beta * m_q)
                y_x = y_x - RATE * ((1 - beta) * g_x + beta * m_x)
            after.append((y_q, y_x))
        share = problem.sizes[there] / problem.sizes[there].sum()
        q, x = (sum(w * p for w, p in zip(share, y, strict=True)) for y in zip(*after, strict=True))
        m_q, m_x = beta * m_q + (1 - beta) * c_q, beta * m_x + (1 - beta) * c_x
    check(state.shared["model"], q, x)
    check(state.shared["momentum"], m_q, m_x)


def clip(held: int) -> Stage:
    """Another bound in each trip, uploads counted, and one client held back."""

    def send(key, memory, upload, now):
        length = jnp.sqrt(rows.squared_norm(upload.update))
        less = jnp.minimum(1, BOUNDS[now.trip] / jnp.maximum(length, 1e-30))
        weight = jnp.where(now.client == held, 0.0, upload.weight)
        memory = {"uploads": memory["uploads"] + 1, "drawn": jax.random.uniform(key)}
        return memory, replace(upload, update=rows.scale(upload.update, less), weight=weight)

    return Stage(send, lambda update: {"uploads": jnp.int32(0), "drawn": jnp.float32(0)})


BOUNDS = {1: 0.7, 0: 0.4}  # of the gradient, the first message, and of the change


@WORLDS
def test_stages_see_both_trips_of_fsvrg_and_mime(name):
    """What is clipped is what is sent: the gradient, and of a table's change what is not common."""
    problem, beta, held = Problem(name), 0.6, 3
    cohorts = [np.arange(0, problem.clients, 2), np.arange(1, problem.clients, 2)]
    made_of = made(problem, strategies.mime, beta=beta, stages=[clip(held)])
    state, infos = rounds(problem, made_of, cohorts)
    q, x = problem.start, np.zeros(3)
    m_q, m_x = np.zeros_like(q), np.zeros(3)
    counts, shortened = np.zeros(problem.clients, int), 0
    for ids in cohorts:
        there = [k for k in ids if problem.sizes[k] and k != held]
        counts[there] += 1
        share = problem.sizes[there] / problem.sizes[there].sum()
        mean = lambda parts, share=share: tuple(
            sum(w * p for w, p in zip(share, part, strict=True))
            for part in zip(*parts, strict=True)
        )

        def clipped(trip, *parts):
            nonlocal shortened
            length = np.sqrt(sum((p**2).sum() for p in parts))
            shortened += length > BOUNDS[trip]
            return tuple(min(1, BOUNDS[trip] / length) * p for p in parts)

        c_q, c_x = mean([clipped(1, *problem.gradient(k, q, x)) for k in there])
        d_q, d_x = (1 - beta) * c_q + beta * m_q, (1 - beta) * c_x + beta * m_x
        sent = []
        for k in there:
            y_q, y_x = q.copy(), x.copy()
            at_q, at_x = problem.gradient(k, q, x)
            for _ in range(STEPS):
                g_q, g_x = problem.gradient(k, y_q, y_x)
                y_q = y_q - RATE * ((1 - beta) * (g_q - at_q) + d_q)
                y_x = y_x - RATE * ((1 - beta) * (g_x - at_x) + d_x)
            sent.append(clipped(0, y_q - q + STEPS * RATE * d_q, y_x - x))
        of_q, of_x = mean(sent)
        q, x = q - STEPS * RATE * d_q + of_q, x + of_x
        m_q, m_x = beta * m_q + (1 - beta) * c_q, beta * m_x + (1 - beta) * c_x
    assert shortened > 8
    check(state.shared["model"], q, x)
    check(state.shared["momentum"].value, m_q, m_x)
    kept = [state.memory[part]["stages"][0] for part in ("gradient", "model")]
    for memory in kept:
        np.testing.assert_array_equal(memory["uploads"], counts)
    first, second = (np.asarray(memory["drawn"])[counts > 0] for memory in kept)
    assert not np.isin(first, second).any()
    paid = np.concatenate([np.asarray(info.bytes_up) > 0 for info in infos])
    np.testing.assert_array_equal(paid, counts[np.concatenate(cohorts)] > 0)


@pytest.mark.slow
def test_both_trips_are_counted_and_are_what_is_sent():
    """Up a gradient and a change, down the model and c, each at the rows that are touched."""
    problem = Problem("compact")
    everyone = [np.arange(problem.clients)]
    _, (one,) = rounds(problem, made(problem, strategies.fedavg), everyone)
    uplink = compress.error_feedback(compress.top_k(0.5))
    for recipe, down in ((strategies.fsvrg, 2), (strategies.mime, 3)):
        strategy = made(problem, recipe, uplink=uplink)
        state = strategy.init(worlds.KEY, problem.clients)
        cohort = worlds.Cohort(jnp.arange(problem.clients), problem.data.store)
        packets, sizes = worlds.compiled(strategy.packets)(worlds.KEY, state, cohort)
        _, info = worlds.compiled(strategy.round)(worlds.KEY, state, cohort)
        there = problem.sizes > 0
        np.testing.assert_array_equal(info.bytes_up[there], sizes[there])
        for k in range(3):
            trips = [jax.tree.map(lambda leaf, k=k: leaf[k], packet) for packet in packets]
            assert sum(len(wire.to_bytes(packet)) for packet in trips) == int(sizes[k])
        np.testing.assert_allclose(
            np.asarray(info.bytes_down, int), down * np.asarray(one.bytes_down, int), atol=8 * down
        )
        # Both trips remember what they left out.
        moved = [jax.tree.leaves(state.memory[part]) for part in ("gradient", "model")]
        assert all(len(leaves) for leaves in moved)


def test_a_table_of_private_rows_takes_its_step():
    """fedsgd with a private optimizer and private tables: one step on the mean gradient."""
    users = worlds.named("compact")
    model = models.fedrap(users.num_items, width=4)
    strategy = strategies.fedsgd(model, data.pointwise(2), private=clients.sgd(2.0), batch_size=8)
    state = strategy.init(worlds.KEY, users.num_clients)
    after, _ = worlds.run(strategy, users, state=state)
    before, now = (
        next(x for x in jax.tree.leaves(s.private, is_leaf=rows.is_table) if rows.is_table(x))
        for s in (state, after)
    )
    changed = np.asarray(before.values != now.values).any(-1)
    assert changed[np.asarray(users.store.length) > 0].any(1).all()
    assert not changed[np.asarray(users.store.length) == 0].any()


def test_bad_arguments_are_named():
    problem = Problem("compact")
    for recipe in (strategies.mime, strategies.mime_lite):
        with pytest.raises(ValueError, match="beta=2"):
            recipe(problem.model(), problem.examples(), beta=2)


@pytest.mark.parametrize(
    ("recipe", "uplink"),
    [
        (strategies.fsvrg, compress.random_mask(0.3)),
        pytest.param(strategies.mime, compress.count_sketch(1, 2), marks=pytest.mark.slow),
    ],
    ids=["drawn by the client", "seeded by the round"],
)
def test_both_trips_under_a_random_uplink_are_unbiased(recipe, uplink):
    """E<C, plain> = |plain|^2: what is drawn for c says nothing of what is drawn for the change.

    The problem is quadratic, so that a client's change is linear in c; it is alone, so that c is
    its own. With one draw for both the ratio of the dense part would be 1 / 0.3.
    """
    problem = Problem("compact")
    cohort = worlds.Cohort(jnp.int32([4]), problem.data.store)

    def changes(uplink, starts):
        strategy = made(problem, recipe, uplink=uplink)
        begin = strategy.init(worlds.KEY, problem.clients)

        def one(start):
            state = replace(begin, round=start)
            after = strategy.round(worlds.KEY, state, cohort)[0].shared["model"]
            return of(jax.tree.map(jnp.subtract, after, begin.shared["model"]), jnp.ravel)

        return worlds.compiled(lambda s: jax.lax.map(one, s))(starts)

    found = zip(changes(uplink, jnp.arange(2000)), changes(None, jnp.arange(1)), strict=True)
    for some, plain in found:
        some, plain = np.asarray(some, float), np.asarray(plain[0], float)
        ratio = some @ plain / (plain @ plain)
        noise = ratio.std() / np.sqrt(ratio.size)
        assert 0 < noise < 0.1 and abs(ratio.mean() - 1) < 4 * noise, (ratio.mean(), noise)
