"""A round that is dealt to devices is the round on one: every strategy, to float tolerance.

Three devices own 8, 8 and 7 of 23 clients; cohorts of 11 are drawn, so that devices differ in how
many they play, and one client has no example. The strategies take turns, see `rotating`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from rotating import marks
from strategies_registry import STRATEGIES, client_of, fedmf
from worlds import KEY, federated, named

from fedjax_rec import aggregate, data, models, rows, simulate, strategies
from fedjax_rec.types import Aggregator

# What they send waits in one place.
ON_ONE = {"asynchronous(constant clock)", "fedbuff(23)", "fedasync(23)"}


def guided_by_most(model, examples):
    return strategies.graph_guided(
        client_of(models.guided(model, 0.1), examples), model, strategies.cosine_similarity(),
        strategies.above_mean(0.5), clients_per_chunk=4,
    )  # fmt: skip


# After few rounds models are alike, and rounding decides which of them are more so than the mean.
STEADY = {
    "graph_guided(cosine_similarity)": guided_by_most,
    "gpfedrec()": lambda m, e: strategies.gpfedrec(
        m, e, similarity=strategies.cosine_similarity(), neighbours=strategies.above_mean(0.5)
    ),
}
ROUNDS = 3


def after(strategy, store, devices: int, cohorts):
    """(state, metrics) after some rounds, as NumPy."""
    mesh = simulate.clients_mesh(devices)
    calls = simulate.program(lambda _: simulate.Parts(strategy, cohorts), mesh).of(KEY)
    with fast():
        (*_, end) = simulate.simulate(strategy, store, ROUNDS, KEY, cohorts, every=1, calls=calls)
    return jax.tree.map(as_numpy, end.state), end.metrics


def as_numpy(x):
    typed = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(x) if typed else x)


def same_run(strategy, store, devices: int, cohorts):
    one, of_one = after(strategy, store, 1, cohorts)
    many, of_many = after(strategy, store, devices, cohorts)
    assert jax.tree.structure(one) == jax.tree.structure(many)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        np.testing.assert_allclose(
            np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=1e-4, atol=2e-5
        )
    for name in of_one.keys() - {"seconds"}:
        # What is 0 but for rounding, such as how inexact an exact rule is, agrees to rounding.
        np.testing.assert_allclose(of_many[name], of_one[name], rtol=1e-4, atol=1e-6, err_msg=name)


def steady(name: str):
    """(strategy, data): an entry of the registry whose numbers do not hang on rounding."""
    recipe, packed = STRATEGIES[name], named("compact")
    make = STEADY.get(name, recipe.make)
    return make(recipe.model(packed.num_items), data.pointwise(4)), packed


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=marks(f"devices/{x}", 24)) for x in STRATEGIES]
)
def test_every_strategy_on_three_devices(name):
    strategy, packed = steady(name)
    if strategy.chunk is None or name in ON_ONE:  # nothing that could be dealt out
        with pytest.raises(ValueError, match="use devices=1"):
            after(strategy, packed.store, 3, simulate.uniform(11))
        return
    same_run(strategy, packed.store, 3, simulate.uniform(11))


@pytest.mark.parametrize(
    "cohorts", [simulate.full(), simulate.fixed([3]), simulate.poisson(0.2, 9)]
)
def test_cohorts_that_devices_share_unevenly(cohorts):
    packed = named("compact")
    same_run(federated(packed, fedmf(packed.num_items)), packed.store, 4, cohorts)


def listing() -> Aggregator:
    """The upload of the last client alone: its summaries are listed and not added."""

    def reduce(state, uploads, now):
        return {"update": uploads.update, "last": jnp.where(uploads.weight > 0, now.client, -1)}

    def finish(key, state, summary, now):
        chosen = (summary["last"] == summary["last"].max()).astype(jnp.float32)
        return state, rows.weighted_sum(chosen, summary["update"]), chosen

    return Aggregator(lambda shared: (), reduce, finish, additive=False)


def test_verdicts_on_listed_uploads_reach_their_clients():
    """Who is chosen keeps what it made, whichever device played it."""
    packed = named("compact")
    model = fedmf(packed.num_items)
    client = client_of(model, data.pointwise(4))
    strategy = strategies.federated(client, model, aggregator=listing(), clients_per_chunk=2)
    same_run(strategy, packed.store, 3, simulate.uniform(11))


@pytest.mark.parametrize(
    "rule",
    [
        aggregate.trimmed_mean(1),
        aggregate.centered_clip(0.5),
        aggregate.mixed(aggregate.bucketing(2), aggregate.multi_krum(1)),
    ],
    ids=["trimmed_mean", "centered_clip", "bucketing"],
)
def test_robust_rules_see_the_clients_of_all_devices(rule):
    """And know them by their ids, whichever device played them."""
    packed = named("compact")
    model = fedmf(packed.num_items)
    client = client_of(model, data.pointwise(4))
    strategy = strategies.federated(client, model, aggregator=rule, clients_per_chunk=2)
    same_run(strategy, packed.store, 3, simulate.uniform(11))


def test_clients_keep_keys_counts_and_flags():
    """Leaves of any type, of 23 clients on three devices."""
    packed = named("compact")
    model = fedmf(packed.num_items)
    client = client_of(model, data.pointwise(4))

    def update(key, private, shared, data, now):
        row, upload = client.update(key, private["row"], shared, data, now)
        moved = {"seed": jax.random.fold_in(private["seed"], 1), "turns": private["turns"] + 1}
        return {"row": row, "odd": ~private["odd"], **moved}, upload

    def first(key, id):
        more = {"seed": jax.random.fold_in(key, id), "turns": jnp.int8(0), "odd": jnp.bool_(False)}
        return {"row": client.init(key, id), **more}

    keeping = dataclasses.replace(client, init=first, update=update, examples=None)
    strategy = strategies.federated(keeping, model, clients_per_chunk=2)
    same_run(strategy, packed.store, 3, simulate.uniform(11))


def test_devices_of_a_cpu_share_its_memory():
    """The forecast is of one device, which has a third of the host's memory."""
    packed = named("compact")
    strategy = federated(packed, fedmf(packed.num_items))
    like = jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))
    with strategies.memory_budget("300MiB"), fast():
        alone, each = (
            simulate.forecast(
                simulate.program(lambda _: simulate.Parts(strategy), simulate.clients_mesh(n))
                .of(KEY)
                .compiled(like, packed.store, 1, 1),
                like,
            )
            for n in (1, 3)
        )
    assert (alone.allowed, each.allowed) == (300 * 2**20, 100 * 2**20)
    assert each.line().endswith("on each of 3 devices") and "devices" not in alone.line()
    assert each.state < alone.state / 2


def test_more_devices_than_there_are():
    with pytest.raises(ValueError, match=r"devices=99, and there are \d+ \(cpu\); use at most"):
        simulate.clients_mesh(99)
    assert simulate.clients_mesh(1) is None
