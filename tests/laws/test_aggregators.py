"""Laws of every aggregator that ships, those of `fedjax_rec.testing`; a NumPy loop; and servers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import AGGREGATORS, ATTACKED, PRIVATE, ROBUST, SERVERS, WATCHED
from rotating import in_turn
from worlds import close

from fedjax_rec import testing
from fedjax_rec.rows import Table
from fedjax_rec.testing.uploads import (
    CLIENTS,
    ITEMS,
    LAYOUTS,
    ORIGIN,
    WEIGHTS,
    WIDTH,
    aggregated,
    now,
    uploads,
)
from fedjax_rec.types import Upload

NAMES = [name for name in AGGREGATORS if name not in ROBUST | ATTACKED | WATCHED]
SUMS = pytest.mark.parametrize("name", NAMES)
PARTS = ("item", "bias")


def update_of(name: str, upload: Upload) -> dict:
    """What the aggregator makes of `upload`, as dense arrays."""
    update = aggregated(AGGREGATORS[name](), upload)[1]
    return {part: update[part] for part in PARTS}


def mean_of(upload: Upload) -> dict:
    """The mean by examples, as a server gets it."""
    aggregator = AGGREGATORS["mean()"]()
    summary = aggregator.reduce((), upload, now())
    update = aggregator.finish(jax.random.key(0), (), summary, now())[1]
    return {part: update[part] for part in PARTS}


def looped(name: str, upload: Upload) -> dict:
    """The definition, client by client and row by row, in float64."""
    item = upload.update["item"]
    weight = np.asarray(upload.weight, np.float64)
    counts = (weight > 0).astype(np.float64)
    table, dense = np.zeros((ITEMS, WIDTH)), np.zeros(3)
    row_weight = np.zeros(ITEMS)
    by_change = name == "by_change()"
    by_row = "per_row" in name or by_change
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
            change = np.abs(value).sum() if by_change else 1.0
            table[i] += row_share[k] / times[k] * change * value
            row_weight[i] += row_share[k] * change
    if name == "total()":
        return {"item": table, "bias": dense}
    dense = effective * dense / max(share.sum(), 1e-30)
    if by_row:
        table = effective * table / np.where(row_weight > 0, row_weight, 1.0)[:, None]
    else:
        table = effective * table / max(share.sum(), 1e-30)
    return {"item": table, "bias": dense}


@pytest.mark.parametrize("name", [*in_turn(NAMES, 12), *in_turn(ROBUST | ATTACKED | WATCHED, 12)])
def test_aggregators_keep_their_laws(name):
    testing.check_aggregator(AGGREGATORS[name]())


@pytest.mark.parametrize("name", in_turn(PRIVATE, 12))
def test_private_sums_keep_their_laws(name):
    testing.check_aggregator(PRIVATE[name](), aux=lambda uploads: {})


@SUMS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equals_a_loop(name, layout):
    upload = uploads(layout)
    close(update_of(name, upload), looped(name, upload), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("layout", ["origin", "ids"])
def test_per_row_divides_by_the_clients_that_touched_the_row(layout):
    upload = uploads(layout)
    item = upload.update["item"]
    got = np.asarray(update_of("per_row()", upload)["item"])
    row = int(item.ids[0, 0]) if item.ids is not None else int(np.flatnonzero(item.live[0])[0])
    changes = []
    for k in np.flatnonzero(WEIGHTS):
        held = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids[k])
        for slot in np.flatnonzero(np.asarray(item.live[k]) & (held == row)):
            before = 0.0 if item.origin is None else np.asarray(item.origin[row])
            changes.append(np.asarray(item.values[k, slot]) - before)
    np.testing.assert_allclose(got[row], np.mean(changes, 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("layout", ["delta", "ids"])
def test_servers_start_from_zero_and_leave_untouched_rows(name, layout):
    server = SERVERS[name]()
    shared = {"item": Table(ORIGIN), "bias": jnp.ones(3)}
    update = mean_of(uploads(layout))
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
        update = mean_of(uploads(layout))
        a, b = SERVERS["step(1)"](), SERVERS["from_optax(sgd)"]()
        close(
            a.apply(a.init(shared), shared, update)[1], b.apply(b.init(shared), shared, update)[1]
        )
