"""Quantizers: variance in closed form, no bias, published anchors, rows, sizes, arrival, extremes.

Those of `ternary` are here too, since the same is claimed of them; their anchors are in
test_ternary.py.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import wire
from fedjax_rec.compress.quantize import (
    natural,
    qsgd,
    qsgd_elias,
    rounded,
    stochastic_uniform,
    uniform,
)
from fedjax_rec.compress.ternary import scaled_sign, terngrad
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.wire import Live, is_node

KEY = jax.random.key(5)
NORMAL = np.random.default_rng(0).normal(size=65536).astype(np.float32)
FAST = {"xla_backend_optimization_level": 0}

MADE = {
    "stochastic_uniform(16)": stochastic_uniform(16),
    "stochastic_uniform(1000)": stochastic_uniform(1000),
    "qsgd(7)": qsgd(7),
    "qsgd(256)": qsgd(256),
    "qsgd_elias()": qsgd_elias(),
    "qsgd_elias(5)": qsgd_elias(5),
    "natural()": natural(),
    "terngrad()": terngrad(),
    "terngrad(2.5)": terngrad(2.5),
    "scaled_sign()": scaled_sign(),
}
BIASED = {"terngrad(2.5)", "scaled_sign()"}
ALL = pytest.mark.parametrize("name", MADE)
UNBIASED = pytest.mark.parametrize("name", [n for n in MADE if n not in BIASED])


def touched(x, layout):
    """`x` [5, w] as rows 2, 3, 5, 8, 13 of 40, with rubbish in rows that are not live."""
    x = np.asarray(x, np.float32)
    ids = np.array([2, 3, 5, 8, 13])
    if layout == "whole":
        values = np.full((40, x.shape[1]), 1e6, np.float32)
        values[ids] = x
        return RowsUpdate(jnp.asarray(values), None, jnp.isin(jnp.arange(40), ids), None, 40)
    values = np.concatenate([x, np.full((3, x.shape[1]), -1e6, np.float32)])
    slots = np.array([*ids, 40, 40, 40], np.int32)
    live = jnp.arange(8) < 5
    if layout == "blocks":
        return Live(jnp.asarray(values), live)
    return RowsUpdate(jnp.asarray(values), jnp.asarray(slots), live, None, 40)


def update(draw) -> dict:
    return {
        "item": touched(draw((5, 6)), "whole"),
        "tail": touched(draw((5, 6)), "ids"),
        "blocks": touched(draw((5, 6)), "blocks"),
        "vector": jnp.float32(draw((67,))),
        "bias": jnp.float32(draw(())),
    }


def real(node) -> np.ndarray:
    if not is_node(node):
        return np.asarray(node)
    return np.asarray(node.values)[np.asarray(node.live)]


def blank(x):
    return jax.tree.map(jnp.zeros_like, x)


@functools.cache
def compiled(name):
    """(encode, decode), each compiled once for all tests; encode gives packet and bytes."""
    compressor = MADE[name]

    def encode(key, x):
        packet = compressor.encode(key, compressor.init(x), x, FIRST)[1]
        return packet, wire.nbytes(packet)

    decode = lambda packet, like: compressor.decode(packet, like, FIRST)
    return tuple(jax.jit(end, compiler_options=FAST) for end in (encode, decode))


def samples(name, x, count, seed=1):
    """[count, d]: x decoded under as many keys."""
    compressor = MADE[name]

    def one(key):
        return compressor.decode(compressor.encode(key, compressor.init(x), x, FIRST)[1], x, FIRST)

    every = jax.jit(jax.vmap(one), compiler_options=FAST)
    return np.asarray(every(jax.random.split(jax.random.key(seed), count)), np.float64)


def neighbours(name, x):
    """(l, u) of every coordinate, in float64, from the definitions."""
    x = np.float64(x)
    if name.startswith("natural"):
        low = 2.0 ** (np.frexp(np.abs(x))[1] - 1)
        return np.sign(x) * low, np.sign(x) * 2 * low
    if name.startswith("stochastic"):
        levels = int(name[19:-1])
        start, step = x.min(), (x.max() - x.min()) / (levels - 1)
    else:
        size = {"qsgd(7)": 7, "qsgd(256)": 256, "qsgd_elias(5)": 5}.get(
            name, math.ceil(math.sqrt(x.size))
        )
        start, step = 0.0, np.linalg.norm(x) / size
        if name == "terngrad()":
            step = np.abs(x).max()
    low = start + np.floor((x - start) / step) * step
    return low, low + step


def biased(sent, x) -> bool:
    """Whether the mean of `sent` [n, d] is off along x by more than 5 standard errors, which have
    to be small enough to see 2%."""
    along = sent @ x / (x @ x)
    spread = along.std(ddof=1) / math.sqrt(len(along))
    assert 5 * spread < 0.01
    return abs(along.mean() - 1) > 5 * spread + 1e-5


@UNBIASED
def test_mean_and_variance_are_those_of_rounding_between_neighbours(name):
    x = np.float64(NORMAL[:300])
    count = 4000
    sent = samples(name, jnp.float32(x), count)
    low, high = neighbours(name, x)
    variance = (high - x) * (x - low)
    assert not biased(sent, x)
    assert biased(1.02 * sent, x) and biased(0.98 * sent, x)
    # Each coordinate: what it becomes is a neighbour, and its mean is right.
    off = np.minimum(np.abs(sent - low), np.abs(sent - high)).max(0)
    assert off.max() <= 3e-6 * np.abs(x).max()
    error = np.abs(sent.mean(0) - x)
    assert (error <= 6 * np.sqrt(variance / count) + 1e-4 * np.abs(x).max()).all()
    # The exact sum, within its sampling error.
    squared = ((sent - x) ** 2).sum(1)
    assert abs(squared.mean() - variance.sum()) <= 5 * squared.std() / math.sqrt(count)


def test_rounding_is_unbiased_to_a_ten_thousandth():
    """With evenly spread numbers in place of random ones the mean is nearly exact."""
    u = jnp.arange(2**16, dtype=jnp.float32) / 2**16
    for y in (0.0, 0.25, 3.3, 14.999, 15.0, 12345.678, 65534.001):
        y = float(np.float32(y))
        mean = np.asarray(rounded(jnp.full(2**16, y, jnp.float32), 65535, u), np.float64).mean()
        assert abs(mean - y) <= 1e-4
    assert rounded(jnp.float32([jnp.nan, -1.0, 99.0]), 7, jnp.zeros(3)).tolist() == [0, 0, 7]


def test_uniform_numbers_are_uniform_and_do_not_agree():
    """Over the coordinates of a client, over clients, between neighbours and between clients."""
    keys = jax.random.split(KEY, 64)
    u = np.asarray(jax.vmap(lambda key: uniform(key, jnp.zeros((64, 64))))(keys), np.float64)
    u = u.reshape(64, 4096)
    assert u.min() >= 0 and u.max() < 1
    for counted in (u.reshape(-1), u * 256 % 1):  # the first eight bits, and the next
        cells = np.bincount((counted.reshape(-1) * 256).astype(int), minlength=256)
        expected = u.size / 256
        assert abs(((cells - expected) ** 2 / expected).sum() - 255) < 5 * math.sqrt(2 * 255)
    z = (u - 0.5) * math.sqrt(12)
    assert abs(z.mean()) < 5 / math.sqrt(u.size)
    assert np.abs(z.mean(0)).max() < 5.5 / 8 and np.abs(z.mean(1)).max() < 5 / 64
    for lag in (1, 2, 64):
        assert abs((z[:, lag:] * z[:, :-lag]).mean()) < 5 / math.sqrt(u.size - 64 * lag)
    between = np.corrcoef(z) - np.eye(64)
    assert np.abs(between).max() < 5.5 / 64


@pytest.mark.parametrize(
    ("name", "anchor"),
    [("stochastic_uniform(16)", None), ("qsgd(256)", 0.1665), ("natural()", 0.0817)],
)
def test_errors_of_normal_numbers(name, anchor):
    """|C(x) - x|^2 / |x|^2 at d = 65536, as published, and in closed form for these numbers."""
    encode, decode = compiled(name)
    x = jnp.asarray(NORMAL)
    error = np.float64(decode(encode(KEY, x)[0], x)) - np.float64(NORMAL)
    norm = (np.float64(NORMAL) ** 2).sum()
    low, high = neighbours(name, NORMAL)
    exact = ((high - NORMAL) * (NORMAL - low)).sum() / norm
    assert (error**2).sum() / norm == pytest.approx(exact, rel=0.02)
    if anchor is not None:
        assert exact == pytest.approx(anchor, rel=0.01)


def test_uniform_anchor():
    """.0526 for 16 levels at d = 65536, a figure of the two extremes: the mean of many draws."""
    errors = []
    for seed in range(30):
        x = np.random.default_rng(seed).normal(size=65536)
        low, high = neighbours("stochastic_uniform(16)", x)
        errors.append(((high - x) * (x - low)).sum() / (x**2).sum())
    spread = np.std(errors)
    assert abs(np.mean(errors) - 0.0526) < 2 * spread and spread < 0.006


@pytest.mark.parametrize("levels", [2, 16, 50])
def test_both_ends_of_the_uniform_grid_are_exact(levels):
    """Also as XLA compiles it with all optimisations: what is 0 beside a spike stays 0."""
    compressor = stochastic_uniform(levels)
    trip = jax.jit(lambda x: compressor.decode(compressor.encode(KEY, [()], x, FIRST)[1], x, FIRST))
    for x in (np.eye(50)[7] * -3.3, NORMAL[:50] + 100, np.full(50, 0.7), np.full(50, -1e30)):
        back = np.asarray(trip(jnp.float32(x)))
        for end in (np.argmin(x), np.argmax(x)):
            assert back[end] == np.float32(x[end])
        assert np.unique(back).size == 2 or levels > 2 or np.ptp(x) == 0


def test_natural_is_worst_at_four_thirds():
    x = np.float64(np.float32(np.repeat(4 / 3 * 2.0 ** np.arange(-20, 20), 5)))
    low, high = neighbours("natural()", x)
    assert ((high - x) * (x - low)).sum() / (x**2).sum() == pytest.approx(0.125, rel=1e-6)
    sent = samples("natural()", jnp.float32(x), 3000)
    assert ((sent - x) ** 2).sum(1).mean() / (x**2).sum() == pytest.approx(0.125, rel=0.05)
    powers = jnp.float32([1.0, -2.0, 0.25, 0.0, 2.0**-126, -(2.0**127)])
    assert samples("natural()", powers, 20).tolist() == [powers.tolist()] * 20


def test_qsgd_at_sqrt_d_costs_what_was_measured():
    """2.92 bits a coordinate in Elias gamma code, 2.16 at their entropy; s is sqrt(d) by itself."""
    x = jnp.asarray(NORMAL)
    packet, _ = compiled("qsgd_elias()")[0](KEY, x)
    levels = np.asarray(packet.body.values)
    assert 8 * len(wire.to_bytes(packet)) / x.size == pytest.approx(2.92, rel=0.01)
    share = np.unique(levels, return_counts=True)[1] / x.size
    assert -(share * np.log2(share)).sum() == pytest.approx(2.16, rel=0.01)
    dense, _ = compiled("qsgd(256)")[0](KEY, x)
    np.testing.assert_array_equal(np.int32(dense.body.symbols) - 256, levels)


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("stochastic_uniform(16)", 4 * 65536 + 64),
        ("stochastic_uniform(1000)", 10 * 65536 + 64),
        ("qsgd(7)", 4 * 65536 + 32),
        ("qsgd(256)", 10 * 65536 + 32),
        ("natural()", 9 * 65536),
        ("terngrad()", 8 * math.ceil(65536 / 5) + 32),
        ("terngrad(2.5)", 8 * math.ceil(65536 / 5) + 32),
        ("scaled_sign()", 65536 + 32),
    ],
)
def test_wire_sizes(name, bits):
    packet, counted = compiled(name)[0](KEY, jnp.asarray(NORMAL))
    sent = wire.to_bytes(packet)
    assert int(counted) == len(sent)
    assert 8 * len(sent) == pytest.approx(bits, rel=0.01)


@ALL
def test_what_arrives_decodes_to_the_same(name):
    """Every kind of node, from bytes and with a `like` that holds nothing but shapes."""
    encode, decode = compiled(name)
    x = update(lambda shape: np.random.default_rng(3).normal(size=shape))
    packet, counted = encode(KEY, x)
    sent = wire.to_bytes(packet)
    assert int(counted) == len(sent)
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(sent, packet))
    here, there = decode(packet, blank(x)), decode(arrived, blank(x))
    assert jax.tree.structure(here) == jax.tree.structure(x)
    for part, node in x.items():
        assert real(here[part]).shape == real(node).shape
        np.testing.assert_allclose(real(there[part]), real(here[part]), rtol=1e-6)
        assert not is_node(node) or not np.asarray(here[part].values)[~np.asarray(node.live)].any()


def side_of(name, x):
    """What a node of the numbers x has beside its codes, by NumPy."""
    size, norm = np.abs(x), math.sqrt((x**2).sum())
    levels = {"qsgd(7)": 7, "qsgd(256)": 256, "qsgd_elias(5)": 5}.get(
        name, math.ceil(math.sqrt(x.size))
    )
    if name.startswith("stochastic_uniform"):
        return [x.min(), x.max()]
    if name.startswith("qsgd"):
        return norm / levels
    if name == "scaled_sign()":
        return size.mean()
    return size.max() if name == "terngrad()" else min(size.max(), 2.5 * norm / math.sqrt(x.size))


@pytest.mark.parametrize("name", [n for n in MADE if n != "natural()"])
def test_scales_are_of_what_is_real(name):
    """Rows that are not live have no part in it, neither with rubbish nor with zeros."""
    for sign in (1, -1):
        rng = np.random.default_rng(4)
        x = update(lambda shape, rng=rng, sign=sign: sign * (1 + rng.exponential(size=shape)))
        packet, _ = compiled(name)[0](KEY, x)
        for side, node in zip(packet.side, jax.tree.leaves(x, is_leaf=is_node), strict=True):
            np.testing.assert_allclose(side, side_of(name, np.float64(real(node))), rtol=1e-6)


EXTREMES = {
    "zero": np.zeros,
    "equal": lambda shape: np.full(shape, 0.7),
    "spike": lambda shape: np.where(
        np.arange(math.prod(shape)) == 3 % math.prod(shape), -3.0, 0
    ).reshape(shape),
    "denormal": lambda shape: np.full(shape, 1e-40),
    "huge": lambda shape: np.random.default_rng(6).normal(size=shape) * 1e20,
    "tiny": lambda shape: np.random.default_rng(6).normal(size=shape) * 1e-30,
    "offset": lambda shape: 1e6 + np.random.default_rng(6).random(shape),
}


@ALL
def test_extremes(name):
    encode, decode = compiled(name)
    for case, draw in EXTREMES.items():
        x = update(draw)
        back = decode(encode(KEY, x)[0], blank(x))
        for part, node in x.items():
            before, after = np.float64(real(node)), np.float64(real(back[part]))
            assert np.isfinite(after).all(), case
            largest = np.abs(before).max()
            if case == "zero":
                assert not after.any()
            elif case == "denormal":
                assert np.abs(after).max() < 2e-38
            elif name.startswith("stochastic_uniform"):
                wide = np.ptp(before) / (int(name[19:-1]) - 1)
                assert np.abs(after - before).max() <= wide * 1.00001 + 3e-7 * largest, case
                if case == "equal":
                    np.testing.assert_array_equal(after, before)
            elif not name.startswith("qsgd"):
                assert np.abs(after - before).max() <= largest * 1.00001, case
            else:
                assert np.abs(after).max() <= np.linalg.norm(before) * 1.00001, case
            if case == "spike" and not name.startswith(("natural", "terngrad(2.5", "scaled")):
                np.testing.assert_allclose(after, before, rtol=1e-6)


@ALL
def test_nothing_touched(name):
    x = update(lambda shape: np.ones(shape))
    for part in ("item", "tail", "blocks"):
        live = jnp.zeros_like(x[part].live)
        x[part] = type(x[part])(**{**vars(x[part]), "live": live})
    encode, decode = compiled(name)
    packet, _ = encode(KEY, x)
    back = decode(packet, blank(x))
    for part in ("item", "tail", "blocks"):
        assert not np.asarray(back[part].values).any()
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(decode(arrived, blank(x))))


@ALL
def test_what_is_no_number_is_not_hidden(name):
    encode, decode = compiled(name)
    for bad in (np.nan, np.inf, -np.inf):
        x = update(np.ones)
        x["vector"] = x["vector"].at[3].set(bad)
        packet, _ = encode(KEY, x)
        arrived = jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))
        back = decode(arrived, blank(x))
        assert not np.isfinite(back["vector"][3])
        assert all(np.isfinite(real(back[part])).all() for part in x if part != "vector")


@ALL
def test_clients_are_independent_and_keep_their_precision(name):
    """Vmapped clients in another order, beside others, get the same; float16 comes as float16."""
    compressor = MADE[name]

    def one(key, x):
        return compressor.decode(compressor.encode(key, [()], x, FIRST)[1], x, FIRST)

    every = jax.jit(jax.vmap(one), compiler_options=FAST)
    x, keys = jnp.float16(NORMAL[:60].reshape(3, 4, 5)), jax.random.split(KEY, 3)
    back = every(keys, x)
    assert back.dtype == jnp.float16 and np.isfinite(back).all()
    order = np.array([2, 0, 1])
    np.testing.assert_array_equal(every(keys[order], x[order]), back[order])
    other = every(keys, x.at[0].multiply(100))
    np.testing.assert_array_equal(other[1:], back[1:])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stochastic_uniform(1), r"stochastic_uniform\(levels=1\).*levels >= 2"),
        (lambda: stochastic_uniform(2**16 + 1), r"levels=65537.*levels <= 65536"),
        (lambda: qsgd(0), r"qsgd\(levels=0\).*levels >= 1"),
        (lambda: qsgd(2**15), r"levels=32768.*levels <= 32767"),
        (lambda: qsgd_elias(0), r"qsgd_elias\(levels=0\).*levels >= 1"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(ValueError, match=words):
        make()
