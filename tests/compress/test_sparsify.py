"""Sparse updates against NumPy: what is kept, where, at what error and in how many bytes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST, now

from fedjax_rec import wire
from fedjax_rec.compress import chain, error_feedback, scheduled, select, stochastic_uniform
from fedjax_rec.compress.sparsify import (
    global_top_k,
    sparse_ternary,
    threshold,
    top_k,
    top_k_per_row,
    warm_up_top_k,
)
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.wire import Live, is_node

KEY = jax.random.key(0)
ITEMS, WIDTH, SLOTS = 40, 6, 14
IDS = np.array([2, 5, 6, 11, 30, 39])


# These tests compile for longer than they run.
fast = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def dense(node) -> np.ndarray:
    """The numbers of a node; rows as the whole table, `Live` as its live entries."""
    if isinstance(node, RowsUpdate):
        live = jnp.asarray(node.live)
        ids = None if node.ids is None else jnp.asarray(node.ids)
        values = jnp.where(live[:, None], node.values, 0)
        return np.asarray(to_dense(RowsUpdate(values, ids, live, None, node.size)))
    if isinstance(node, Live):
        return np.asarray(node.values)[np.asarray(node.live)]
    return np.asarray(node)


def table(layout: str, seed=0, ids=IDS) -> RowsUpdate:
    """Rows `ids`; in the layout of ids with dead slots in between and at the end."""
    rows = np.random.default_rng(seed).normal(size=(len(ids), WIDTH)).astype(np.float32)
    if layout == "whole":
        values = np.zeros((ITEMS, WIDTH), np.float32)
        values[ids] = rows
        live = np.isin(np.arange(ITEMS), ids)
        return RowsUpdate(jnp.asarray(values), None, jnp.asarray(live), None, ITEMS)
    repeats = np.where(np.arange(len(ids)) % 2, 2, 1)
    slots = np.concatenate([np.repeat(ids, repeats), np.full(SLOTS, np.iinfo(np.int32).max)])[
        :SLOTS
    ]
    live = np.concatenate([[True], slots[1:] != slots[:-1]]) & (slots < ITEMS)
    values = np.full((SLOTS, WIDTH), 7.0, np.float32)  # what is not live does not count
    values[live] = rows
    return RowsUpdate(jnp.asarray(values), jnp.int32(slots), jnp.asarray(live), None, ITEMS)


def blocks() -> Live:
    """Entries of which neither the first nor the last is live."""
    live = np.array([False, True, True, False, True, False])
    values = np.random.default_rng(3).normal(size=(6, 8)).astype(np.float32)
    return Live(jnp.asarray(values), jnp.asarray(live))


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """x, zero but for its k largest, the first of equal ones."""
    flat = x.reshape(-1)
    kept = np.argsort(-np.abs(flat), kind="stable")[:k]
    out = np.zeros_like(flat)
    out[kept] = flat[kept]
    return out.reshape(x.shape)


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
    pairs = zip(*(jax.tree.leaves(t, is_leaf=is_node) for t in (back, received)), strict=True)
    for here, there in pairs:
        np.testing.assert_allclose(dense(here), dense(there), rtol=1e-6)
    return back, packet


DRAWS = {
    "normal": lambda rng: rng.normal(size=1000),
    "ties": lambda rng: rng.integers(-3, 4, 1000),
    "all equal": lambda rng: np.full(1000, -0.7),
    "all zero": lambda rng: np.zeros(1000),
    "one spike": lambda rng: 3.0 * (np.arange(1000) == 777),
    "denormal": lambda rng: 1e-40 * rng.integers(0, 9, 1000),
    "huge": lambda rng: 1e20 * rng.normal(size=1000),
    "ascending": lambda rng: np.arange(1000) - 3.0,
    "wide range": lambda rng: 10.0 ** rng.uniform(-38, 38, 1000),
    "infinite": lambda rng: np.where(np.arange(1000) % 100 == 7, np.inf, rng.normal(size=1000)),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_the_k_largest_in_order_whatever_comes(draw):
    x = draw(np.random.default_rng(1)).astype(np.float32)
    find = jitted_largest()
    for k in (0, 1, 10, 32, 333, 1000):
        where, live = find(x, k)
        size = np.abs(x)
        wanted = np.sort(np.argsort(-size, kind="stable")[:k])
        wanted = wanted[size.view(np.int32)[wanted] > 0]
        np.testing.assert_array_equal(np.asarray(where)[np.asarray(live)], wanted)
        assert (np.asarray(where)[~np.asarray(live)] == 1000).all()


@functools.cache
def jitted_largest():
    return fast(lambda x, k: select.largest(select.magnitudes(x), k, 1000))


def test_what_is_no_number_ranks_last():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    x[::10] = np.nan
    where, live = jitted_largest()(x, 950)
    np.testing.assert_array_equal(np.asarray(where)[np.asarray(live)], np.flatnonzero(~np.isnan(x)))


@pytest.mark.parametrize(("fraction", "error"), [(0.01, 0.9155), (0.1, 0.5607)])
def test_anchor_of_gaussian_vectors(fraction, error):
    x = jax.random.normal(KEY, (2**17,))
    back, packet = through(top_k(fraction), x)
    k = math.ceil(fraction * 2**17)
    np.testing.assert_array_equal(back, largest(np.asarray(x), k))
    off = float(((back - x) ** 2).sum() / (x**2).sum())
    assert abs(off - error) < 0.002
    assert off <= 1 - fraction
    # 8.108 bits an index at 1% (Golomb); at 10% the entropy of a bit is 4.690 bits an index.
    bits = k * (32 + (8.108 if fraction == 0.01 else 4.690))
    assert abs(8 * len(wire.to_bytes(packet)) / bits - 1) < 0.01


def test_anchor_of_sparse_ternary():
    x = jax.random.normal(KEY, (2**17,))
    back, packet = through(sparse_ternary(0.01), x)
    kept = np.asarray(back) != 0
    mu = np.abs(np.asarray(x)[kept]).mean()
    wanted = np.where(kept, np.sign(x) * mu, 0)
    np.testing.assert_allclose(back, wanted, rtol=1e-5)
    np.testing.assert_array_equal(kept, largest(np.asarray(x), kept.sum()) != 0)
    assert kept.sum() == math.ceil(0.01 * 2**17)
    assert abs(float(((back - x) ** 2).sum() / (x**2).sum()) - 0.9164) < 0.002
    assert abs(8 * len(wire.to_bytes(packet)) / (32 + kept.sum() * (1 + 8.108)) - 1) < 0.01


def test_the_scale_of_sparse_ternary_is_of_what_is_sent():
    x = jnp.zeros(50).at[7].set(3.0).at[9].set(-1.0)
    back, _ = through(sparse_ternary(0.5), x)
    np.testing.assert_allclose(back, 2.0 * np.sign(x), rtol=1e-6)


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize("fraction", [0.2, 1.0])
def test_rows_count_only_where_they_are(layout, fraction):
    """A fraction of the touched rows' numbers, not of the table's."""
    x = table(layout)
    back, packet = through(top_k(fraction), x)
    k = math.ceil(fraction * len(IDS) * WIDTH)
    wanted = largest(dense(x), k)
    np.testing.assert_array_equal(dense(back), wanted)
    assert int(packet.body.live.sum()) == k and packet.body.size == ITEMS * WIDTH
    ids = np.arange(ITEMS) if back.ids is None else np.asarray(back.ids)
    assert (back.ids is None) == (layout == "whole") and back.size == ITEMS
    np.testing.assert_array_equal(ids[np.asarray(back.live)], np.flatnonzero(wanted.any(1)))
    assert (np.diff(ids) >= 0).all() and len(ids) <= x.live.shape[0]


def test_both_layouts_send_the_same_bytes():
    sent = [wire.to_bytes(through(top_k(0.2), table(layout))[1]) for layout in ("whole", "ids")]
    assert sent[0] == sent[1]


@pytest.mark.parametrize("make", [top_k, global_top_k, sparse_ternary, lambda f: top_k_per_row(2)])
def test_no_rows_come_back_as_zeros(make):
    layout = "whole" if make is top_k else "ids"
    back, packet = through(make(0.3), table(layout, ids=IDS[:0]))
    assert not dense(back).any() and not np.asarray(back.live).any()
    assert len(wire.to_bytes(packet)) < 24


def test_entries_of_which_some_are_live():
    x = blocks()
    back, _ = through(top_k(0.3), x)
    np.testing.assert_array_equal(back.live, x.live)
    np.testing.assert_array_equal(dense(back), largest(dense(x), math.ceil(0.3 * 24)))
    assert not np.asarray(back.values)[~np.asarray(back.live)].any()


def test_global_is_the_largest_of_everything():
    tree = {"a": table("whole"), "b": table("ids", 1), "c": blocks(), "d": jnp.ones(()) * 0.01,
            "e": jax.random.normal(KEY, (9, 7)), "n": jnp.arange(3)}  # fmt: skip
    back, _ = through(global_top_k(0.15), tree)
    every = np.concatenate([dense(tree[name]).reshape(-1) for name in "abcde"])
    got = np.concatenate([dense(back[name]).reshape(-1) for name in "abcde"])
    k = math.ceil(0.15 * (2 * len(IDS) * WIDTH + 24 + 1 + 63))
    np.testing.assert_array_equal(got, largest(every, k))
    np.testing.assert_array_equal(back["n"], tree["n"])
    # Equal ones: the first, over all nodes.
    equal = {"a": jnp.full(20, 0.5), "b": jnp.full((5, 6), -0.5)}
    back, _ = through(global_top_k(0.6), equal)
    assert (back["a"] == 0.5).all()
    np.testing.assert_array_equal(back["b"], largest(np.full((5, 6), -0.5, np.float32), 10))


def by_row(x: np.ndarray, k: int) -> np.ndarray:
    rows = x.reshape(-1, x.shape[-1])
    return np.stack([largest(row, k) for row in rows]).reshape(x.shape)


def test_per_row(k=4):
    shapes = {"t": (2, 3, 9), "v": (50,), "small": (4, 3), "s": ()}
    tree = {name: jax.random.normal(KEY, shape) for name, shape in shapes.items()}
    tree |= {"whole": table("whole"), "ids": table("ids"), "blocks": blocks()}
    back, packet = through(top_k_per_row(k), tree)
    for name, node in tree.items():
        x, y = dense(node), dense(back[name])
        np.testing.assert_array_equal(y, by_row(x, k) if x.ndim else x)
        if x.ndim:
            assert ((y - x) ** 2).sum() <= (1 - min(1, k / x.shape[-1])) * (x**2).sum() + 1e-6
    assert packet.body["ids"].values.shape == (SLOTS, k)
    assert packet.body["whole"].ids is None


def test_bytes_of_per_row():
    x = jax.random.normal(KEY, (512, 64))
    back, packet = through(top_k_per_row(4), x)
    np.testing.assert_array_equal(back, by_row(np.asarray(x), 4))
    assert abs(8 * len(wire.to_bytes(packet)) / (512 * 4 * (32 + 6)) - 1) < 0.01


def test_threshold_sends_what_is_above_and_not_too_much():
    x = jax.random.normal(KEY, (3000,))
    back, packet = through(threshold(2.0, at_most=0.1), x)
    np.testing.assert_array_equal(back, np.where(np.abs(x) > 2.0, x, 0))
    assert int(packet.body.live.sum()) == (np.abs(x) > 2.0).sum() < 300
    assert float(((back - x) ** 2).sum()) <= 3000 * 2.0**2
    back, _ = through(threshold(1.0, at_most=0.1), x)
    np.testing.assert_array_equal(back, largest(np.asarray(x), 300))
    packet = fast(threshold(9.0).encode)(KEY, [()], x, FIRST)[1]
    assert not packet.body.live.any() and len(wire.to_bytes(packet)) < 16


def test_a_schedule_changes_how_much_is_sent_and_no_shape():
    x = jax.random.normal(KEY, (1000,))
    warm = warm_up_top_k(0.25, 0.01, rounds=2)
    mine = scheduled(lambda keep: top_k(0.25, keep), optax.exponential_decay(0.25, 1, 0.2))
    for compressor, counts in ((warm, (250, 50, 10, 10)), (mine, (250, 50, 10, 2))):

        @fast
        def sent(round, compressor=compressor):
            packet = compressor.encode(KEY, compressor.init(x), x, now(round))[1]
            return packet.body, compressor.decode(packet, x, now(round))

        for round, k in enumerate(counts):
            body, back = sent(round)
            assert body.values.shape == (250, 1) and int(body.live.sum()) == k
            np.testing.assert_array_equal(back, largest(np.asarray(x), k))


def test_the_next_stage_quantizes_what_was_kept():
    x = table("ids")
    back, packet = through(chain(top_k(0.5), stochastic_uniform(256)), x)
    wanted = largest(dense(x), math.ceil(0.5 * len(IDS) * WIDTH))
    spread = wanted.max() - wanted.min()
    assert np.abs(dense(back) - wanted).max() <= spread / 255 * 1.001
    assert (dense(back)[wanted == 0] == 0).all()
    assert packet.body.values.levels == 256


def test_error_feedback_sends_everything_in_the_end():
    x = jnp.where(jnp.arange(200) < 10, 1.0, 0.01) * jax.random.normal(KEY, (200,))
    compressor = error_feedback(top_k(0.1))
    memory, total = compressor.init(x), 0.0
    step, decode = fast(compressor.encode), fast(compressor.decode)
    for _ in range(60):
        memory, packet = step(KEY, memory, x, FIRST)
        total = total + decode(packet, x, FIRST)
    np.testing.assert_allclose(total + memory["error"][0], 60 * x, rtol=1e-3, atol=1e-4)
    assert float(jnp.abs(total - 60 * x).max()) < 0.5


def test_clients_with_different_numbers_of_rows_at_once():
    sizes = (6, 0, 3)
    xs = [table("ids", i, IDS[:n]) for i, n in enumerate(sizes)]
    compressor = top_k(0.25)

    @fast
    @jax.vmap
    def both(x):
        packet = compressor.encode(KEY, compressor.init(x), x, FIRST)[1]
        return compressor.decode(packet, x, FIRST), packet.body.live.sum()

    back, counts = both(jax.tree.map(lambda *leaves: jnp.stack(leaves), *xs))
    assert counts.tolist() == [math.ceil(0.25 * n * WIDTH) for n in sizes]
    for i, x in enumerate(xs):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], back)
        np.testing.assert_array_equal(dense(mine), largest(dense(x), int(counts[i])))


@pytest.mark.parametrize(("fraction", "size", "k"), [(0.07, 100, 7), (0.1, 10, 1), (0.01, 5, 1),
                                                     (0.011, 100, 2), (1.0, 7, 7)])  # fmt: skip
def test_how_many_are_kept(fraction, size, k):
    assert select.capacity(fraction, size) == k
    assert int(select.count_kept(fraction, jnp.ones(size))) == k


def test_half_precision_keeps_its_dtype():
    x = jax.random.normal(KEY, (64,)).astype(jnp.bfloat16)
    for compressor in (top_k(0.25), top_k_per_row(16)):
        back, _ = through(compressor, x)
        assert back.dtype == jnp.bfloat16
        np.testing.assert_array_equal(back, largest(np.asarray(x, np.float32), 16))


def test_a_table_of_more_coordinates_than_int32_is_refused():
    shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
    ids, live = jax.ShapeDtypeStruct((8,), jnp.int32), jax.ShapeDtypeStruct((8,), bool)
    x = RowsUpdate(shape(8, 64), ids, live, None, 2**25)
    for compressor in (top_k(0.1), global_top_k(0.1)):
        with pytest.raises(ValueError, match=r"33554432 x 64 .* use top_k_per_row"):
            jax.eval_shape(lambda x, c=compressor: c.encode(KEY, c.init(x), x, FIRST)[1], x)
    jax.eval_shape(lambda x: top_k_per_row(2).encode(KEY, [()], x, FIRST)[1], x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: top_k(0.0), r"top_k\(fraction=0.0\) keeps nothing; use 0 < fraction <= 1"),
        (lambda: top_k(1.5), r"top_k\(fraction=1.5\) is more than all"),
        (lambda: global_top_k(-1), r"global_top_k\(fraction=-1\)"),
        (lambda: sparse_ternary(0), r"fraction=0"),
        (lambda: threshold(-1.0), r"threshold\(tau=-1.0\) is too small"),
        (lambda: threshold(1.0, at_most=2), r"threshold\(at_most=2\)"),
        (lambda: top_k_per_row(0), r"top_k_per_row\(k=0\) is too small"),
        (lambda: warm_up_top_k(0.1, 0.2), r"warm_up_top_k\(end=0.2\)"),
        (lambda: warm_up_top_k(rounds=0), r"warm_up_top_k\(rounds=0\)"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
