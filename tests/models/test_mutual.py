"""Mutual distillation against its formula in NumPy, and what of it clients keep and send."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import aggregate, clients, data, models, rows, strategies, trees
from fedjax_rec.models.factorization.fedkd import divergence, fedkd, mutual
from fedjax_rec.types import Cohort, Model

KEY, USERS, ITEMS = jax.random.key(4), 15, 60
OPTIONS = {"xla_backend_optimization_level": 0}
BATCH = {
    "items": jnp.int32([3, 7, 3, 19, 0]),
    "labels": jnp.float32([1, 0, 0, 1, 1]),
    "mask": jnp.float32([1, 1, 1, 1, 0]),
}
PAIRS = {**BATCH, "items": jnp.int32([[3, 1], [7, 2], [3, 4], [19, 3], [0, 0]])}


def mf(width, **kwargs):
    return partial(models.fedmf, ITEMS, width=width, scale=1.0, **kwargs)


def slope(model):
    return jax.jit(jax.value_and_grad(model.loss, argnums=(0, 1)), compiler_options=OPTIONS)


@pytest.fixture(scope="module")
def ds():
    found = data.synthetic(num_users=USERS, num_items=ITEMS, interactions_per_user=9)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def begin(strategy):
    return jax.jit(strategy.init, static_argnums=1, compiler_options=OPTIONS)(KEY, USERS)


def run(step, state, ds, rounds=1, ids=None):
    ids = jnp.arange(USERS) if ids is None else jnp.int32(ids)
    for _ in range(rounds):
        state, info = step(KEY, state, Cohort(ids, ds.store))
    return state, info


def averaging(model, rate=0.5, **kwargs):
    return strategies.fedavg(
        model, data.pointwise(2), optimizer=clients.sgd(rate), batch_size=16,
        aggregator=aggregate.per_row(), clients_per_chunk=4, **kwargs,
    )  # fmt: skip


def tables(shared, private):
    """float64 (teacher's items and user, student's items and user)."""
    kept = private["teacher"]
    found = kept["shared"]["item"], kept["private"]["user"]
    found += shared["student"]["item"], private["student"]["user"]
    return [np.asarray(x.values if rows.is_table(x) else x, np.float64) for x in found]


def logistic(x):
    return 1 / (1 + np.exp(-x))


def kl(p, q):
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def by_hand(held, batch, weight, fixed):
    """The formula; fixed: tables from which what is constant to the gradient is computed."""
    items, mask = np.asarray(batch["items"]), np.asarray(batch["mask"])
    mean = lambda x: (x * mask).sum() / mask.sum()

    def scores(held):
        t, s = held[0][items] @ held[1][0], held[2][items] @ held[3][0]
        return (t, s) if t.ndim == 1 else (t[:, 0] - t[:, 1], s[:, 0] - s[:, 1])

    def task(held):
        y = np.asarray(batch["labels"]) if items.ndim == 1 else 1.0
        losses = [
            -y * np.log(logistic(z)) - (1 - y) * np.log(1 - logistic(z)) for z in scores(held)
        ]
        return mean(losses[0]) + mean(losses[1])

    (t, s), (t0, s0) = scores(held), scores(fixed)
    apart = kl(logistic(s0), logistic(t)) + kl(logistic(t0), logistic(s))
    return task(held) + weight * mean(apart) / task(fixed)


@pytest.mark.parametrize("objective, batch", [(models.bce(), BATCH), (models.bpr(), PAIRS)])
def test_loss_and_gradient_are_the_formula(objective, batch):
    model = mutual(mf(4), mf(2), 0.7, objective)
    shared, private = model.init(KEY)
    held = tables(shared, private)
    value, gradient = slope(model)(shared, private, batch, KEY)
    assert float(value) == pytest.approx(by_hand(held, batch, 0.7, held), rel=1e-5)
    moved = tables(*gradient)
    for which, place in [(0, (3, 1)), (1, (0, 2)), (2, (7, 0)), (3, (0, 1)), (0, (30, 0))]:
        up, down = ([x.copy() for x in held] for _ in range(2))
        up[which][place] += 1e-5
        down[which][place] -= 1e-5
        rise = (by_hand(up, batch, 0.7, held) - by_hand(down, batch, 0.7, held)) / 2e-5
        assert moved[which][place] == pytest.approx(rise, rel=1e-3, abs=1e-6)


def test_divergence_is_zero_for_equals_and_finite_far_out():
    x = jnp.float32([-40.0, -1.0, 0.0, 3.0, 60.0])
    np.testing.assert_allclose(divergence(x, x), 0.0, atol=1e-6)
    p, q = logistic(np.array([0.3, -2.0])), logistic(np.array([1.0, 0.5]))
    want = kl(p, q)
    np.testing.assert_allclose(
        divergence(jnp.float32([1.0, 0.5]), jnp.float32([0.3, -2.0])), want, rtol=1e-5
    )
    assert np.isfinite(jax.grad(lambda x: divergence(x, -x).sum())(x)).all()


def test_a_batch_of_padding_moves_nothing():
    model = mutual(mf(4), mf(2))
    nothing = {**BATCH, "mask": jnp.zeros(5)}
    value, gradient = slope(model)(*model.init(KEY), nothing, KEY)
    assert value == 0
    assert all(not np.asarray(x).any() for x in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_without_distillation_the_student_is_alone_and_as_many_bytes_travel(ds):
    """It trains and is sent as if there were no teacher."""
    alone, pair = averaging(mf(3)()), averaging(mutual(mf(5), mf(3), distillation=0.0))
    first, start = begin(alone), begin(pair)
    start = replace(
        start,
        shared={**start.shared, "student": first.shared},
        private={**start.private, "student": first.private},
    )
    a, told = run(jax.jit(alone.round, compiler_options=OPTIONS), first, ds, 2)
    b, info = run(jax.jit(pair.round, compiler_options=OPTIONS), start, ds, 2)
    np.testing.assert_allclose(
        a.shared["item"].values, b.shared["student"]["item"].values, atol=1e-5
    )
    np.testing.assert_allclose(a.private["user"], b.private["student"]["user"], atol=1e-5)
    np.testing.assert_array_equal(told.bytes_up, info.bytes_up)
    np.testing.assert_array_equal(told.bytes_down, info.bytes_down)


class Scaled(nnx.Module):
    """p_u . (q_i * scale), the scale frozen."""

    def __init__(self, objective, rngs):
        self.item = models.Rows(jax.random.normal(rngs.params(), (ITEMS, 2)))
        self.scale = models.Frozen(jnp.float32([2.0, 3.0]))
        self.user = models.Private(jax.random.normal(rngs.params(), (1, 2)))
        self.objective = objective

    def loss(self, batch, key):
        return self.objective((self.item[batch["items"]] * self.scale) @ self.user[0], batch)

    def score(self, items, user):
        return (self.item[items] * self.scale) @ self.user[user]


def scaled(objective=None) -> Model:
    return models.from_nnx(lambda rngs: Scaled(objective, rngs))


@pytest.mark.parametrize(
    "local, shared",
    [
        pytest.param(
            partial(models.neumf, ITEMS, width=4, layers=(5, 4)), mf(2), marks=pytest.mark.slow
        ),
        (scaled, partial(models.pfedrec, ITEMS, width=3)),
    ],
)
def test_any_two_models_teach_each_other(ds, local, shared):
    """Losses fall, who is not there keeps everything, and either of the two scores."""
    pair = mutual(local, shared)
    strategy = averaging(pair)
    step = jax.jit(strategy.round, compiler_options=OPTIONS)
    start, first = run(step, begin(strategy), ds)
    # Padding stands for those who are not there, so that all rounds are one compiled call.
    ids = [2, 9, 4, 13] + [USERS] * (USERS - 4)
    after, _ = run(step, start, ds, ids=ids)
    others = np.setdiff1d(np.arange(USERS), ids)
    for x, y in zip(jax.tree.leaves(start.private), jax.tree.leaves(after.private), strict=True):
        np.testing.assert_array_equal(x[others], y[others])
    last, info = run(step, start, ds, 8)
    mean = lambda info: (info.metrics["loss"] * info.weight).sum() / info.weight.sum()
    assert mean(info) < 0.98 * mean(first)
    mine = jax.tree.map(lambda x: x[3], last.private)
    items = jnp.int32([5, 1, 30])
    student = mutual(local, shared, scored_by="student")
    # What the teacher does not train stays one copy, which no client holds.
    assert len(jax.tree.leaves(last.shared["frozen"])) == (local is scaled)
    whole = trees.with_frozen(mine["teacher"]["shared"], last.shared["frozen"])
    want = local().score(whole, mine["teacher"]["private"], items, 0)
    np.testing.assert_allclose(pair.score(last.shared, mine, items), want, rtol=1e-6)
    want = shared().score(last.shared["student"], mine["student"], items, 0)
    np.testing.assert_allclose(student.score(last.shared, mine, items), want, rtol=1e-6)


def test_they_move_towards_each_other():
    """After the same steps on one batch, what they predict differs less the more they distil."""

    def apart(weight):
        model = mutual(mf(5), mf(3), weight)
        student = mutual(mf(5), mf(3), weight, scored_by="student")
        step, held = slope(model), model.init(KEY)
        for _ in range(20):
            held = jax.tree.map(lambda x, g: x - 0.1 * g, held, step(*held, BATCH, KEY)[1])
        t, s = (jax.nn.sigmoid(m.score(*held, BATCH["items"])) for m in (model, student))
        return float(jnp.abs(t - s)[:4].mean())

    assert apart(2.0) < 0.5 * apart(0.0)


def test_teachers_start_alike_but_for_what_is_the_clients():
    model = mutual(mf(4), mf(2))
    one, other = (model.init(jax.random.key(k), KEY)[1]["teacher"] for k in (1, 2))
    item = np.asarray(one["shared"]["item"].values)
    np.testing.assert_array_equal(item, other["shared"]["item"].values)
    assert item.std() > 0.9 and (one["private"]["user"] != other["private"]["user"]).all()


def test_fedkd_is_a_wide_and_a_narrow_factorization():
    shared, private = jax.eval_shape(fedkd(ITEMS, width=6, shared_width=2).init, KEY)
    assert [t.shape for t in rows.tables(shared)] == [(ITEMS, 2)]
    assert [t.shape for t in rows.tables(private)] == [(ITEMS, 6)]


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"mutual\(distillation=-1\) is too small"):
        mutual(mf(2), mf(2), -1)
    with pytest.raises(ValueError, match=r"scored_by='techer'\) is unknown \(did you mean 'teac"):
        mutual(mf(2), mf(2), scored_by="techer")
    with pytest.raises(ValueError, match=r"fedkd\(shared_width=0\) must be positive"):
        fedkd(ITEMS, shared_width=0)
