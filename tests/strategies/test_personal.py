"""The personal recipes: laws of their rounds, and what each is made of."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import clients, compress, data, models, strategies
from fedjax_rec.types import Cohort

KEY, USERS = jax.random.key(2), 9
OPTIONS = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
SGD = clients.sgd(0.5)
RECIPES = {
    "fedper": (strategies.fedper, {"optimizer": SGD}),
    "fedrep": (strategies.fedrep, {"optimizer": SGD, "head_optimizer": SGD, "head_epochs": 2}),
    "fine_tuned_fedavg": (strategies.fine_tuned_fedavg, {"optimizer": SGD}),
    "ditto": (strategies.ditto, {"optimizer": SGD}),
    "pfedme": (
        strategies.pfedme,
        {"optimizer": clients.sgd(0.2), "personal": SGD, "lam": 1.0, "beta": 0.9},
    ),
    "apfl": (strategies.apfl, {"optimizer": SGD, "alpha_rate": 0.1}),
    "reptile": (strategies.reptile, {"optimizer": SGD, "epsilon": 0.9}),
    "per_fedavg": (strategies.per_fedavg, {"optimizer": SGD, "alpha": 0.2}),
    "fedrecon": (
        strategies.fedrecon,
        {"optimizer": SGD, "private_optimizer": SGD, "private_epochs": 5},
    ),
    "ifca": (strategies.ifca, {"optimizer": SGD}),
}
# The others take as long; tests of their clients are quick.
QUICK = {("reptile", 60)}


def packed(items):
    """Of 9 users with up to 6 interactions; user 4 has none."""
    found = data.synthetic(num_users=USERS, num_items=items, interactions_per_user=6)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    return replace(store, length=store.length.at[4].set(0))


def probe(scorer, data):
    return {"all": scorer()(slice(None))}


@pytest.mark.parametrize(
    ("name", "items"),
    [
        pytest.param(n, i, marks=[] if (n, i) in QUICK else [pytest.mark.slow])
        for n in RECIPES
        for i in (60, 12)
    ],
)
def test_laws_of_a_round(name, items):
    """Compressed and chunked: who is touched, order and padding, one trace, resumed to the bit."""
    store = packed(items)
    recipe, settings = RECIPES[name]
    strategy = recipe(
        models.fedmf(items, width=4, scale=0.5), data.pointwise(2), probe, batch_size=4,
        clients_per_chunk=4, uplink=compress.error_feedback(compress.top_k(0.5)), **settings,
    )  # fmt: skip
    traces = []

    def traced(key, state, cohort):
        traces.append(1)
        return strategy.round(key, state, cohort)

    step = jax.jit(traced, compiler_options=OPTIONS)
    start = strategy.init(KEY, USERS)
    ids = np.int32([7, USERS, 0, 4, 2, 8])
    state, info = step(KEY, start, Cohort(jnp.asarray(ids), store))
    assert info.metrics["all"].shape == (6, items)
    tuned = {"fine_tuned_fedavg", "pfedme", "per_fedavg"}
    assert ("tuned_loss" in info.metrics) == (name in tuned)
    for x in jax.tree.leaves(info):
        assert np.isfinite(np.asarray(x)).all() and not np.asarray(x)[1].any()
    assert float(info.weight[3]) == 0 and (np.asarray(info.weight)[[0, 2, 4, 5]] > 0).all()
    # Absent clients, and the one without examples, keep what they have to the bit.
    held, others = lambda s: (s.private, s.memory), np.int32([1, 3, 4, 5, 6])
    for x, y in zip(*map(jax.tree.leaves, map(held, (start, state))), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[others], np.asarray(y)[others])
    moved = [(np.asarray(x) != np.asarray(y)) for x, y in
             zip(*map(jax.tree.leaves, (start.private, state.private)), strict=True)]  # fmt: skip
    there = np.stack([m.reshape(USERS, -1).any(1) for m in moved]).any(0)
    assert np.flatnonzero(there).tolist() == [0, 2, 7, 8]

    order = np.array([3, 5, 0, 4, 2, 1])
    other, seen = step(KEY, start, Cohort(jnp.asarray(ids[order]), store))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, atol=3e-6)
    np.testing.assert_array_equal(np.asarray(info.bytes_up)[order], seen.bytes_up)
    np.testing.assert_array_equal(np.asarray(info.bytes_down)[order], seen.bytes_down)

    everyone = Cohort(jnp.int32([0, 1, 2, 3, 5, 6]), store)
    saved = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    a, b = (step(KEY, s, everyone)[0] for s in (state, saved))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)

    losses = []
    for _ in range(60):
        state, info = step(KEY, state, everyone)
        losses.append(float((info.metrics["loss"] * info.weight).sum() / info.weight.sum()))
    assert np.mean(losses[-20:]) < np.mean(losses[:10]) - 0.003
    assert len(traces) == 1
    if name == "fedrecon":
        # What private parameters were does not matter.
        worn = replace(state, private=jax.tree.map(lambda x: x + 1, state.private))
        (a, _), (b, _) = (step(KEY, s, everyone) for s in (state, worn))
        np.testing.assert_array_equal(a.shared["item"].values, b.shared["item"].values)
        np.testing.assert_array_equal(a.private["user"][:4], b.private["user"][:4])


def test_models_without_private_parameters_have_no_head():
    model = models.from_nnx(lambda rngs: Popularity(12, rngs))
    for recipe in (strategies.fedrep, strategies.fedrecon):
        strategy = recipe(model, data.pointwise(2))
        state = strategy.init(KEY, USERS)
        with pytest.raises(ValueError, match=r"groups\('private': ...\) matches no parameter"):
            jax.eval_shape(strategy.round, KEY, state, Cohort(jnp.arange(USERS), packed(12)))


class Popularity(nnx.Module):
    def __init__(self, num_items, rngs):
        self.item = models.Rows(jnp.zeros((num_items, 1)))

    def loss(self, batch, key):
        return models.bce()(self.item[batch["items"]][..., 0], batch)

    def score(self, items, user):
        return self.item[items][..., 0]


def test_without_a_probe_no_client_is_tuned():
    strategy = strategies.pfedme(models.fedmf(12, width=4), data.pointwise(2))
    state = jax.eval_shape(lambda: strategy.init(KEY, USERS))
    cohort = Cohort(jnp.arange(USERS), packed(12))
    info = jax.eval_shape(strategy.round, KEY, state, cohort)[1]
    assert "tuned_loss" not in info.metrics
