"""Rotations: lossless, orthonormal, of live coordinates only, each client with its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST

from fedjax_rec import wire
from fedjax_rec.compress.rotate import rotate
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.wire import Live

KEY = jax.random.key(5)
ITEMS, WIDTH, SLOTS = 37, 5, 12


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(ids, rows):
    values, live = np.zeros((ITEMS, WIDTH), np.float32), np.zeros(ITEMS, bool)
    values[ids], live[ids] = rows, True
    return RowsUpdate(jnp.asarray(values), None, jnp.asarray(live), None, ITEMS)


def gathered(ids, rows):
    """Slots with a repeated id between live ones, and padding after them."""
    ids, values = list(ids), list(rows)
    live = [True] * len(ids)
    if ids:
        ids.insert(1, ids[0]), values.insert(1, np.full(WIDTH, 9.0)), live.insert(1, False)
    rest = SLOTS - len(ids)
    ids, live = ids + [2**31 - 1] * rest, live + [False] * rest
    values = np.float32(values + [np.zeros(WIDTH)] * rest)
    return RowsUpdate(jnp.asarray(values), jnp.int32(ids), jnp.asarray(live), None, ITEMS)


def blocks(live):
    live = np.asarray(live)
    return Live(jnp.asarray(normal(len(live), 3, 2) * live[:, None, None]), jnp.asarray(live))


def rows(count, seed=0):
    ids = np.sort(np.random.default_rng(seed).choice(ITEMS, count, replace=False))
    return ids, normal(count, WIDTH, seed=seed)


NODES = {
    "vector": lambda: jnp.asarray(normal(150)),
    "scalar": lambda: jnp.float32(-2.5),
    "cube": lambda: jnp.asarray(normal(3, 7, 11)),
    "whole rows": lambda: whole(*rows(7)),
    "no whole rows": lambda: whole(*rows(0)),
    "gathered rows": lambda: gathered(*rows(7)),
    "no gathered rows": lambda: gathered(*rows(0)),
    "scattered blocks": lambda: blocks([False, True, False, True, True]),
}


@functools.cache
def compiled(times, block):
    this = rotate(times, block)
    return (
        jax.jit(lambda key, node: this.encode(key, this.init(node), node, FIRST)[1]),
        jax.jit(lambda packet, like: this.decode(packet, like, FIRST)),
    )


def flat(node):
    """The numbers of a node, where rows and entries that are not live count as absent."""
    if isinstance(node, RowsUpdate):
        live = jnp.asarray(node.live)
        values = jnp.where(live[:, None], node.values, 0)
        ids = None if node.ids is None else jnp.where(live, node.ids, node.size)
        return np.asarray(to_dense(RowsUpdate(values, ids, live, None, node.size)))
    return np.asarray(node.values)[np.asarray(node.live)] if isinstance(node, Live) else node


@pytest.mark.parametrize("name", NODES)
@pytest.mark.parametrize("times, block", [(1, 1024), (2, 16)])
def test_what_was_rotated_comes_back(name, times, block):
    """In memory, and from its bytes with a `like` of zeros."""
    encode, decode = compiled(times, block)
    node = NODES[name]()
    packet = encode(KEY, node)
    back = decode(packet, node)
    if isinstance(node, RowsUpdate):
        assert (back.ids is None) == (node.ids is None) and (back.live == node.live).all()
        assert not np.asarray(back.values)[~np.asarray(back.live)].any()
    np.testing.assert_allclose(flat(back), flat(node), atol=3e-6)
    data = wire.to_bytes(packet)
    assert len(data) == int(wire.nbytes(packet))
    arrived = jax.tree.map(jnp.asarray, wire.from_bytes(data, packet))
    blank = jax.tree.map(jnp.zeros_like, node)
    np.testing.assert_allclose(flat(decode(arrived, blank)), flat(node), atol=3e-6)


@pytest.mark.parametrize("layout", [whole, gathered])
@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_only_touched_rows_are_rotated_and_sent(layout, count):
    """In blocks of 8, of which those that hold something live are live."""
    encode, _ = compiled(2, 8)
    node = layout(*rows(count))
    packet = encode(KEY, node)
    live = np.asarray(packet.body.live)
    assert packet.body.values.shape == (-(-node.values.size // 8), 8)
    assert live.sum() == -(-count * WIDTH // 8) and (np.diff(live.astype(int)) <= 0).all()
    assert not np.asarray(packet.body.values)[~live].any()
    one_row_more = encode(KEY, layout(*rows(count + 1)))
    blocks_more = -(-(count + 1) * WIDTH // 8) - live.sum()
    bits = 8 * (int(wire.nbytes(one_row_more)) - int(wire.nbytes(packet)))
    assert 32 * 8 * blocks_more <= bits <= 32 * 8 * blocks_more + 24


def test_rows_are_rotated_alike_in_both_layouts():
    encode, _ = compiled(2, 8)
    one, other = encode(KEY, whole(*rows(7))), encode(KEY, gathered(*rows(7)))
    live = 5
    np.testing.assert_allclose(one.body.values[:live], other.body.values[:live], atol=1e-6)


def test_is_orthonormal_and_every_key_another():
    encode, _ = compiled(2, 64)
    x, y = jnp.asarray(normal(150)), jnp.asarray(normal(150, seed=1))
    rotated = lambda key, v: np.asarray(encode(key, v).body.values).reshape(-1)
    a, b = rotated(KEY, x), rotated(KEY, y)
    assert a.size == 192
    np.testing.assert_allclose([a @ a, a @ b], [x @ x, x @ y], rtol=1e-5, atol=1e-4)
    other = rotated(jax.random.key(6), x)
    # Independent rotations have nothing in common: inner products of order |x|^2 / sqrt(d).
    assert abs(a @ other) < 5 * (a @ a) / np.sqrt(150)


def test_clients_have_rotations_of_their_own_under_vmap():
    this, node = rotate(2, 64), jnp.asarray(normal(150))
    keys = jax.random.split(KEY, 6)
    packets = jax.jit(jax.vmap(lambda key: this.encode(key, this.init(node), node, FIRST)[1]))(keys)
    y = np.asarray(packets.body.values).reshape(6, -1)
    cosines = y @ y.T / (y[0] @ y[0])
    assert np.abs(cosines - np.eye(6)).max() < 5 / np.sqrt(150)
    back = jax.vmap(lambda packet: this.decode(packet, node, FIRST))(packets)
    np.testing.assert_allclose(back, np.broadcast_to(node, (6, 150)), atol=3e-6)


def test_blocks_of_one_client_have_signs_of_their_own():
    encode, _ = compiled(2, 64)
    y = np.asarray(encode(KEY, jnp.asarray(np.tile(normal(64), 8))).body.values)
    cosines = y @ y.T / (y[0] @ y[0])
    assert np.abs(cosines - np.eye(8)).max() < 5 / np.sqrt(64)


def test_one_turn_flattens_a_spike_and_two_mix_a_sparse_vector():
    x = np.zeros(1024, np.float32)
    x[300] = 3.0
    once, twice = (compiled(times, 1024)[0] for times in (1, 2))
    np.testing.assert_allclose(np.abs(once(KEY, jnp.asarray(x)).body.values), 3 / 32, rtol=1e-5)
    x[17] = 1.0
    sizes = lambda encode: np.unique(np.abs(encode(KEY, jnp.asarray(x)).body.values).round(5))
    assert len(sizes(once)) == 2 and len(sizes(twice)) > 30


def test_every_turn_has_signs_of_its_own():
    """Two turns are not one turn twice."""
    once, twice = (compiled(times, 1024)[0] for times in (1, 2))
    x = jnp.asarray(normal(1024))
    again = once(KEY, once(KEY, x).body.values.reshape(-1)).body.values.reshape(-1)
    cosine = again @ twice(KEY, x).body.values.reshape(-1) / (x @ x)
    assert abs(cosine) < 5 / 32


def test_rotated_coordinates_look_gaussian():
    """Kurtosis 3, of a vector with one in 20 coordinates."""
    x = normal(2**14) * (np.random.default_rng(2).uniform(size=2**14) < 0.05)
    y = np.asarray(compiled(2, 4096)[0](KEY, jnp.asarray(x)).body.values)
    assert abs((y**4).mean() / (y**2).mean() ** 2 - 3) < 0.15
    assert (x**4).mean() / (x**2).mean() ** 2 > 30


def test_memory_is_that_of_a_few_copies():
    this, x = rotate(2, 1024), jnp.zeros((8, 2**16))

    def both(key, x):
        return this.decode(this.encode(key, this.init(x), x, FIRST)[1], x, FIRST)

    compiled = jax.jit(jax.vmap(both)).lower(jax.random.split(KEY, 8), x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 3 * x.nbytes


def test_keeps_the_dtype_of_the_update():
    encode, decode = compiled(2, 64)
    x = jnp.asarray(normal(150)).astype(jnp.bfloat16)
    packet = encode(KEY, x)
    assert packet.body.values.dtype == jnp.bfloat16 and decode(packet, x).dtype == jnp.bfloat16
    off = np.float32(decode(packet, x)) - np.float32(x)
    assert np.linalg.norm(off) < 2.0**-7 * np.linalg.norm(np.float32(x))


def test_integers_are_sent_as_they_are():
    node = {"count": jnp.arange(3), "empty": jnp.zeros((0, 4))}
    packet = rotate().encode(KEY, rotate().init(node), node, FIRST)[1]
    assert rotate().decode(packet, node, FIRST)["count"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"times": 0}, r"rotate\(times=0\) must be 1 to 32; use 2"),
        ({"times": 33}, r"rotate\(times=33\)"),
        ({"block": 0}, r"rotate\(block=0\) is too small"),
        ({"block": 1000}, r"rotate\(block=1000\) is no power of two; use 512"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rotate(**arguments)
