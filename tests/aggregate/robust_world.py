"""Uploads for tests of robust rules, and what a NumPy loop sees of them.

Twelve clients, of which one weighs nothing and holds NaN and two lie; 20 items, of which the last
four are touched by nobody; a dense leaf, one of integers, and a frozen one.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import rows
from fedjax_rec.rows import RowsUpdate, Table
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Now, Upload

CLIENTS, ITEMS, WIDTH, LIARS, ABSENT = 12, 20, 3, (0, 7), 4
SHARED = {
    "item": Table(jnp.zeros((ITEMS, WIDTH))), "kernel": jnp.zeros((2, 2)),
    "number": jnp.zeros(3, jnp.int32), "base": Frozen(jnp.ones(2)),
}  # fmt: skip
NOW = Now(jnp.int32(0), SHARED, jnp.arange(CLIENTS, dtype=jnp.int32), jnp.arange(CLIENTS))


def uploads(layout: str, seed: int = 0, clients: int = CLIENTS, absent=(ABSENT,)) -> Upload:
    """Stacked uploads; layout: "whole" or "ids", of the same change."""
    draw = np.random.default_rng(seed)
    live = draw.random((clients, ITEMS)) < 0.6
    live[:, -4:] = False
    live[:, 3] = np.arange(clients) < 4  # a row of four clients
    shape = (clients, ITEMS, WIDTH)
    values = draw.normal(size=shape) * live[..., None]
    kernel = draw.normal(size=(clients, 2, 2))
    number = draw.integers(-3, 4, (clients, 3))
    for liar in LIARS:
        values[liar], kernel[liar] = 3 * values[liar] + 0.8 * live[liar][:, None], 4.0
    weight = draw.integers(1, 9, clients).astype(float)
    for nobody in absent:
        weight[nobody], values[nobody], kernel[nobody] = 0, np.nan, np.nan
    ids = None
    if layout == "ids":
        # Live rows in no order, with rows of nothing among them.
        room = ITEMS + 2
        order = np.array([draw.permutation(room) for _ in range(clients)])
        longer = lambda x: np.concatenate([x, np.zeros_like(x[:, :2])], 1)
        pick = lambda x: np.take_along_axis(x, order.reshape(*order.shape, *[1] * (x.ndim - 2)), 1)
        values, live = pick(longer(values)), pick(longer(live))
        ids = jnp.int32(np.where(live, order, ITEMS))
    table = RowsUpdate(jnp.float32(values), ids, jnp.asarray(live), None, ITEMS)
    update = {"item": table, "kernel": jnp.float32(kernel), "number": jnp.int32(number)}
    return Upload({**update, "base": Frozen(None)}, jnp.float32(weight), {})


def flat(upload: Upload) -> tuple[np.ndarray, np.ndarray]:
    """(float64[n, P], bool[n, P] of which numbers a client said something) of those that weigh
    something, rows first."""
    item, real = upload.update["item"], np.flatnonzero(np.asarray(upload.weight) > 0)
    values, touched = np.zeros((len(real), ITEMS, WIDTH)), np.zeros((len(real), ITEMS), bool)
    for row, k in enumerate(real):
        for slot in np.flatnonzero(np.asarray(item.live[k])):
            i = slot if item.ids is None else int(item.ids[k, slot])
            values[row, i], touched[row, i] = np.asarray(item.values[k, slot], float), True
    dense = [np.asarray(upload.update[name], float)[real] for name in ("kernel", "number")]
    parts = [values, *dense]
    said = [np.repeat(touched[..., None], WIDTH, 2), *[np.ones_like(x, bool) for x in dense]]
    together = lambda xs: np.concatenate([x.reshape(len(real), -1) for x in xs], 1)
    return together(parts), together(said)


def made(aggregator, upload: Upload, state=None, key=None, ids=None):
    """(state, float[P] the update as `flat` has it, verdicts), compiled."""

    @jax.jit
    def run(upload, state, key, ids):
        now = replace(NOW, client=ids)
        summary = aggregator.reduce(state, upload, now)
        state, update, verdicts = aggregator.finish(key, state, summary, replace(now, client=None))
        update = rows.to_dense(update)
        parts = [update[name].reshape(-1) for name in ("item", "kernel", "number")]
        return state, jnp.concatenate(parts), verdicts

    state = aggregator.init(SHARED) if state is None else state
    ids = jnp.arange(upload.weight.shape[0], dtype=jnp.int32) if ids is None else ids
    return run(upload, state, jax.random.key(1) if key is None else key, ids)
