"""Rows by how much each client changed them, against a loop over clients and rows."""

import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import aggregate
from fedjax_rec.rows import RowsUpdate, to_dense
from fedjax_rec.types import Now, Upload

CLIENTS, ITEMS, WIDTH = 5, 7, 3
WEIGHT = np.array([2.0, 5, 0, 1, 4], np.float32)


def drawn(layout: str):
    """(update, changes [c, I, D] and who touched what [c, I])."""
    rng = np.random.default_rng(4)
    touched = rng.random((CLIENTS, ITEMS)) < 0.6
    touched[:, 6] = False
    change = np.where(touched[..., None], rng.normal(size=(CLIENTS, ITEMS, WIDTH)), 0)
    change[:, 1] = 0  # touched, and left as it was
    change = change.astype(np.float32)
    if layout == "whole":
        origin = jnp.asarray(rng.normal(size=(ITEMS, WIDTH)), jnp.float32)
        return RowsUpdate(change + origin, None, touched, origin, ITEMS), change
    # Each client's rows in another order, and padding behind them.
    order = np.argsort(rng.random((CLIENTS, ITEMS)), 1)
    live = np.take_along_axis(touched, order, 1)
    values = np.take_along_axis(change, order[..., None], 1)
    values = np.where(live[..., None], values, np.nan)
    ids = np.where(live, order, ITEMS).astype(np.int32)
    return RowsUpdate(jnp.asarray(values), jnp.asarray(ids), jnp.asarray(live), None, ITEMS), change


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_rows_are_weighted_by_their_change(layout):
    update, change = drawn(layout)
    dense = np.random.default_rng(1).normal(size=(CLIENTS, 4)).astype(np.float32)
    change[2] = np.nan if layout == "whole" else change[2]  # weighs nothing, whatever it holds
    want = np.zeros((ITEMS, WIDTH))
    for i in range(ITEMS):
        said = [(np.abs(change[k, i]).sum(), change[k, i]) for k in range(CLIENTS) if WEIGHT[k]]
        total = sum(q for q, _ in said)
        want[i] = sum(q * u for q, u in said) / total if total else 0
    rule = aggregate.by_change()
    uploads = Upload({"item": update, "layer": jnp.asarray(dense)}, jnp.asarray(WEIGHT), {})
    now = Now(jnp.int32(0), ())
    summary = rule.reduce((), uploads, now)
    _, made, verdicts = rule.finish(None, (), summary, now)
    assert verdicts is None
    np.testing.assert_allclose(to_dense(made)["item"], want, atol=1e-5)
    mean = (WEIGHT[:, None] * dense).sum(0) / WEIGHT.sum()
    np.testing.assert_allclose(made["layer"], mean, rtol=1e-5)


def test_the_longer_change_counts_by_its_length():
    """Two clients, one of which moves a row nine times as far the other way: nine tenths of it."""
    values = jnp.array([[[1.0, 1.0]], [[-9.0, -9.0]]])
    update = RowsUpdate(values, None, jnp.ones((2, 1), bool), None, 1)
    rule, now = aggregate.by_change(), Now(jnp.int32(0), ())
    summary = rule.reduce((), Upload(update, jnp.array([100.0, 1.0]), {}), now)
    _, made, _ = rule.finish(None, (), summary, now)
    np.testing.assert_allclose(to_dense(made), [[-8.0, -8.0]], rtol=1e-6)
