"""Kept coordinates and kept columns: what they send, what it costs, and what comes back."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import FIRST, now

from fedjax_rec import compress, wire
from fedjax_rec.compress.mask import columns, masked
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Now, Packet
from fedjax_rec.wire import Live, is_node

ITEMS, WIDTH, SLOTS = 50, 16, 20
KEY = jax.random.key(0)


def table(layout: str, touched: int, seed=0, draw=None) -> RowsUpdate:
    """`touched` live rows of a table; in the layout with ids some slots repeat an id."""
    rng = np.random.default_rng(seed)
    draw = draw or (lambda shape: rng.normal(size=shape))
    ids = np.sort(rng.choice(ITEMS, touched, replace=False))
    if layout == "whole":
        live = np.isin(np.arange(ITEMS), ids)
        values = draw((ITEMS, WIDTH)) * live[:, None]
        return RowsUpdate(jnp.float32(values), None, jnp.asarray(live), None, ITEMS)
    slots = np.sort(np.concatenate([ids, ids[:2]]))
    slots = np.concatenate([slots, np.full(SLOTS - len(slots), np.iinfo(np.int32).max)])
    live = np.concatenate([[True], slots[1:] != slots[:-1]]) & (slots < ITEMS)
    values = draw((SLOTS, WIDTH)) * live[:, None]
    return RowsUpdate(jnp.float32(values), jnp.int32(slots), jnp.asarray(live), None, ITEMS)


def update(layout="ids", touched=9, seed=0, draw=None) -> dict:
    rng = np.random.default_rng(seed + 100)
    fill = draw or (lambda shape: rng.normal(size=shape))
    return {
        "item": table(layout, touched, seed, draw),
        "kernel": jnp.float32(fill((12, 10))),
        "bias": jnp.float32(fill((10,))),
        "scale": jnp.float32(fill(())),
    }


def some_mask(share=0.3) -> dict:
    rng = np.random.default_rng(7)
    shapes = {"item": (ITEMS, WIDTH), "kernel": (12, 10)}
    return {k: jnp.asarray(rng.random(s) < share) for k, s in shapes.items()}


def pruned(x: dict, mask: dict) -> dict:
    """`x` as a model with this mask has it: zero where it is off."""
    item = x["item"]
    of_rows = mask["item"]
    if item.ids is not None:
        of_rows = of_rows[jnp.clip(item.ids, 0, ITEMS - 1)]
    zeroed = RowsUpdate(jnp.where(of_rows, item.values, 0), item.ids, item.live, None, ITEMS)
    return {**x, "item": zeroed, "kernel": jnp.where(mask["kernel"], x["kernel"], 0)}


def dense(x) -> np.ndarray:
    if isinstance(x, RowsUpdate):
        ids = None if x.ids is None else jnp.asarray(x.ids)
        live = jnp.asarray(x.live)
        values = jnp.where(live[:, None], x.values, 0)
        x = RowsUpdate(values, ids, live, None, x.size)
        return np.asarray(to_dense(x)) if ids is not None else np.asarray(values)
    return np.asarray(x.values if isinstance(x, Live) else x)


def assert_same(a: dict, b: dict) -> None:
    for name in a:
        np.testing.assert_array_equal(dense(a[name]), dense(b[name]), err_msg=name)


def blank(x):
    return jax.tree.map(jnp.zeros_like, x)


def arrived(packet):
    return jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))


def under(mask) -> Now:
    """A round of a model with that mask."""
    return now(shared={"model": (), "mask": Frozen(mask)})


LAYOUTS = pytest.mark.parametrize("layout", ["whole", "ids"])


@LAYOUTS
@pytest.mark.parametrize("touched", [0, 1, 9])
def test_kept_coordinates_come_back_and_no_others(layout, touched):
    mask, x = some_mask(), update(layout, touched)
    compressor, known = masked(), under(mask)
    _, packet = compressor.encode(KEY, compressor.init(x), x, known)
    back = compressor.decode(packet, blank(x), known)
    assert_same(back, pruned(x, mask))
    assert (back["item"].ids is None) == (layout == "whole")
    np.testing.assert_array_equal(back["item"].live, x["item"].live)
    assert_same(compressor.decode(arrived(packet), blank(x), known), pruned(x, mask))


@LAYOUTS
def test_a_kept_coordinate_costs_32_bits_and_no_index(layout):
    mask, x = some_mask(), update(layout)
    _, packet = masked().encode(KEY, (), x, under(mask))
    sent = len(wire.to_bytes(packet))
    assert int(wire.nbytes(packet)) == sent
    ids = np.arange(ITEMS) if layout == "whole" else np.asarray(x["item"].ids)
    touched = ids[np.asarray(x["item"].live)]
    kept = int(mask["item"][touched].sum()) + int(mask["kernel"].sum()) + 10 + 1
    # Beside them the ids of nine rows of fifty, at most a byte each, and a few bytes of framing.
    assert 4 * kept < sent <= 4 * kept + 9 + 24


def test_large_updates_cost_what_the_formula_says():
    rng = np.random.default_rng(0)
    x = {"kernel": jnp.float32(rng.normal(size=(512, 256)))}
    mask = {"kernel": jnp.asarray(rng.random((512, 256)) < 0.1)}
    sent = int(wire.nbytes(masked().encode(KEY, (), x, under(mask))[1]))
    assert sent == pytest.approx(4 * int(mask["kernel"].sum()), rel=0.01)


@LAYOUTS
def test_a_model_without_a_mask_is_sent_whole(layout):
    x = update(layout)
    for known in (FIRST, now(shared={"item": 1}), under({})):
        _, packet = masked().encode(KEY, (), x, known)
        assert_same(masked().decode(packet, blank(x), known), x)
        assert_same(masked().decode(arrived(packet), blank(x), known), x)


def test_packets_have_the_same_shapes_in_every_round():
    x = update()
    shape = lambda known: jax.tree.map(jnp.shape, masked().encode(KEY, (), x, known)[1])
    assert shape(FIRST) == shape(under(some_mask())) == shape(under(some_mask(1.0)))


def test_what_is_kept_can_be_compressed_further():
    mask, x = some_mask(), update()
    chain, known = compress.chain(masked(), compress.cast()), under(mask)
    _, packet = chain.encode(KEY, chain.init(x), x, known)
    for seen in (packet, arrived(packet)):
        back, want = chain.decode(seen, blank(x), known), pruned(x, mask)
        for name in want:
            np.testing.assert_allclose(dense(back[name]), dense(want[name]), rtol=2.0**-8)
    full = int(wire.nbytes(masked().encode(KEY, (), x, under(mask))[1]))
    assert int(wire.nbytes(packet)) < 0.6 * full


def test_parts_of_a_model_and_error_feedback_find_their_masks():
    mask, x = some_mask(), update()
    for compressor in (
        compress.partition({"item|kernel": masked()}),
        compress.error_feedback(masked()),
    ):
        zero = {**x, "item": table("whole", 0)}
        _, packet = compressor.encode(KEY, compressor.init(zero), x, under(mask))
        assert_same(compressor.decode(packet, blank(x), under(mask)), pruned(x, mask))


def test_clients_together_are_as_each_alone():
    mask = some_mask()
    several = [update("ids", touched, seed) for seed, touched in enumerate((3, 0, 8))]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *several)

    def one(x):
        _, packet = masked().encode(KEY, (), x, under(mask))
        return masked().decode(packet, x, under(mask)), wire.nbytes(packet)

    back, sent = jax.jit(jax.vmap(one))(stacked)
    for i, x in enumerate(several):
        assert_same(jax.tree.map(lambda v, i=i: v[i], back), pruned(x, mask))
        assert int(sent[i]) == len(wire.to_bytes(masked().encode(KEY, (), x, under(mask))[1]))


def test_a_mask_of_another_shape_is_refused():
    chain = compress.chain(columns(0.5), masked())
    with pytest.raises(ValueError, match=r"mask of shape .* put masked\(\) first in the chain"):
        chain.encode(KEY, chain.init(update()), update(), under(some_mask()))


def largest_columns(x: np.ndarray, fraction: float) -> np.ndarray:
    flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
    kept = math.ceil(round(fraction * x.shape[-1], 9))
    best = np.argsort(-(flat**2).sum(0), kind="stable")[:kept]
    return np.where(np.isin(np.arange(x.shape[-1]), best), x, 0)


@LAYOUTS
@pytest.mark.parametrize("fraction", [0.1, 0.3, 1.0])
def test_columns_are_those_of_largest_norm(layout, fraction):
    x = update(layout)
    compressor = columns(fraction)
    _, packet = compressor.encode(KEY, compressor.init(x), x, FIRST)
    for seen in (packet, arrived(packet)):
        back = compressor.decode(seen, blank(x), FIRST)
        for name in x:
            given = dense(x[name])
            want = largest_columns(given, fraction) if given.ndim > 1 else given
            np.testing.assert_array_equal(dense(back[name]), want)
    assert packet.body["item"].values.shape[-1] == math.ceil(round(fraction * WIDTH, 9))
    sent = len(wire.to_bytes(packet))
    assert int(wire.nbytes(packet)) == sent


def test_columns_of_blocks_and_of_stacked_matrices():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(6, 8)) * (np.arange(6) < 4)[:, None]
    x = {
        "blocks": Live(jnp.float32(values), jnp.arange(6) < 4),
        "stack": jnp.float32(rng.normal(size=(2, 3, 8))),
    }
    compressor = columns(0.25)
    _, packet = compressor.encode(KEY, compressor.init(x), x, FIRST)
    back = compressor.decode(packet, blank(x), FIRST)
    for name in x:
        np.testing.assert_array_equal(dense(back[name]), largest_columns(dense(x[name]), 0.25))
    received = compressor.decode(arrived(packet), blank(x), FIRST)["blocks"].values
    np.testing.assert_array_equal(received, back["blocks"].values[:4])


def test_columns_cost_what_the_formula_says():
    x = {"kernel": jnp.float32(np.random.default_rng(0).normal(size=(512, 256)))}
    compressor = columns(0.2)
    sent = wire.nbytes(compressor.encode(KEY, compressor.init(x), x, FIRST)[1])
    assert 8 * int(sent) == pytest.approx(32 * 512 * math.ceil(0.2 * 256) + 256, rel=0.001)


def spike(shape):
    x = np.zeros(shape)
    if x.size:
        x.reshape(-1)[x.size // 2] = -3.0
    return x


@pytest.mark.parametrize(
    "draw",
    [
        None,
        spike,
        np.zeros,
        lambda shape: np.full(shape, 0.7),
        lambda shape: np.full(shape, 1e-40),
        lambda shape: np.random.default_rng(1).normal(size=shape) * 1e20,
    ],
    ids=["normal", "spike", "zero", "equal", "denormal", "huge"],
)
@LAYOUTS
def test_columns_contract(layout, draw):
    x = update(layout, draw=draw)
    compressor = columns(0.3)
    _, packet = compressor.encode(KEY, compressor.init(x), x, FIRST)
    back = compressor.decode(packet, x, FIRST)
    for name, width in (("item", WIDTH), ("kernel", 10), ("bias", None)):
        before, after = (dense(t[name]).astype(np.float64) for t in (x, back))
        share = 1.0 if width is None else math.ceil(round(0.3 * width, 9)) / width
        assert np.isfinite(after).all()
        off = ((before - after) ** 2).sum()
        assert off <= (1 - share) * (before**2).sum() * (1 + 1e-6) + 1e-70


def test_few_columns_that_differ_from_zero_lose_nothing():
    x = update()
    few = jnp.asarray(np.isin(np.arange(WIDTH), [2, 11, 5]))
    item = x["item"]
    item = RowsUpdate(item.values * few, item.ids, item.live, None, ITEMS)
    x = {"item": item}
    compressor = columns(0.25)
    _, packet = compressor.encode(KEY, compressor.init(x), x, FIRST)
    assert_same(compressor.decode(packet, blank(x), FIRST), x)


def test_what_is_no_number_does_not_hide_the_other_columns():
    x = np.ones((4, 6), np.float32)
    x[0, 2], x[1, 3], x[:, 5] = np.nan, np.inf, 3.0
    compressor = columns(0.5)
    update = {"kernel": jnp.asarray(x)}
    _, packet = compressor.encode(KEY, compressor.init(update), update, FIRST)
    assert packet.side[0].sum() == 3


def test_one_trace_a_shape():
    traces = []

    @jax.jit
    def whole(key, mask, x):
        traces.append(1)
        compressor = compress.chain(masked(), columns(0.5))
        _, packet = compressor.encode(key, compressor.init(x), x, under(mask))
        assert isinstance(packet, Packet)
        return compressor.decode(packet, x, under(mask))

    for seed in range(3):
        whole(jax.random.key(seed), some_mask(0.2 * seed), update("ids", seed + 1, seed))
    assert len(traces) == 1


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(ValueError, match=r"columns\(fraction=.*use 0 < fraction <= 1"):
        columns(fraction)


def test_nodes_of_a_packet_are_known():
    """The body of `masked` is `Live` for a matrix and a table, and the array itself for others."""
    _, packet = masked().encode(KEY, (), update(), under(some_mask()))
    assert isinstance(packet.body["kernel"], Live) and isinstance(packet.body["item"], Live)
    assert not is_node(packet.body["bias"]) and not is_node(packet.body["scale"])
