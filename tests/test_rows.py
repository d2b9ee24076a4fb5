"""Touched rows: what a client holds of a table, what it sends, and that nothing else moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import rows
from fedjax_rec.rows import LocalTable, RowsUpdate, Table

ITEMS, WIDTH, SLOTS = 12, 3, 8
TABLE = Table(jnp.arange(ITEMS * WIDTH, dtype=jnp.float32).reshape(ITEMS, WIDTH) + 1)
localize = jax.jit(rows.localize)
slots_of = jax.jit(lambda local, ids: local.slots(ids))
ids_lists = st.lists(st.integers(0, ITEMS), min_size=SLOTS, max_size=SLOTS)


@settings(max_examples=60, deadline=None)
@given(ids_lists)
def test_localize_holds_each_touched_row_once(ids):
    local = localize(TABLE, jnp.int32(ids))
    live = np.asarray(local.live)
    real = sorted({i for i in ids if i < ITEMS})
    assert np.asarray(local.ids)[live].tolist() == real
    np.testing.assert_array_equal(np.asarray(local.values)[live], np.asarray(TABLE.values)[real])
    if real:
        slots = np.asarray(slots_of(local, jnp.int32(np.resize(real, SLOTS))))
        assert live[slots].all()
        np.testing.assert_array_equal(np.asarray(local.ids)[slots], np.resize(real, SLOTS))


@settings(max_examples=40, deadline=None)
@given(ids_lists, st.booleans())
def test_an_update_is_the_change_of_the_touched_rows(ids, compact):
    ids = jnp.int32(ids)
    if compact:
        local = localize(TABLE, ids)
    else:
        local = rows.mark(rows.whole(TABLE), ids, ids < ITEMS)
    step = jnp.where(local.live[:, None], 0.5, 0.0)
    after = LocalTable(local.values + step, local.ids, local.live, local.fields)
    update = rows.update_of(after, TABLE)
    want = np.zeros((ITEMS, WIDTH))
    want[[i for i in ids.tolist() if i < ITEMS]] = 0.5
    np.testing.assert_allclose(rows.to_dense(update.delta()), want)
    assert update.delta().delta().origin is None
    touched = rows.clients_per_row(jnp.ones(1), jax.tree.map(lambda x: x[None], update.delta()))
    np.testing.assert_array_equal(touched, want[:, 0] > 0)
    np.testing.assert_allclose(rows.read(after, TABLE, slice(None)), TABLE.values + want)
    np.testing.assert_allclose(
        rows.read(after, TABLE, jnp.arange(ITEMS)), np.asarray(TABLE.values) + want
    )
    overlay = rows.Overlay(after, TABLE)
    np.testing.assert_allclose(overlay[jnp.int32([3, 3])], (TABLE.values + want)[jnp.int32([3, 3])])


def test_mark_leaves_padding_out():
    local = rows.mark(rows.whole(TABLE), jnp.int32([[1, 2], [3, 4]]), jnp.float32([[1, 1], [0, 0]]))
    assert np.flatnonzero(local.live).tolist() == [1, 2]
    compact = rows.localize(TABLE, jnp.int32([1, 2]))
    assert rows.mark(compact, jnp.int32([1]), jnp.ones(1)) is compact


def stacked(layout: str):
    rng = np.random.default_rng(0)
    if layout == "whole":
        live = rng.random((4, ITEMS)) < 0.4
        ids = None
    else:
        ids = np.sort(rng.integers(0, ITEMS + 2, (4, SLOTS)), 1)
        live = (np.diff(ids, axis=1, prepend=-1) != 0) & (ids < ITEMS)
        ids = jnp.int32(ids)
    values = rng.normal(size=(*live.shape, WIDTH)) * live[..., None]
    return RowsUpdate(jnp.float32(values), ids, jnp.asarray(live), None, ITEMS)


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_weighted_sum_equals_the_sum_of_dense_updates(layout):
    update, weights = stacked(layout), jnp.float32([2, 0, 1, 0.5])
    want = sum(
        float(w) * np.asarray(rows.to_dense(jax.tree.map(lambda x, k=k: x[k], update)))
        for k, w in enumerate(weights)
    )
    total = rows.weighted_sum(weights, update)
    np.testing.assert_allclose(rows.to_dense(total), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        rows.to_dense(rows.scale(total, 3.0)), 3 * want, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_clients_per_row_leaves_out_weight_zero(layout):
    update, weights = stacked(layout), jnp.float32([2, 0, 1, 0.5])
    want = np.zeros(ITEMS)
    for k in (0, 2, 3):
        held = np.arange(ITEMS) if update.ids is None else np.asarray(update.ids[k])
        want[held[np.asarray(update.live[k])]] += 1
    np.testing.assert_array_equal(rows.clients_per_row(weights, update), want)


def test_clients_do_not_copy_the_origin():
    local = rows.whole(TABLE)
    update = {"item": rows.update_of(local, TABLE), "bias": jnp.zeros(2)}
    axes = rows.map_axes(update)
    many = jax.vmap(lambda _: update, out_axes=axes)(jnp.arange(5))
    assert many["item"].origin.shape == TABLE.shape
    assert many["item"].values.shape == (5, *TABLE.shape)


def test_dense_and_tables_look_into_trees():
    tree = {"a": TABLE, "b": {"c": jnp.ones(2)}}
    assert rows.dense(tree)["a"] is TABLE.values
    assert rows.tables(tree)[0] is TABLE and len(rows.tables(tree)) == 1
    assert TABLE[jnp.int32([2])].tolist() == [[7, 8, 9]]


@pytest.mark.parametrize("tile", [1, 3, 8, 4096])
def test_add_to_is_the_same_in_any_tiles(tile):
    """Repeated ids add up, padding falls out, factors by row or one for all."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, ITEMS + 2, 8)
    values, factor = rng.normal(size=(8, WIDTH)), rng.normal(size=(8, 1))
    update = RowsUpdate(jnp.float32(values), jnp.int32(ids), jnp.ones(8, bool), None, ITEMS)
    for by in (None, 2.0, factor):
        want = np.asarray(TABLE.values, np.float64)
        times = values if by is None else by * values
        np.add.at(want, ids[ids < ITEMS], times[ids < ITEMS])
        given = update if by is None else rows.scale(update, jnp.float32(by))
        np.testing.assert_allclose(
            rows.add_to(TABLE.values, given, tile), want, rtol=1e-5, atol=1e-5
        )


def test_an_update_of_no_rows_is_zero():
    """As `wire.from_bytes` gives of a client that touched nothing."""
    update = RowsUpdate(
        jnp.zeros((0, WIDTH)), jnp.zeros(0, jnp.int32), jnp.zeros(0, bool), None, ITEMS
    )
    np.testing.assert_array_equal(rows.to_dense(update), np.zeros((ITEMS, WIDTH)))


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_a_sum_of_scaled_updates_is_scaled(layout):
    """`scale` may keep its factor aside, and what reads an update has to apply it."""
    several = stacked(layout)
    double = jax.vmap(lambda u: rows.scale(u, 2.0))(several)
    weights = jnp.float32([2, 0, 1, 0.5])
    np.testing.assert_allclose(
        rows.to_dense(rows.weighted_sum(weights, double)),
        2 * rows.to_dense(rows.weighted_sum(weights, several)),
        rtol=1e-5,
        atol=1e-6,
    )
