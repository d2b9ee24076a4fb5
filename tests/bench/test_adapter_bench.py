"""The bench of adapters compares the same work: the loop's clients are those of the one call."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import trees
from fedjax_rec.bench import adapters as bench
from fedjax_rec.bench import sharing
from fedjax_rec.bench.main import BENCHES
from fedjax_rec.models.transformers.bert import BertSizes

SMALL = BertSizes(vocabulary=50, width=16, layers=2, heads=2, hidden=32, positions=8)
WORLD = bench.World(SMALL, clients=5, batch=2, tokens=6, rank=2)


@pytest.fixture(scope="module")
def state():
    made = WORLD.strategy().init(jax.random.key(0), WORLD.clients)
    # B starts at zero, which would hide what A does.
    rng = np.random.default_rng(0)
    noise = lambda x: x if x is None else x + 0.1 * jnp.asarray(rng.normal(size=x.shape), x.dtype)
    moved = jax.tree.map(noise, trees.trainable(made.shared))
    return replace(made, shared=trees.with_frozen(moved, made.shared))


@pytest.mark.slow
def test_the_loop_does_what_the_call_does(state):
    shared, losses = bench.one_call(WORLD, state, 2)()
    updates, one_by_one = bench.loop(WORLD, state)()
    assert np.ptp(losses) > 1e-4
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *updates)
    change = jax.tree.map(jnp.subtract, trees.trainable(shared), trees.trainable(state.shared))
    for x, y in zip(jax.tree.leaves(mean), jax.tree.leaves(change), strict=True):
        assert np.abs(np.asarray(y)).max() > 1e-5
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(losses, one_by_one, rtol=1e-5)


def test_frozen_layers_are_one_product_for_all_clients(state):
    """Of a chunk of 5 clients, 5 x 2 x 6 rows go into each frozen kernel in one matrix product."""
    step = jax.jit(WORLD.strategy(5).round)
    text = step.lower(jax.random.key(0), state, WORLD.cohort()).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    for kernel in ("tensor<16x32xf32>", "tensor<32x16xf32>"):
        frozen = [line for line in products if kernel in line]
        assert frozen and all("batching_dims" not in line for line in frozen)


def test_the_bench_is_offered():
    assert BENCHES["adapters"] is bench.adapters and BENCHES["sharing"] is sharing.sharing


@pytest.mark.parametrize("adapted", [None, 1])
@pytest.mark.parametrize("varied", [False, True])
def test_what_is_computed_once_or_packed_is_the_loop(adapted, varied):
    plain = replace(WORLD, adapted=adapted, varied=varied, rate=100.0)
    others = [plain, replace(plain, once=True)]
    if varied:
        others += [replace(world, packed=True) for world in others]
        assert len({int(x) for x in bench.catalogue(SMALL, 6, True)[1]}) > 2
    state = sharing.begun(plain)
    slow = bench.loop(plain, state)
    for world in others:
        mine = sharing.begun(world)
        assert sharing.apart(bench.one_call(world, mine, 2), slow, mine) < 1e-5
    tokens = others[-1].cohort().data.fields["places"].shape[-1] if varied else 6
    assert tokens < 2 * 6
    moved = replace(
        state,
        shared=trees.with_frozen(
            jax.tree.map(lambda x: x if x is None else x + 1e-3, trees.trainable(state.shared)),
            state.shared,
        ),
    )
    assert sharing.apart(bench.one_call(plain, moved, 2), slow, moved) > 1e-4
