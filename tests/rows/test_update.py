"""What is done to rows is done to the array that they stand for, by NumPy and for any layout."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_rec import rows, trees
from fedjax_rec.rows import LocalTable, RowsGradient, RowsUpdate, Table
from fedjax_rec.rows.narrow import wide
from fedjax_rec.trees import Frozen

ITEMS, WIDTH, SLOTS = 9, 2, 6
LAYOUTS = ["whole", "origin", "ids", "factor"]
layouts, seeds = st.sampled_from(LAYOUTS), st.integers(0, 10_000)
several = settings(max_examples=20, deadline=None)
ROOM = 6
add, subtract, scale, apply = map(jax.jit, (rows.add, rows.subtract, rows.scale, rows.apply))
to_dense, deltas, spread = map(jax.jit, (rows.to_dense, rows.deltas, rows.spread))
here, put, values_at = map(jax.jit, (rows.here, rows.put, rows.values_at))
compact = jax.jit(lambda update: rows.compact(update, ROOM))


def rows_update(layout: str, seed: int) -> tuple[RowsUpdate, np.ndarray]:
    """An update of one table, of a client, and the array [I, D] that it stands for."""
    rng = np.random.default_rng(seed)
    if layout in ("whole", "origin"):
        ids, live = None, np.isin(np.arange(ITEMS), rng.integers(0, ITEMS, ROOM))
        named = np.arange(ITEMS)
    else:
        # As `localize` makes them: sorted, live at the first place, padding behind.
        named = np.sort(rng.integers(0, ITEMS + 3, SLOTS))
        live = (np.diff(named, prepend=-1) != 0) & (named < ITEMS)
        ids = jnp.asarray(named, jnp.int32)
    values = rng.normal(size=(live.size, WIDTH)) * live[:, None]
    want = np.zeros((ITEMS, WIDTH))
    want[named[live]] = values[live]
    origin = factor = None
    if layout == "origin":
        origin = jnp.float32(rng.normal(size=(ITEMS, WIDTH)))
        values = values + np.asarray(origin)
    if layout == "factor":
        factor, want = jnp.float32(-1.5), -1.5 * want
    update = RowsUpdate(jnp.float32(values), ids, jnp.asarray(live), origin, ITEMS, factor)
    return update, want


def tree_of(layout: str, seed: int):
    """An update of a model: a table, an array and what is frozen; and its arrays."""
    table, want = rows_update(layout, seed)
    bias = jnp.float32(np.random.default_rng(seed + 1).normal(size=4))
    update = {"item": table, "head": {"bias": bias, "kernel": Frozen(None)}}
    return update, {"item": want, "head": {"bias": np.asarray(bias), "kernel": Frozen(None)}}


def assert_dense(update, want):
    got = to_dense(update)
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), got, want)


@several
@given(layouts, layouts, seeds)
def test_sums_and_differences(first, second, seed):
    (a, x), (b, y) = tree_of(first, seed), tree_of(second, seed + 7)
    both = add(a, b)
    assert_dense(both, jax.tree.map(np.add, x, y))
    assert_dense(subtract(a, b), jax.tree.map(np.subtract, x, y))
    assert_dense(rows.negative(a), jax.tree.map(np.negative, x))
    total = both["item"]
    there = np.zeros(ITEMS, bool)
    for u in (a["item"], b["item"]):
        held = np.arange(ITEMS) if u.ids is None else np.asarray(u.ids)
        there[held[np.asarray(u.live)]] = True
    held = np.arange(ITEMS) if total.ids is None else np.asarray(total.ids)
    np.testing.assert_array_equal(np.unique(held[np.asarray(total.live)]), np.flatnonzero(there))


@several
@given(layouts, seeds, st.floats(-3, 3, width=32))
def test_multiples(layout, seed, factor):
    update, want = tree_of(layout, seed)
    times = lambda x: factor * x
    once = scale(update, factor)
    assert_dense(once, jax.tree.map(times, want))
    twice = scale(once, 0.5)
    assert_dense(twice, jax.tree.map(lambda x: 0.5 * factor * x, want))
    assert_dense(deltas(twice), jax.tree.map(lambda x: 0.5 * factor * x, want))
    norm = sum((x**2).sum() for x in jax.tree.leaves(want))
    np.testing.assert_allclose(rows.squared_norm(update), norm, rtol=1e-5, atol=1e-6)


def test_a_multiple_of_each_row():
    update, want = rows_update("ids", 3)
    by = np.random.default_rng(0).normal(size=(SLOTS, 1))
    of_row = np.zeros((ITEMS, 1))
    live = np.asarray(update.live)
    of_row[np.asarray(update.ids)[live]] = by[live]
    assert_dense(rows.scale(update, jnp.float32(by)), of_row * want)


@several
@given(layouts, seeds)
def test_applied_to_a_model(layout, seed):
    """Rows and leaves move, frozen values and what has no update stay."""
    update, want = tree_of(layout, seed)
    kernel = jnp.ones((2, 2))
    values = jnp.float32(np.random.default_rng(seed).normal(size=(ITEMS, WIDTH)))
    shared = {"item": Table(values), "head": {"bias": jnp.ones(4), "kernel": Frozen(kernel)}}
    after = apply(shared, update)
    np.testing.assert_allclose(after["item"].values, values + want["item"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(after["head"]["bias"], 1 + want["head"]["bias"], rtol=1e-6)
    assert after["head"]["kernel"].value.shape == kernel.shape and after["item"].fields == (
        "items",
    )
    still = rows.apply(shared, {"item": update["item"], "head": {**update["head"], "bias": None}})
    assert still["head"]["bias"] is shared["head"]["bias"]
    part = rows.apply(trees.trainable(shared), update)
    assert part["head"]["kernel"].value is None


@pytest.mark.parametrize("layout", ["whole", "ids", "factor"])
def test_narrow_tables_are_rounded_once(layout):
    """An id twice: both summands are below half a unit in the last place, their sum is not."""
    update, want = rows_update(layout, 5)
    tiny = 2.0**-9 * 0.75
    update = replace(update, values=jnp.sign(update.values) * tiny)
    want = np.sign(want) * (1.5 if layout == "factor" else 1) * tiny
    if update.ids is not None:
        update, want = rows.add(update, rows.scale(update, 1.0)), 2 * want
    table = Table(jnp.ones((ITEMS, WIDTH), jnp.bfloat16))
    got = rows.apply({"item": table}, {"item": update})["item"].values
    np.testing.assert_array_equal(wide(got), wide(jnp.bfloat16(np.float32(1 + want))))
    assert got.dtype == jnp.bfloat16
    if update.ids is not None:
        assert (np.asarray(wide(got)) != 1).any()
    down = rows.apply(table, update, rounding=lambda x: jnp.zeros_like(x, jnp.bfloat16)).values
    touched = (want != 0).any(1)
    np.testing.assert_array_equal(wide(down), np.where(touched, 0, 1)[:, None] * np.ones(WIDTH))


@several
@given(layouts, seeds)
def test_other_layouts_are_the_same_change(layout, seed):
    update, want = tree_of(layout, seed)
    live = int(update["item"].live.sum())
    few = compact(update)
    held, ids = few["item"], np.asarray(few["item"].ids)
    assert held.live.shape == (ROOM,) and int(held.live.sum()) == live
    assert held.origin is None and held.factor is None
    assert (np.diff(ids) >= 0).all() and (ids[live:] == ITEMS).all()
    assert_dense(few, want)
    for like in (rows.blank(update, ROOM + 2), rows.blank(update), update):
        roomy = spread(few, like)
        assert roomy["item"].live.shape == like["item"].live.shape
        assert int(roomy["item"].live.sum()) == live
        assert_dense(roomy, want)


def test_a_layout_without_room_is_refused():
    update, _ = tree_of("ids", 0)
    with pytest.raises(ValueError, match=r"has 6 rows and room for 2; give it room for 6 or more"):
        rows.spread(update, rows.blank(update, 2))
    # What decodes to arrays is no update of rows, and stays.
    arrays = rows.to_dense(update)
    assert rows.spread(arrays, update) is arrays


def test_blank_updates():
    update, want = tree_of("origin", 0)
    outline = jax.eval_shape(lambda: update)
    for like in (update, outline):
        zero = rows.blank(like, 3, jnp.bfloat16)
        assert zero["item"].ids.tolist() == [ITEMS] * 3 and zero["head"]["bias"].shape == (4,)
        assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(rows.dense(zero)))
        assert_dense(rows.blank(like), jax.tree.map(np.zeros_like, want))


@several
@given(layouts, layouts, seeds)
def test_values_at_the_rows_of_another(first, second, seed):
    (a, want), (b, _) = rows_update(first, seed), rows_update(second, seed + 3)
    got = np.asarray(values_at(deltas(a), deltas(b)))
    live = np.asarray(b.live)
    held = np.arange(ITEMS) if b.ids is None else np.asarray(b.ids)
    np.testing.assert_allclose(got[live], want[held[live]], rtol=1e-5, atol=1e-6)


def test_whole_tables():
    before, values = tree_of("whole", 1)[1], np.float32(np.eye(ITEMS, WIDTH))
    x = {"item": Table(jnp.float32(before["item"])), "head": jnp.zeros(2)}
    y = {"item": replace(x["item"], values=x["item"].values + values), "head": jnp.ones(2)}
    change = rows.difference(y, x)
    np.testing.assert_allclose(rows.to_dense(change)["item"], values, atol=1e-6)
    assert change["item"].live.tolist() == [True] * WIDTH + [False] * (ITEMS - WIDTH)
    assert change["head"].tolist() == [1, 1]
    nothing = rows.zero_update({**x, "fixed": Frozen(jnp.ones(3))})
    assert not nothing["item"].live.any() and nothing["fixed"].value is None
    again = rows.with_values(x, rows.dense(y))
    assert again["item"].values is y["item"].values and again["item"].fields == x["item"].fields
    half = rows.scale(rows.add(x, y), 0.5)
    np.testing.assert_allclose(half["item"].values, before["item"] + values / 2, atol=1e-6)


def local_of(layout: str, seed: int) -> LocalTable:
    update, _ = rows_update("ids" if layout == "ids" else "whole", seed)
    return LocalTable(update.values, update.ids, update.live)


@several
@given(st.sampled_from(["ids", "whole"]), st.booleans(), seeds)
def test_numbers_at_the_rows_of_a_client(layout, as_table, seed):
    """Read, changed and put back: live rows alone change, in a table as in an array."""
    rng = np.random.default_rng(seed)
    kept = rng.normal(size=(ITEMS, WIDTH)).astype(np.float32)
    wrap = Table if as_table else jnp.asarray
    tree = {"item": wrap(jnp.asarray(kept)), "bias": jnp.zeros(2)}
    local = {"item": local_of(layout, seed), "bias": jnp.ones(2)}
    mine, live = local["item"], np.asarray(local["item"].live)
    held = np.arange(ITEMS) if mine.ids is None else np.asarray(mine.ids)
    there = here(tree, local)
    np.testing.assert_array_equal(there["item"][live], kept[held[live]])
    assert there["bias"].tolist() == [0, 0]
    after = put(tree, local, {"item": there["item"] + 1, "bias": jnp.ones(2)})
    want = kept.copy()
    want[held[live]] += 1
    values = after["item"].values if as_table else after["item"]
    np.testing.assert_allclose(values, want, rtol=1e-6)
    assert after["bias"].tolist() == [1, 1] and isinstance(after["item"], Table) == as_table
    shared = {"item": Table(jnp.asarray(kept)), "bias": jnp.zeros(2)}
    update = rows.as_update(there, local, shared)
    want = np.zeros_like(kept)
    want[held[live]] = kept[held[live]]
    assert_dense(update, {"item": want, "bias": np.zeros(2)})


def test_what_a_client_changed():
    shared = {"item": Table(jnp.ones((ITEMS, WIDTH))), "bias": jnp.ones(2), "base": Frozen(3)}
    ids = jnp.int32([4, 1, 4, ITEMS])
    for local in (rows.localize(shared["item"], ids), rows.whole(shared["item"])):
        local = rows.mark(local, ids, ids < ITEMS)
        before = {"item": local, "bias": jnp.ones(2), "base": Frozen(None)}
        moved = replace(local, values=local.values + local.live[:, None])
        after = {**before, "item": moved, "bias": jnp.full(2, 3.0)}
        change = rows.change(after, shared, before)
        want = np.zeros((ITEMS, WIDTH))
        want[[1, 4]] = 1
        assert_dense(change, {"item": want, "bias": np.full(2, 2.0), "base": Frozen(None)})


def test_gradients_of_a_batch():
    """Slots repeat; a term counts for every row; None is what is not trained."""
    rng = np.random.default_rng(0)
    slots, some, term = jnp.int32([0, 3, 0]), rng.normal(size=(3, WIDTH)), rng.normal(size=(5, 2))
    params = {
        "item": LocalTable(jnp.ones((5, WIDTH)), None, jnp.ones(5, bool)),
        "user": jnp.ones(3),
    }
    params = {**params, "still": jnp.ones(2)}
    g = {"item": RowsGradient(slots, jnp.float32(some)), "user": jnp.arange(3.0), "still": None}
    want = np.zeros((5, WIDTH))
    np.add.at(want, np.asarray(slots), some)

    def check(gradient, item, user):
        got = rows.at_rows(gradient, params)
        np.testing.assert_allclose(got["item"], item, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(got["user"], user, rtol=1e-6)
        assert got["still"] is None
        moved = rows.apply(params, gradient)
        np.testing.assert_allclose(moved["item"].values, 1 + item, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(moved["user"], 1 + user, rtol=1e-6)
        assert moved["still"] is params["still"]
        summed = rows.apply(rows.dense(params), gradient)
        np.testing.assert_allclose(summed["item"], 1 + item, rtol=1e-5, atol=1e-6)

    user = np.arange(3.0)
    terms = {"item": jnp.float32(term), "user": jnp.ones(3), "still": jnp.ones(2)}
    both = rows.add(g, terms)
    check(g, want, user)
    check(both, want + term, user + 1)
    check(rows.scale(both, -2.0), -2 * (want + term), -2 * (user + 1))
    check(rows.subtract(g, both), -term, -np.ones(3))
    check(rows.add(both, both), 2 * (want + term), 2 * (user + 1))
    check(rows.subtract(both, g), term, np.ones(3))


@pytest.mark.parametrize("layout", ["whole", "origin", "ids"])
def test_sums_over_clients_and_chunks(layout):
    """Two chunks of two clients, of which one weighs nothing, as one sum."""
    clients = [tree_of(layout, seed) for seed in range(4)]
    if layout == "origin":  # the server's own, the same for all
        same = clients[0][0]["item"].origin
        for update, want in clients:
            values = jnp.float32(want["item"]) + same
            update["item"] = replace(update["item"], values=values, origin=same)
    weights = jnp.float32([2, 0, 1, 0.5])
    axes = rows.map_axes(clients[0][0])
    stack = lambda *u: jax.tree.map(lambda *x: jnp.stack(x), *u)
    summed, lists, counts = None, [], 0
    for begin in (0, 2):
        chunk = stack(*(update for update, _ in clients[begin : begin + 2]))
        if layout == "origin":
            chunk["item"] = replace(chunk["item"], origin=clients[0][0]["item"].origin)
            assert axes["item"].origin is None
        w = weights[begin : begin + 2]
        adds, listed = rows.divide(rows.weighted_sum(w, chunk), True)
        summed = rows.combine(summed, adds)
        lists.append(listed)
        touched = rows.clients_per_row(w, chunk)
        counts = counts + touched["item"]
        assert touched["head"]["bias"] == (w > 0).sum()
    total = rows.join(summed, stack(*lists))
    over = lambda *x: sum(float(w) * y for w, y in zip(weights, x, strict=True))
    assert_dense(total, jax.tree.map(over, *(want for _, want in clients)))
    some = [want["item"] for k, (_, want) in enumerate(clients) if k != 1]
    np.testing.assert_array_equal(counts, sum((x != 0).any(1).astype(int) for x in some))
    # Where nothing adds up, all is listed.
    none, everything = rows.divide({"a": jnp.ones(2)}, False)
    assert none == {"a": None} and rows.join(none, stack(everything))["a"].shape == (2,)


def test_nodes_and_maps():
    update, _ = tree_of("ids", 0)
    tree = {**update, "none": None}
    assert [type(x) for x in rows.nodes(tree)] == [type(update["head"]["bias"]), RowsUpdate]
    paths = [jax.tree_util.keystr(path) for path, _ in rows.nodes_with_path(tree)]
    assert paths == ["['head']['bias']", "['item']"]
    seen = rows.map_nodes_with_path(lambda path, x, y: (len(path), y), tree, {**tree, "none": 3})
    assert seen["none"] is None and seen["item"] == (1, update["item"])
    assert seen["head"]["bias"][0] == 2 and seen["head"]["kernel"].value is None
    assert rows.has_tables(tree) and not rows.has_tables(rows.to_dense(tree))
    merged = rows.merge({**tree, "item": None, "none": None}, {**tree, "none": 3})
    assert merged["item"] is update["item"] and merged["none"] == 3
