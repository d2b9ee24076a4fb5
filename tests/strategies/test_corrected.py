"""Drift corrections against NumPy loops, and what they are for, against closed forms."""

import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratic import Problem, from_start, of, rounds, worlds

from fedjax_rec import aggregate, clients, compress, data, models, rows, strategies
from fedjax_rec.data.batches import Batches
from fedjax_rec.types import Model, Stage

RATE, STEPS = 0.3, 4
WORLDS = pytest.mark.parametrize("name", ["whole", "compact"])


def cohorts_of(problem):
    """Some clients, others, and again some of the first; one of them has nothing."""
    n = problem.clients
    return [np.arange(0, n, 2), np.arange(1, n, 2), np.arange(0, n, 3)]


def many_cohorts(problem, count=100):
    """Five clients or so at a time, and now and then nobody."""
    draw = np.random.default_rng(5)
    return [np.flatnonzero(draw.uniform(size=problem.clients) < 0.2) for _ in range(count)]


def made(problem, recipe, **kwargs):
    settings = dict(optimizer=clients.sgd(RATE), epochs=STEPS, batch_size=128, clients_per_chunk=4)
    return recipe(problem.model(), problem.examples(), **{**settings, **kwargs})


def descended(problem, k, q, x, direction):
    """(q, x) after STEPS steps of client k along direction(gradients, q, x), on every row."""
    for _ in range(STEPS):
        dq, dx = direction(problem.gradient(k, q, x), q, x)
        q, x = q - RATE * dq, x - RATE * dx
    return q, x


def of_server(h):
    """(of q, of x) of FedDyn's h."""
    return np.asarray(h["item"]), np.asarray(h["x"])


def check(state, q, x):
    got_q, got_x = of(state.shared.get("model", state.shared))
    np.testing.assert_allclose(got_q, q, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(got_x, x, rtol=2e-4, atol=2e-5)


@WORLDS
def test_fedprox_is_its_loop(name):
    problem, mu = Problem(name), 0.7
    cohorts = cohorts_of(problem)
    state, _ = rounds(problem, made(problem, strategies.fedprox, mu=mu), cohorts)
    q, x = problem.start, np.zeros(3)
    for ids in cohorts:
        pulled = lambda g, a, b, q=q, x=x: (g[0] + mu * (a - q), g[1] + mu * (b - x))
        w = problem.sizes[ids] / problem.sizes[ids].sum()
        after = [descended(problem, k, q, x, pulled) for k in ids]
        q, x = (
            sum(v * part for v, part in zip(w, p, strict=True)) for p in zip(*after, strict=True)
        )
    check(state, q, x)


@WORLDS
def test_scaffold_is_its_loop_and_c_is_the_mean(name):
    """Of the whole array, over a hundred rounds."""
    problem = Problem(name)
    cohorts = many_cohorts(problem)
    state, _ = rounds(problem, made(problem, strategies.scaffold), cohorts)
    n = problem.clients
    q, x = problem.start, np.zeros(3)
    own_q, own_x = np.zeros((n, problem.items, 3)), np.zeros((n, 3))
    for ids in cohorts:
        c_q, c_x = own_q.mean(0), own_x.mean(0)
        there, moved = [k for k in ids if problem.sizes[k]], []
        for k in there:
            towards = lambda g, a, b, k=k, c_q=c_q, c_x=c_x: (
                g[0] - own_q[k] + c_q,
                g[1] - own_x[k] + c_x,
            )
            after = descended(problem, k, q, x, towards)
            # Option II of the paper.
            own_q[k] += -c_q + (q - after[0]) / (STEPS * RATE)
            own_x[k] += -c_x + (x - after[1]) / (STEPS * RATE)
            moved.append(after)
        if moved:
            q, x = (np.mean(p, 0) for p in zip(*moved, strict=True))
    check(state, q, x)
    for got, want in zip(of(state.private["control"]), (own_q, own_x), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    for got, want in zip(of(state.shared["control"]), (own_q, own_x), strict=True):
        np.testing.assert_allclose(got, want.mean(0), rtol=2e-4, atol=2e-5)


@WORLDS
def test_feddyn_is_its_loop(name):
    """Of the whole array, over a hundred rounds."""
    problem, alpha = Problem(name), 0.5
    cohorts = many_cohorts(problem)
    state, _ = rounds(problem, made(problem, strategies.feddyn, alpha=alpha), cohorts)
    n = problem.clients
    q, x, h_q, h_x = problem.start, np.zeros(3), np.zeros((problem.items, 3)), np.zeros(3)
    own_q, own_x = np.zeros((n, problem.items, 3)), np.zeros((n, 3))
    for ids in cohorts:
        change = []
        for k in (k for k in ids if problem.sizes[k]):
            towards = lambda g, a, b, k=k, q=q, x=x: (
                g[0] - own_q[k] + alpha * (a - q),
                g[1] - own_x[k] + alpha * (b - x),
            )
            after = descended(problem, k, q, x, towards)
            change.append((after[0] - q, after[1] - x))
            own_q[k] -= alpha * change[-1][0]
            own_x[k] -= alpha * change[-1][1]
        if not change:
            continue
        of_q, of_x = (sum(p) for p in zip(*change, strict=True))
        h_q, h_x = h_q - alpha * of_q / n, h_x - alpha * of_x / n
        q = q + of_q / len(change) - h_q / alpha
        x = x + of_x / len(change) - h_x / alpha
    check(state, q, x)
    for got, want in zip(of(state.private["linear"]), (own_q, own_x), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-5)
    for got, want in zip(of_server(state.server["optimizer"]), (own_q, own_x), strict=True):
        np.testing.assert_allclose(got, want.mean(0), rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("recipe", [strategies.scaffold, strategies.feddyn])
def test_variates_keep_step_with_the_server_where_clients_are_stopped(recipe):
    """The server's is the mean of the clients', those that a deadline or a stage stops included."""
    problem = Problem("compact")
    n = problem.clients
    clock = strategies.traced_clock(np.where(np.arange(n) % 3 == 1, 1e-3, 1e9), 1e9, 1e9)

    def held_back(key, memory, upload, now):
        return memory, replace(upload, weight=jnp.where(now.client % 3 == 2, 0.0, upload.weight))

    strategy = made(problem, recipe, clock=clock, deadline=1.0, stages=[Stage(held_back)])
    cohorts = many_cohorts(problem, 8)
    state, infos = rounds(problem, strategy, cohorts)
    own = of(state.private["control" if recipe is strategies.scaffold else "linear"])
    server = (
        of(state.shared["control"])
        if recipe is strategies.scaffold
        else of_server(state.server["optimizer"])
    )
    for mine, theirs in zip(own, server, strict=True):
        np.testing.assert_allclose(mine.mean(0), theirs, rtol=1e-4, atol=1e-6)
        assert np.abs(theirs).max() > 1e-3
        moved = np.flatnonzero((mine != 0).reshape(n, -1).any(1))
        there = np.unique(np.concatenate(cohorts))
        assert set(moved) == {k for k in there if k % 3 == 0 and problem.sizes[k]}
    late = np.concatenate([np.asarray(info.metrics["late"]) for info in infos])
    assert late.max() > 0


def test_over_selection_leaves_the_stopped_as_they_were():
    problem = Problem("compact")
    inner = made(problem, strategies.scaffold, clock=strategies.lognormal_clock())
    strategy = strategies.over_selection(inner, 5)
    state, _ = rounds(problem, strategy, cohorts_of(problem))
    for mine, theirs in zip(of(state.private["control"]), of(state.shared["control"]), strict=True):
        np.testing.assert_allclose(mine.mean(0), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("by_row", [False, True])
def test_fednova_is_a_mean_of_updates_by_step(by_row):
    """Of one client alone it is federated averaging, which gives the parts of the mean."""
    problem = Problem("whole")
    some = np.flatnonzero(problem.sizes)[:6]
    aggregator = aggregate.normalized_per_row() if by_row else aggregate.normalized()
    after = from_start(
        problem, made(problem, strategies.fednova, aggregator=aggregator, batch_size=8, epochs=1)
    )
    q, x = zip(*(after([k]) for k in some), strict=True)
    tau = -(-problem.sizes[some] // 8)
    p = problem.sizes[some] / problem.sizes[some].sum()
    share = np.repeat(p[:, None], problem.items, 1)
    if by_row:
        touched = np.array([np.isin(np.arange(problem.items), problem.own[k]) for k in some])
        share = touched / np.maximum(touched.sum(0), 1)
    moved = (share / tau[:, None])[..., None] * (np.array(q) - problem.start)
    got_q, got_x = after(some)
    np.testing.assert_allclose(got_q, problem.start + (p @ tau) * moved.sum(0), atol=2e-6)
    np.testing.assert_allclose(got_x, (p @ tau) * ((p / tau) @ np.array(x)), atol=2e-6)


def vectors(curve, goal) -> tuple[Model, Batches]:
    """1/2 sum_d a_kd (x_d - b_kd)^2 of one dense vector; an example is all of it."""
    curve, goal = jnp.asarray(curve), jnp.asarray(goal)

    def loss(shared, private, batch, key):
        far = 0.5 * (batch["a"] * (shared["x"] - batch["b"]) ** 2).sum(-1)
        return (batch["mask"] * far).sum() / jnp.maximum(batch["mask"].sum(), 1)

    def draw(seed, data, q):
        same = lambda x: jnp.broadcast_to(x[data.id], (q.size, x.shape[1]))
        return {"a": same(curve), "b": same(goal)}

    model = Model(lambda key, common=None: ({"x": jnp.zeros(curve.shape[1])}, {}), loss)
    examples = Batches(lambda data: data.length, lambda store: store.longest, draw, {})
    return model, examples


def run(strategy, everyone, times):
    """State after `times` rounds of all clients, in one compiled loop."""
    cohort = worlds.Cohort(jnp.arange(everyone.num_clients), everyone.store)
    one = lambda _, state: strategy.round(worlds.KEY, state, cohort)[0]
    go = worlds.compiled(lambda state: jax.lax.fori_loop(0, times, one, state))
    return go(strategy.init(worlds.KEY, everyone.num_clients))


@pytest.fixture(scope="module")
def unlike():
    """Clients of unlike curvature and goals, and the optimum of their mean."""
    everyone = worlds.named("compact")
    everyone = replace(
        everyone, store=replace(everyone.store, length=jnp.maximum(everyone.store.length, 1))
    )
    rng = np.random.default_rng(3)
    n = everyone.num_clients
    curve = rng.uniform(0.1, 3.0, (n, 4)).astype(np.float32)
    goal = rng.normal(size=(n, 4)).astype(np.float32)
    return everyone, curve, goal


def test_scaffold_and_feddyn_reach_the_optimum_that_fedavg_misses(unlike):
    everyone, curve, goal = unlike
    best = (curve * goal).sum(0) / curve.sum(0)
    model, examples = vectors(curve, goal)
    same = dict(optimizer=clients.sgd(0.2), steps=10, batch_size=4, aggregator=aggregate.uniform())
    far = {}
    for name, recipe, more in (
        ("fedavg", strategies.fedavg, {}),
        ("scaffold", strategies.scaffold, {}),
        ("feddyn", strategies.feddyn, {"alpha": 0.5}),
    ):
        shared = run(recipe(model, examples, **same, **more), everyone, 60).shared
        far[name] = float(np.abs(np.asarray(shared.get("model", shared)["x"]) - best).max())
    # Fixed point of FedAvg: sum_k (1 - (1 - eta a_k)^T) (b_k - x) = 0.
    pull = 1 - (1 - 0.2 * curve) ** 10
    biased = (pull * goal).sum(0) / pull.sum(0)
    assert far["fedavg"] == pytest.approx(np.abs(biased - best).max(), rel=1e-3)
    assert far["fedavg"] > 0.1
    assert far["scaffold"] < 1e-2 * far["fedavg"] and far["feddyn"] < 1e-2 * far["fedavg"]


def test_fednova_takes_out_what_unequal_steps_do(unlike):
    everyone, _, goal = unlike
    n = np.asarray(everyone.store.length, float)
    curve = np.ones_like(goal)
    best = (n[:, None] * goal).sum(0) / n.sum()
    model, examples = vectors(curve, goal)
    rate, same = 0.02, dict(optimizer=clients.sgd(0.02), epochs=3, batch_size=1)
    tau = 3 * n
    pull = 1 - (1 - rate) ** tau
    fixed = {
        "fedavg": (n * pull) @ goal / (n @ pull),
        "fednova": (n * pull / tau) @ goal / (n @ (pull / tau)),
    }
    far = {}
    for name, recipe in (("fedavg", strategies.fedavg), ("fednova", strategies.fednova)):
        x = np.asarray(run(recipe(model, examples, **same), everyone, 200).shared["x"])
        np.testing.assert_allclose(x, fixed[name], atol=2e-5)
        far[name] = np.abs(x - best).max()
    assert far["fednova"] < 0.2 * far["fedavg"]
    # To first order in the step: with a tenth of it, the distance is a tenth.
    small = 1 - (1 - rate / 10) ** tau
    there = (n * small / tau) @ goal / (n @ (small / tau))
    assert np.abs(there - best).max() < 0.15 * far["fednova"]


def test_momentum_and_proximal_amounts_are_sums_of_what_gradients_weigh():
    from fedjax_rec.aggregate.normalized import _amount
    from fedjax_rec.types import Upload

    steps = jnp.float32([1, 2, 5, 0])
    uploads = Upload({}, jnp.ones(4), {}, {"steps": steps})
    for r in (0.5, 0.9):
        # The gradient of step j moves the model in all later ones: 1 + r + ... + r^(T - 1 - j).
        want = [sum((1 - r ** (t - j)) / (1 - r) for j in range(t)) for t in (1, 2, 5)] + [1]
        np.testing.assert_allclose(_amount("x", r, None)(uploads), want, rtol=1e-5)
    want = [sum(0.9**j for j in range(t)) for t in (1, 2, 5)] + [1]
    np.testing.assert_allclose(_amount("x", None, 0.1)(uploads), want, rtol=1e-5)


@pytest.mark.slow
def test_scaffold_sends_both_parts_and_a_compressor_sees_both():
    problem = Problem("compact")
    everyone = [np.arange(problem.clients)]
    _, (plain,) = rounds(problem, made(problem, strategies.fedavg), everyone)
    _, (both,) = rounds(problem, made(problem, strategies.scaffold), everyone)
    twice, down = 2 * np.asarray(plain.bytes_up, int), np.asarray(both.bytes_down, int)
    # Up come the steps as well, a number and its header.
    assert (np.abs(down - twice) <= 8).all() and (np.asarray(both.bytes_up, int) == down + 6).all()
    _, (half,) = rounds(
        problem, made(problem, strategies.scaffold, uplink=compress.cast()), everyone
    )
    assert half.bytes_up.sum() < 0.65 * both.bytes_up.sum()


def test_scores_are_of_the_model_inside():
    users = worlds.named("compact")
    model = models.fedmf(users.num_items, width=4)
    for recipe in (strategies.scaffold, strategies.feddyn):
        strategy = recipe(model, data.pointwise(4))
        state = strategy.init(worlds.KEY, users.num_clients)
        private = jax.tree.map(lambda x: x[3], state.private)
        want = model.score(state.shared["model"], private["model"], slice(None), 0)
        got = strategy.model.score(state.shared, private, slice(None), 0)
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("recipe", [strategies.feddyn, strategies.mime_lite, strategies.fsvrg])
def test_a_norm_over_rows_that_a_client_does_not_have_is_refused(recipe):
    """Clipped to a global norm, a table's rows would depend on those that are not there."""
    problem = Problem("compact")
    clipped = optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(RATE))
    strategy = made(problem, recipe, optimizer=clipped)
    cohort = worlds.Cohort(jnp.arange(problem.clients), problem.data.store)
    state = strategy.init(worlds.KEY, problem.clients)
    with pytest.raises(ValueError, match=r"shared/item moves too, .* use clients\.sgd"):
        jax.eval_shape(strategy.round, worlds.KEY, state, cohort)


def test_kept_momentum_is_clipped_alike_in_both_layouts(monkeypatch):
    """The norm is of the rows that the client touches in the round, whichever others it holds."""
    from fedjax_rec.clients import keeping, training

    users = worlds.named("compact")
    model = models.fedmf(users.num_items, width=4, scale=0.3)
    optimizer = optax.chain(optax.trace(0.8), optax.clip_by_global_norm(0.02), optax.sgd(0.3))

    def item():
        strategy = strategies.fedavg_keeping(
            model, data.pointwise(4), optimizer=optimizer, batch_size=16, clients_per_chunk=4
        )
        return worlds.run(strategy, users, rounds=3)[0].shared["item"].values

    touched = item()
    for module in (sys.modules[keeping.__module__], training):
        monkeypatch.setattr(module, "localize", lambda s, turns: rows.map_tables(rows.whole, s))
    np.testing.assert_allclose(item(), touched, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m, e: strategies.fedprox(m, e, mu=-1), r"proximal\(mu=-1\)"),
        (lambda m, e: strategies.feddyn(m, e, alpha=0), r"dynamic\(alpha=0\) must be positive"),
        (lambda m, e: aggregate.normalized(momentum=1.0), "momentum < 1"),
        (lambda m, e: aggregate.normalized(0.5, 0.5), "not both"),
    ],
)
def test_bad_arguments_are_named(call, says):
    problem = Problem("compact")
    with pytest.raises(ValueError, match=says):
        call(problem.model(), problem.examples())
