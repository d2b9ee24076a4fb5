"""DRIVE and EDEN: levels, scales, published errors, and what a wrong rotation does to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import wire
from fedjax_rec.compress.combine import chain
from fedjax_rec.compress.eden import drive, eden, lloyd_max, normal_levels
from fedjax_rec.compress.feedback import error_feedback
from fedjax_rec.compress.rotate import rotate
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.wire import Codes, Live

KEY = jax.random.key(9)
UNBIASED = {1: 0.5708, 2: 0.1331, 3: 0.0358, 4: 0.00959}
BIASED = {1: 0.3634, 2: 0.1175, 3: 0.0345, 4: 0.0095}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.cache
def decoded(make, *arguments):
    """(keys [n], x) -> [n, ...]: what arrives of x under each key."""
    this = make(*arguments)
    one = lambda key, x: this.decode(this.encode(key, this.init(x), x, FIRST)[1], x, FIRST)
    return jax.jit(lambda keys, x: jax.lax.map(lambda key: one(key, x), keys, batch_size=64))


def keys(count, seed=0):
    return jax.random.split(jax.random.fold_in(KEY, seed), count)


def error(back, x):
    x = np.asarray(x, np.float64)
    return ((np.asarray(back, np.float64) - x) ** 2).sum(-1) / (x @ x)


def by_hand(x, bits, unbiased):
    """What one block becomes, written from the definition in NumPy."""
    thresholds, centroids = (np.array(v) for v in normal_levels(bits))
    x = x.astype(np.float64)
    z = x / np.sqrt((x**2).mean())
    q = np.where(z < 0, -1, 1) * centroids[np.searchsorted(thresholds, np.abs(z))]
    return q * ((x @ x) / (q @ x) if unbiased else (q @ x) / (q @ q))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_levels_are_the_best_for_the_normal_density(bits):
    """Centroids are means of their cells, thresholds half way; the error is the known one."""
    thresholds, centroids = (np.array(v) for v in normal_levels(bits))
    assert len(centroids) == 2 ** (bits - 1) and len(thresholds) == len(centroids) - 1
    np.testing.assert_allclose(thresholds, (centroids[1:] + centroids[:-1]) / 2, atol=1e-9)
    x = (np.arange(2_000_000) + 0.5) * 1e-5 / 2
    density = 2 * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * (x[1] - x[0])
    cell = np.searchsorted(thresholds, x)
    means = np.bincount(cell, density * x) / np.bincount(cell, density)
    np.testing.assert_allclose(means, centroids, atol=1e-5)
    # Max (1960), table I.
    least = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}[bits]
    np.testing.assert_allclose((density * (x - centroids[cell]) ** 2).sum(), least, rtol=1e-3)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_published_errors(bits, unbiased):
    """Anchors of D = 2^14, within 1%."""
    x = jnp.asarray(normal(2**14))
    back = decoded(eden, bits, unbiased, 2, 2**14)(keys(16), x)
    want = (UNBIASED if unbiased else BIASED)[bits]
    np.testing.assert_allclose(error(back, x).mean(), want, rtol=0.01)


def test_drive_is_the_signs_and_one_scale():
    """S = |x|^2 / |Rx|_1, times the signs, in each block of what was rotated."""
    x = jnp.asarray(normal(3000))
    np.testing.assert_allclose(
        error(decoded(drive, 2, 1024)(keys(64), x), x).mean(), 0.5708, rtol=0.04
    )
    encode = jax.jit(lambda x: rotate(2, 1024).encode(KEY, [()], x, FIRST)[1])
    y = np.asarray(encode(x).body.values)
    body = Live(jnp.asarray(y), jnp.ones(3, bool))
    back = decoded(lloyd_max, 1)(keys(1), body).values[0]
    for rotated, got in zip(y, np.asarray(back), strict=True):
        scale = (rotated @ rotated) / np.abs(rotated).sum()
        np.testing.assert_allclose(got, scale * np.where(rotated >= 0, 1, -1), rtol=1e-5)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_agrees_with_numpy_on_every_kind_of_node(bits, unbiased):
    """One scale a block; one for a whole array, for the touched rows, for single numbers."""
    live = np.array([True, False, True, True])
    x = normal(4, 3, 10) * live[:, None, None] * np.array([1, 1, 1e-3, 1e3]).reshape(4, 1, 1)
    rows = normal(4, 5) * live[:, None]
    each = lambda entry: by_hand(entry.reshape(-1), bits, unbiased).reshape(entry.shape)
    table = RowsUpdate(jnp.float32(rows), jnp.int32([2, 2, 6, 8]), jnp.asarray(live), None, 9)
    want_rows = np.zeros((4, 5))
    want_rows[live] = each(rows[live])
    singles = np.where(live, normal(4), 0)
    want_singles = np.zeros(4)
    want_singles[live] = each(singles[live])
    update = {
        "blocks": Live(jnp.float32(x), jnp.asarray(live)),
        "matrix": jnp.asarray(normal(7, 20)),
        "scalar": jnp.float32(-3.0),
        "singles": Live(jnp.float32(singles), jnp.asarray(live)),
        "table": table,
    }
    back = jax.tree.map(lambda leaf: leaf[0], decoded(lloyd_max, bits, unbiased)(keys(1), update))
    want_blocks = np.stack(
        [each(entry) if on else 0 * entry for entry, on in zip(x, live, strict=True)]
    )
    for got, want in [
        (back["blocks"].values, want_blocks),
        (back["matrix"], each(normal(7, 20))),
        (back["scalar"], np.float32(-3.0)),
        (back["singles"].values, want_singles),
        (back["table"].values, want_rows),
    ]:
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_unbiased_on_dense_and_sparse_vectors(bits):
    """The mean over keys, within what its own spread allows; a bias of 2% would stand out.

    Of a sparse vector two rotations of 128 are not a uniform one: what is left is .5% of |x|.
    """
    count, size = 6000, 100
    sparse = np.zeros(size, np.float32)
    sparse[[3, 40, 77]] = 1.0, -2.0, 0.5
    for x, left in ((normal(size), 0.0), (sparse, 0.008)):
        allowed = left * np.linalg.norm(x)
        back = np.asarray(decoded(eden, bits)(keys(count), jnp.asarray(x)), np.float64)
        np.testing.assert_allclose(back @ x / (x @ x), 1.0, atol=1e-5)
        own = back.std(0, ddof=1) / np.sqrt(count)
        off = np.abs(back.mean(0) - x)
        assert (off < 5 * own + 1e-4 * np.abs(x).max() + allowed).all()
        # Nor is the bias spread over many coordinates: its square is what chance leaves of it.
        assert (off**2).sum() < 2 * (own**2).sum() + 1e-6 * (x @ x) + allowed**2
        assert (own**2).sum() < (0.02**2 / 2) * (x @ x)


def test_one_rotation_leaves_a_bias_on_sparse_vectors_and_two_do_not():
    """Pitfall 1: two nonzeros of 1,024; a bias of .25 |x|^2 that no number of clients removes."""
    x = np.zeros(1024, np.float32)
    x[[100, 700]] = 1.0, 0.5
    means = [
        np.asarray(decoded(drive, times, 1024)(keys(2048), jnp.asarray(x))).mean(0)
        for times in (1, 2)
    ]
    np.testing.assert_allclose(error(means[0], x), 0.25, atol=0.01)
    assert error(means[1], x) < 2 * 0.5708 / 2048


def test_a_rotation_that_clients_share_keeps_their_errors():
    """Pitfall 2: 16 identical clients; .57 if they share a key, a 16th of it if they do not."""
    x = jnp.asarray(normal(4096))
    send = decoded(drive, 2, 4096)
    shared = send(jnp.stack([KEY] * 16), x).mean(0)
    own = send(keys(16), x).mean(0)
    np.testing.assert_allclose(error(shared, x), 0.5708, rtol=0.05)
    np.testing.assert_allclose(error(own, x), 0.5708 / 16, rtol=0.1)


ADVERSARIAL = {
    "one spike": np.eye(1, 300, 7)[0] * -3.0,
    "all equal": np.full(300, 0.7),
    "all zero": np.zeros(300),
    "denormal": np.full(300, 1e-40),
    "small": normal(300) * 1e-25,
    "huge": normal(300) * 1e20,
    "wide range": 10.0 ** np.random.default_rng(2).uniform(-20, 10, 300),
}


@pytest.mark.parametrize("case", ADVERSARIAL)
def test_adversarial_vectors(case):
    """Finite always; the scale of least error never adds error, that without bias keeps <., x>."""
    x = ADVERSARIAL[case].astype(np.float32)
    for bits in (1, 4):
        near = np.asarray(decoded(eden, bits, False)(keys(8), jnp.asarray(x)), np.float64)
        fair = np.asarray(decoded(eden, bits)(keys(8), jnp.asarray(x)), np.float64)
        assert np.isfinite(near).all() and np.isfinite(fair).all()
        if case in ("all zero", "denormal"):  # XLA flushes denormal numbers to zero
            assert not near.any() and not fair.any()
            continue
        size = float(x.astype(np.float64) @ x)
        assert (((near - x) ** 2).sum(-1) <= size).all()
        np.testing.assert_allclose(fair @ x.astype(np.float64) / size, 1.0, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_bytes_are_those_of_the_formula(bits):
    """bits * D + 32, within 1%, whatever the number of blocks."""
    x = jnp.zeros(2**17)
    this = eden(bits)
    packet = jax.eval_shape(lambda: this.encode(KEY, this.init(x), x, FIRST)[1])
    packet = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), packet)
    packet.body.live[:] = True
    scales = packet.side[1][0]
    scales.live[:] = True
    assert isinstance(packet.body.values, Codes) and packet.body.values.levels == 2**bits
    sent = 8 * int(wire.nbytes(packet))
    assert sent == 8 * len(wire.to_bytes(packet))
    np.testing.assert_allclose(sent, bits * 2**17 + 32 * len(scales.live) + 32, rtol=2e-3)
    np.testing.assert_allclose(sent, bits * 2**17 + 32, rtol=0.01)


def table(count, layout):
    """Of 500 rows of width 16, `count` are touched."""
    ids = np.sort(np.random.default_rng(count).choice(500, count, replace=False))
    values, live = np.zeros((500, 16), np.float32), np.zeros(500, bool)
    values[ids], live[ids] = normal(count, 16), True
    if layout == "whole":
        return RowsUpdate(jnp.asarray(values), None, jnp.asarray(live), None, 500)
    ids, first = np.append(ids, [500] * (80 - count)), np.arange(80) < count
    rows = np.append(normal(count, 16), np.zeros((80 - count, 16), np.float32), 0)
    return RowsUpdate(jnp.asarray(rows), jnp.int32(ids), jnp.asarray(first), None, 500)


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_touched_rows_alone_are_quantized_and_arrive(layout):
    """At 4 bits each, padded to a block; what is decoded from the bytes is what was simulated."""
    this = eden(4, block=256)
    encode, decode = (
        jax.jit(lambda x: this.encode(KEY, [[()], [()]], x, FIRST)[1]),
        jax.jit(lambda packet, like: this.decode(packet, like, FIRST)),
    )
    for count in (0, 1, 70):
        x = table(count, layout)
        packet = encode(x)
        back = decode(packet, x)
        live = np.asarray(x.live)
        assert (np.asarray(back.live) == live).all() and not np.asarray(back.values)[~live].any()
        if count:
            got, want = (np.asarray(v.values)[live].reshape(-1) for v in (back, x))
            assert error(got, want) < 1.3 * UNBIASED[4]
        data = wire.to_bytes(packet)
        blocks = -(-count * 16 // 256)
        ids = len(wire.to_bytes(packet.side[0][0][1]))
        assert 0 <= len(data) - (blocks * (256 * 4 + 32) + 32) // 8 - ids <= 20
        arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
        received = decode(arrived, jax.tree.map(jnp.zeros_like, x))
        assert received.live.shape == (count,)
        np.testing.assert_allclose(received.values, np.asarray(back.values)[live], atol=1e-6)


def test_one_more_stage_sees_the_body():
    """`eden` is a chain, and may be the end of one: the few numbers of a sparse update."""
    sparse = RowsUpdate(
        jnp.asarray(normal(50, 1)), jnp.arange(0, 500, 10), jnp.arange(50) < 40, None, 500
    )
    sparse = RowsUpdate(sparse.values * sparse.live[:, None], *(sparse.ids, sparse.live), None, 500)
    this = chain(rotate(1, 64), rotate(1, 64), lloyd_max(4))
    packet = jax.jit(lambda x: this.encode(KEY, [[()], [()], [()]], x, FIRST)[1])(sparse)
    back = jax.jit(this.decode)(packet, sparse, FIRST)
    assert packet.body.values.levels == 16 and (back.live == sparse.live).all()
    assert error(back.values[:, 0], sparse.values[:, 0]) < 2 * UNBIASED[4]


def test_inside_error_feedback_nothing_is_lost():
    this, x = error_feedback(eden(1, unbiased=False)), jnp.asarray(normal(600))
    encode, decode = jax.jit(this.encode), jax.jit(this.decode)
    memory, sent = this.init(x), 0.0
    for key in keys(20):
        memory, packet = encode(key, memory, x, FIRST)
        sent = sent + decode(packet, x, FIRST)
    # Each update is lost at .36; of the mean of twenty, what is owed is a twentieth of one.
    assert error(np.asarray(sent) / 20, x) < 0.01
    np.testing.assert_allclose(sent + memory["error"][0], 20 * x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [eden, lloyd_max])
@pytest.mark.parametrize("bits", [0, 5, 2.5])
def test_wrong_bits_are_refused(make, bits):
    with pytest.raises(ValueError, match=rf"\(bits={bits}\) has no levels; use 1, 2, 3 or 4"):
        make(bits)
