"""Laws of every aggregator: a NumPy loop, order, padding, chunks; and what servers do with it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import AGGREGATORS, SERVERS
from rounds import now
from worlds import close

from fedjax_rec import rows
from fedjax_rec.rows import RowsUpdate, Table
from fedjax_rec.types import Upload

ITEMS, WIDTH, SLOTS, CLIENTS = 31, 4, 9, 6
WEIGHTS = np.float32([3, 0, 10, 1, 4, 7])
STEPS = np.float32([2, 1, 5, 1, 3, 4])
NAMES = pytest.mark.parametrize("name", AGGREGATORS)
LAYOUTS = pytest.mark.parametrize("layout", ["origin", "delta", "ids"])
ORIGIN = jnp.float32(np.random.default_rng(9).normal(size=(ITEMS, WIDTH)))

NOW = now()


def uploads(layout: str, garbage: float = 0.0) -> Upload:
    """Stacked uploads [CLIENTS, ...]; the client of weight 0 adds `garbage` to what it sends."""
    rng = np.random.default_rng(1)
    noise = garbage * (WEIGHTS == 0)
    bias = rng.normal(size=(CLIENTS, 3)) + noise[:, None]
    if layout.startswith("ids"):
        ids = np.sort(rng.integers(0, ITEMS - 5, (CLIENTS, SLOTS)), 1)
        ids[:, -2:] = np.iinfo(np.int32).max
        live = np.diff(ids, axis=1, prepend=-1) != 0
        live &= ids < ITEMS
    else:
        ids, live = None, rng.random((CLIENTS, ITEMS)) < 0.3
        live[:, -5:] = False
    values = rng.normal(size=(*live.shape, WIDTH)) * live[..., None] + noise[:, None, None]
    origin = ORIGIN if "origin" in layout else None
    if origin is not None:
        values = values + ORIGIN
    table = RowsUpdate(
        jnp.float32(values),
        None if ids is None else jnp.int32(ids),
        jnp.asarray(live),
        origin,
        ITEMS,
    )
    update = {"item": table, "bias": jnp.float32(bias)}
    aux = {"steps": jnp.asarray(STEPS)}
    return Upload(update, jnp.asarray(WEIGHTS), {"loss": jnp.zeros(CLIENTS)}, aux)


def take(upload: Upload, index) -> Upload:
    """The uploads `index`; the origin has no client axis."""

    def one(x):
        return x[jnp.asarray(index)]

    item = upload.update["item"]
    ids = None if item.ids is None else one(item.ids)
    item = RowsUpdate(one(item.values), ids, one(item.live), item.origin, item.size)
    update = {"item": item, "bias": one(upload.update["bias"])}
    metrics, aux = (jax.tree.map(one, x) for x in (upload.metrics, upload.aux))
    return Upload(update, one(upload.weight), metrics, aux)


def finished(aggregator, summary) -> dict:
    """The aggregated update as dense arrays."""
    shared = {"item": Table(ORIGIN), "bias": jnp.zeros(3)}
    _, update, _ = aggregator.finish(jax.random.key(0), aggregator.init(shared), summary, NOW)
    return rows.map_tables(rows.to_dense, update)


def aggregated(aggregator, upload: Upload) -> dict:
    return finished(aggregator, aggregator.reduce((), upload, NOW))


def looped(name: str, upload: Upload) -> dict:
    """The definition, client by client and row by row, in float64."""
    item = upload.update["item"]
    weight = np.asarray(upload.weight, np.float64)
    counts = (weight > 0).astype(np.float64)
    table, dense = np.zeros((ITEMS, WIDTH)), np.zeros(3)
    row_weight = np.zeros(ITEMS)
    by_row = "per_row" in name
    share = counts if name in ("uniform()", "total()") else weight
    row_share, times, effective = counts if by_row else share, np.ones(CLIENTS), 1.0
    if name.startswith("normalized"):
        steps = np.asarray(upload.aux["steps"], np.float64)
        # What a gradient of step j moves in the end, with momentum 0.9 or without.
        r = 0.9 if by_row else 0.0
        times = np.array(
            [sum(sum(r**i for i in range(int(n) - j)) for j in range(int(n))) for n in steps]
        )
        effective = (weight * times).sum() / max(weight.sum(), 1e-30)
    for k in range(len(weight)):
        dense += share[k] / times[k] * np.asarray(upload.update["bias"][k], np.float64)
        for slot in np.flatnonzero(np.asarray(item.live[k])):
            i = slot if item.ids is None else int(item.ids[k, slot])
            value = np.asarray(item.values[k, slot], np.float64)
            if item.origin is not None:
                value = value - np.asarray(item.origin[i], np.float64)
            table[i] += row_share[k] / times[k] * value
            row_weight[i] += row_share[k]
    if name == "total()":
        return {"item": table, "bias": dense}
    dense = effective * dense / max(share.sum(), 1e-30)
    if by_row:
        table = effective * table / np.maximum(row_weight, 1.0)[:, None]
    else:
        table = effective * table / max(share.sum(), 1e-30)
    return {"item": table, "bias": dense}


@NAMES
@LAYOUTS
def test_equals_a_loop(name, layout):
    upload = uploads(layout)
    want = looped(name, upload)
    close(aggregated(AGGREGATORS[name](), upload), want, rtol=1e-5, atol=2e-6)


@NAMES
@LAYOUTS
def test_the_order_of_clients_does_not_matter(name, layout):
    aggregator, upload = AGGREGATORS[name](), uploads(layout)
    turned = take(upload, [4, 0, 5, 2, 1, 3])
    close(aggregated(aggregator, upload), aggregated(aggregator, turned), atol=2e-6)


@NAMES
@LAYOUTS
def test_padding_does_not_count_whatever_it_holds(name, layout):
    aggregator = AGGREGATORS[name]()
    without = aggregated(aggregator, take(uploads(layout), np.flatnonzero(WEIGHTS)))
    close(aggregated(aggregator, uploads(layout, garbage=1e6)), without, atol=2e-6)


@NAMES
@pytest.mark.parametrize("layout", ["origin", "delta"])
@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_summaries_of_chunks_add(name, layout, chunk):
    aggregator, upload = AGGREGATORS[name](), uploads(layout)
    if not aggregator.additive:
        return  # its summaries are stacked: see test_rounds
    parts = [
        aggregator.reduce((), take(upload, np.arange(i, i + chunk)), NOW)
        for i in range(0, CLIENTS, chunk)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = jax.tree.map(lambda a, b: a | b if a.dtype == bool else a + b, total, part)
    close(finished(aggregator, total), aggregated(aggregator, upload), atol=2e-6)


@NAMES
@LAYOUTS
def test_a_round_without_clients_changes_nothing(name, layout):
    upload = uploads(layout)
    upload = replace(upload, weight=jnp.zeros(CLIENTS))
    for leaf in jax.tree.leaves(aggregated(AGGREGATORS[name](), upload)):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


@pytest.mark.parametrize("layout", ["origin", "ids"])
def test_per_row_divides_by_the_clients_that_touched_the_row(layout):
    upload = uploads(layout)
    item = upload.update["item"]
    got = np.asarray(aggregated(AGGREGATORS["per_row()"](), upload)["item"])
    row = int(item.ids[0, 0]) if item.ids is not None else int(np.flatnonzero(item.live[0])[0])
    changes = []
    for k in np.flatnonzero(WEIGHTS):
        held = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids[k])
        for slot in np.flatnonzero(np.asarray(item.live[k]) & (held == row)):
            before = 0.0 if item.origin is None else np.asarray(item.origin[row])
            changes.append(np.asarray(item.values[k, slot]) - before)
    np.testing.assert_allclose(got[row], np.mean(changes, 0), rtol=1e-5, atol=1e-6)


@NAMES
@LAYOUTS
def test_rows_that_nobody_touched_do_not_move_at_all(name, layout):
    """Not even by rounding: a server's Adam would make a full step of it."""
    upload = uploads(layout)
    item = upload.update["item"]
    touched = np.zeros(ITEMS, bool)
    for k in np.flatnonzero(WEIGHTS):
        held = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids[k])
        touched[held[np.asarray(item.live[k])]] = True
    assert not touched.all()
    got = np.asarray(aggregated(AGGREGATORS[name](), upload)["item"])
    np.testing.assert_array_equal(got[~touched], np.zeros_like(got[~touched]))


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("layout", ["delta", "ids"])
def test_servers_start_from_zero_and_leave_untouched_rows(name, layout):
    server = SERVERS[name]()
    shared = {"item": Table(ORIGIN), "bias": jnp.ones(3)}
    aggregator = AGGREGATORS["mean()"]()
    summary = aggregator.reduce((), uploads(layout), NOW)
    _, update, _ = aggregator.finish(jax.random.key(0), (), summary, NOW)
    zero = jax.tree.map(lambda x: x * 0 if x.dtype == jnp.float32 else x, update)
    state, after = server.apply(server.init(shared), shared, zero)
    close(after, shared)
    state, after = jax.jit(server.apply)(state, shared, update)
    assert jax.tree.structure(after) == jax.tree.structure(shared)
    np.testing.assert_array_equal(after["item"].values[-5:], ORIGIN[-5:])
    assert np.abs(np.asarray(after["item"].values - ORIGIN)).max() > 1e-3


def test_step_and_optax_sgd_are_the_same():
    shared = {"item": Table(ORIGIN), "bias": jnp.ones(3)}
    for layout in ("origin", "ids"):
        aggregator = AGGREGATORS["mean()"]()
        summary = aggregator.reduce((), uploads(layout), NOW)
        _, update, _ = aggregator.finish(jax.random.key(0), (), summary, NOW)
        a, b = SERVERS["step(1)"](), SERVERS["from_optax(sgd)"]()
        close(
            a.apply(a.init(shared), shared, update)[1], b.apply(b.init(shared), shared, update)[1]
        )
