"""Laws of every compressor: round trip, bytes of the ledger, vmap, untouched rows, one trace."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import COMPRESSORS, everything
from worlds import close, same

from fedjax_rec import wire
from fedjax_rec.rows import RowsUpdate, to_dense

ITEMS, WIDTH, SLOTS = 37, 5, 12
KEY = jax.random.key(3)


def rows_update(rng, layout: str, touched: int) -> RowsUpdate:
    """`touched` live rows; as in `rows.localize` the first slot of an id is the live one."""
    ids = np.sort(rng.choice(ITEMS, touched, replace=False))
    if layout == "whole":
        live = np.isin(np.arange(ITEMS), ids)
        values = rng.normal(size=(ITEMS, WIDTH)) * live[:, None]
        return RowsUpdate(jnp.float32(values), None, jnp.asarray(live), None, ITEMS)
    slots = np.sort(np.concatenate([ids, ids[: min(2, touched)]]))
    slots = np.concatenate([slots, np.full(SLOTS - len(slots), np.iinfo(np.int32).max)])
    live = np.concatenate([[True], slots[1:] != slots[:-1]]) & (slots < ITEMS)
    values = rng.normal(size=(SLOTS, WIDTH)) * live[:, None]
    return RowsUpdate(jnp.float32(values), jnp.int32(slots), jnp.asarray(live), None, ITEMS)


def update(layout: str, touched=7, seed=0):
    rng = np.random.default_rng(seed)
    dense = {
        "bias": jnp.float32(rng.normal(size=())),
        "kernel": jnp.float32(rng.normal(size=(WIDTH, 70))),
    }
    if layout == "dense":
        return dense
    return {"item": rows_update(rng, layout, touched), **dense}


def flat(tree) -> list[np.ndarray]:
    """Leaves, rows as whole tables, so that layouts can be compared."""
    is_rows = lambda x: isinstance(x, RowsUpdate)
    leaves = jax.tree.leaves(tree, is_leaf=is_rows)
    return [np.asarray(to_dense(x) if is_rows(x) else x) for x in leaves]


@functools.cache
def compiled(name):
    """(compressor, memory of one client, jitted encode) under its name in the registry."""
    compressor = COMPRESSORS[name][0]()
    return compressor, jax.jit(compressor.encode), jax.jit(compressor.decode)


LAYOUTS = pytest.mark.parametrize("layout", ["dense", "whole", "ids"])
NAMES = pytest.mark.parametrize("name", COMPRESSORS)


def encoded(name, x):
    compressor, encode, decode = compiled(name)
    _, packet = encode(KEY, compressor.init(x), x)
    return packet, decode(packet, x)


@NAMES
@LAYOUTS
def test_round_trip_is_within_the_bound(name, layout):
    x = update(layout)
    _, back = encoded(name, x)
    bound = COMPRESSORS[name][1]
    assert jax.tree.structure(back) == jax.tree.structure(x)
    for before, after in zip(flat(x), flat(back), strict=True):
        assert after.dtype == before.dtype
        assert np.abs(after - before).max() <= bound * np.abs(before).max()


@NAMES
@LAYOUTS
@pytest.mark.parametrize("touched", [0, 1, 7])
def test_bytes_are_those_of_the_message(name, layout, touched):
    packet, _ = encoded(name, update(layout, touched))
    sent = wire.to_bytes(packet)
    assert int(wire.nbytes(packet)) == int(jax.jit(wire.nbytes)(packet)) == len(sent)


@NAMES
@LAYOUTS
@pytest.mark.parametrize("touched", [0, 7])
def test_what_arrives_decodes_to_the_same_update(name, layout, touched):
    x = update(layout, touched)
    packet, back = encoded(name, x)
    arrived = wire.from_bytes(wire.to_bytes(packet), packet)
    received = compiled(name)[0].decode(jax.tree.map(jnp.asarray, arrived), x)
    for a, b in zip(flat(received), flat(back), strict=True):
        np.testing.assert_array_equal(a, b)


@NAMES
@LAYOUTS
def test_vmap_agrees_with_one_client_at_a_time(name, layout):
    compressor = compiled(name)[0]
    several = [update(layout, touched, seed) for seed, touched in enumerate((2, 0, 9))]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *several)
    keys = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(3))

    def whole(key, x):
        memory, packet = compressor.encode(key, compressor.init(x), x)
        return memory, compressor.decode(packet, x), wire.nbytes(packet)

    together = jax.jit(jax.vmap(whole))(keys, stacked)
    for i, x in enumerate(several):
        close(jax.tree.map(lambda leaf, i=i: leaf[i], together), whole(keys[i], x))


@NAMES
@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_untouched_rows_stay_zero(name, layout):
    x = update(layout)
    _, back = encoded(name, x)
    same(back["item"].live, x["item"].live)
    assert not np.asarray(back["item"].values)[~np.asarray(x["item"].live)].any()
    assert np.isfinite(np.asarray(back["item"].values)).all()


@NAMES
@LAYOUTS
def test_an_update_of_zeros_comes_back_as_zeros(name, layout):
    _, back = encoded(name, jax.tree.map(jnp.zeros_like, update(layout)))
    assert all((leaf == 0).all() for leaf in flat(back))


@NAMES
def test_one_trace_a_shape(name):
    compressor = compiled(name)[0]
    traces = []

    @jax.jit
    def whole(key, x):
        traces.append(1)
        _, packet = compressor.encode(key, compressor.init(x), x)
        return compressor.decode(packet, x)

    for seed in range(3):
        whole(jax.random.key(seed), update("ids", seed + 1, seed))
    assert len(traces) == 1


@pytest.mark.parametrize("entry", everything(COMPRESSORS))
def test_encoding_is_a_function_of_its_key(entry):
    compressor = entry[0]()
    x = update("ids")
    same(
        compressor.encode(KEY, compressor.init(x), x)[1],
        compressor.encode(KEY, compressor.init(x), x)[1],
    )
