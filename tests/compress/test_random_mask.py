"""Random parts of a node: how many, how far off, unbiased, and made again from the seed."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import wire
from fedjax_rec.compress import chain, stochastic_uniform
from fedjax_rec.compress.random_mask import random_k, random_mask
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.wire import Live

KEY = jax.random.key(0)
ITEMS, WIDTH = 40, 6
IDS = np.array([2, 5, 6, 11, 30, 39])
BOTH = pytest.mark.parametrize("make", [random_k, random_mask])
# These tests compile for longer than they run.
fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def table(layout: str, ids=IDS) -> RowsUpdate:
    rows = np.random.default_rng(0).normal(size=(len(ids), WIDTH)).astype(np.float32)
    if layout == "whole":
        live = np.isin(np.arange(ITEMS), ids)
        values = np.zeros((ITEMS, WIDTH), np.float32)
        values[ids] = rows
        return RowsUpdate(jnp.asarray(values), None, jnp.asarray(live), None, ITEMS)
    slots = np.concatenate([np.repeat(ids, 2), np.full(3, ITEMS)])
    live = np.concatenate([[True], slots[1:] != slots[:-1]]) & (slots < ITEMS)
    values = np.full((len(slots), WIDTH), 7.0, np.float32)  # what is not live does not count
    values[live] = rows
    return RowsUpdate(jnp.asarray(values), jnp.int32(slots), jnp.asarray(live), None, ITEMS)


def blocks() -> Live:
    live = np.array([False, True, True, False, True, False])
    values = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    return Live(jnp.asarray(values), jnp.asarray(live))


NODES = {"whole": table("whole"), "ids": table("ids"), "blocks": blocks(),
         "none": table("ids", IDS[:0]), "matrix": jax.random.normal(KEY, (7, 9)),
         "scalar": jnp.ones(())}  # fmt: skip


def dense(node) -> np.ndarray:
    if isinstance(node, RowsUpdate):
        live = jnp.asarray(node.live)
        values = jnp.where(live[:, None], node.values, 0)
        return np.asarray(to_dense(RowsUpdate(values, node.ids, live, None, node.size)))
    if isinstance(node, Live):
        return np.asarray(node.values)[np.asarray(node.live)]
    return np.asarray(node)


def through(compressor, x, key=KEY):
    """(what comes back, the packet), compiled; the same from the bytes, where nothing is known."""

    @fast
    def both(key, x):
        packet = compressor.encode(key, compressor.init(x), x, FIRST)[1]
        return packet, compressor.decode(packet, x, FIRST), wire.nbytes(packet)

    packet, back, size = both(key, x)
    data = wire.to_bytes(packet)
    assert len(data) == int(size)
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
    received = fast(compressor.decode)(arrived, jax.tree.map(jnp.zeros_like, x), FIRST)
    for name in x:
        np.testing.assert_allclose(dense(back[name]), dense(received[name]), rtol=1e-6)
    return back, packet


def real_count(node) -> int:
    return int(node.live.sum()) * node.values.shape[1] if hasattr(node, "live") else node.size


@BOTH
def test_a_part_of_every_node_scaled(make):
    back, packet = through(make(0.3), NODES)
    for name, node in NODES.items():
        x, y, n = dense(node), dense(back[name]), real_count(node)
        sent = int(packet.body[name].live.sum())
        k = math.ceil(0.3 * n)
        scale = n / max(k, 1) if make is random_k else 1 / 0.3
        np.testing.assert_allclose(y, np.where(y != 0, x * scale, 0), rtol=1e-5)
        assert (y != 0).sum() == sent
        assert sent == k if make is random_k else abs(sent - 0.3 * n) <= 5 * (0.21 * n) ** 0.5
        if isinstance(node, RowsUpdate):
            assert (back[name].ids is None) == (node.ids is None)
            assert not np.asarray(back[name].values)[~np.asarray(back[name].live)].any()


@BOTH
def test_all_of_it_is_lossless(make):
    nodes = {name: NODES[name] for name in ("ids", "blocks")}
    back, _ = through(make(1.0), nodes)
    for name, node in nodes.items():
        np.testing.assert_array_equal(dense(back[name]), dense(node))


@functools.cache
def samples(make, fraction: float, count: int = 4000):
    """[count, 36] decoded rows of a table under as many keys, and what they were."""
    compressor, x = make(fraction), table("ids")

    @jax.jit
    @jax.vmap
    def one(key):
        packet = compressor.encode(key, compressor.init(x), x, FIRST)[1]
        return compressor.decode(packet, x, FIRST).values[np.asarray(x.live)]

    keys = jax.random.split(jax.random.key(1), count)
    live = np.asarray(x.live)
    return np.asarray(one(keys)).reshape(count, -1), np.asarray(x.values)[live].reshape(-1)


@BOTH
def test_unbiased_with_the_variance_it_says(make):
    y, x = (a.astype(np.float64) for a in samples(make, 0.25))
    n, k = x.size, math.ceil(0.25 * x.size)
    omega = n / k - 1
    off = ((y - x) ** 2).sum(1) / (x @ x)
    assert abs(off.mean() - omega) < 5 * off.std() / len(y) ** 0.5 + 1e-9
    # Every coordinate is there equally often: k/n of the time, within 5 standard errors.
    often = (y != 0).mean(0)
    assert np.abs(often - k / n).max() < 5 * (0.25 * 0.75 / len(y)) ** 0.5
    along = y @ x / (x @ x)
    assert abs(along.mean() - 1) < 5 * along.std() / len(y) ** 0.5


@BOTH
def test_pairs_are_as_independent_as_they_should_be(make):
    """Neighbours in coordinate, row and column: P(both) is p^2, or k(k-1)/(n(n-1))."""
    there = samples(make, 0.25)[0] != 0
    n, k = there.shape[1], 9
    wanted = k * (k - 1) / (n * (n - 1)) if make is random_k else (k / n) ** 2
    both = there[:, :, None] & there[:, None, :]
    often = both.mean(0)[np.triu_indices(n, 1)]
    spread = (wanted * (1 - wanted) / len(there)) ** 0.5
    assert abs(often.mean() - wanted) < 0.05 * wanted
    assert np.abs(often - wanted).max() < 6 * spread


def test_anchor_of_random_k():
    """d = 1000, k = 100: omega = 9 (run), over vectors of any shape."""
    compressor = random_k(0.1)

    @jax.jit
    @jax.vmap
    def error(key, x):
        back = compressor.decode(compressor.encode(key, compressor.init(x), x, FIRST)[1], x, FIRST)
        return ((back - x) ** 2).sum() / (x**2).sum()

    keys = jax.random.split(KEY, 1000)
    off = np.asarray(error(keys, jax.random.normal(KEY, (1000, 1000))))
    assert abs(off.mean() - 9.0) < 5 * off.std() / 1000**0.5
    np.testing.assert_allclose(error(keys[:4], jnp.ones((4, 1000))), 9.0, rtol=1e-4)


def test_bytes():
    x = {"x": jax.random.normal(KEY, (2**15,))}
    for compressor in (random_k(0.1), random_mask(0.1)):
        _, packet = through(compressor, x)
        sent = int(packet.body["x"].live.sum())
        assert abs(sent / (0.1 * 2**15) - 1) < 0.1
        assert abs(8 * len(wire.to_bytes(packet)) / (32 * sent + 32) - 1) < 0.01


@BOTH
def test_the_next_stage_quantizes_what_was_sent(make):
    nodes = {name: NODES[name] for name in ("whole", "matrix")}
    back, _ = through(chain(make(0.5), stochastic_uniform(256)), nodes)
    for name, node in nodes.items():
        x, y = dense(node), dense(back[name])
        scale = real_count(node) / max(1, math.ceil(0.5 * real_count(node)))
        scale = scale if make is random_k else 2.0
        spread = 2 * np.abs(x).max() * scale
        there = y != 0
        assert (np.abs(y - x * scale)[there] <= spread / 255).all()


@BOTH
@pytest.mark.parametrize("value", [0.0, 1e20, 1e-40])
def test_adversarial_numbers_stay_finite(make, value):
    back, _ = through(make(0.3), {"x": jnp.full(50, value)})
    assert np.isfinite(back["x"]).all()
    assert value < 1e-30 or float(back["x"].max()) > value


@BOTH
def test_wrong_arguments(make):
    for fraction in (0.0, -0.1, 1.1):
        with pytest.raises(ValueError, match=rf"{make.__name__}\(fraction={fraction}\)"):
            make(fraction)
