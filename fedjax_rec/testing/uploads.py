"""What clients of one chunk upload: rows in each layout, a dense leaf, one client of weight 0."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from .. import rows
from ..keys import for_client
from ..rounds.sealed import whole_tables
from ..rows import RowsUpdate, Table
from ..trees import Frozen
from ..types import Aggregator, Now, PyTree, Seal, Upload
from .laws import KEY

ITEMS, WIDTH, SLOTS, CLIENTS = 31, 4, 9, 6
WEIGHTS = np.array([3, 0, 10, 1, 4, 7], np.float32)
STEPS = np.array([2, 1, 5, 1, 3, 4], np.float32)
UNTOUCHED = 5  # the last rows, which no client touches
# origin: whole tables that hold values and not changes. delta: whole tables. ids: touched rows.
LAYOUTS = ("origin", "delta", "ids")
ORIGIN = jnp.float32(np.random.default_rng(9).normal(size=(ITEMS, WIDTH)))
SHARED = {"item": Table(ORIGIN), "bias": jnp.zeros(3), "base": Frozen(jnp.ones(2))}


def uploads(layout: str, garbage: float = 0.0, seed: int = 1) -> Upload:
    """Stacked uploads [CLIENTS, ...]; the client of weight 0 adds `garbage` to what it sends."""
    rng, noise = np.random.default_rng(1), garbage * (WEIGHTS == 0)
    numbers = np.random.default_rng(100 + seed)
    bias = numbers.normal(size=(CLIENTS, 3)) + noise[:, None]
    if layout == "ids":
        ids = np.sort(rng.integers(0, ITEMS - UNTOUCHED, (CLIENTS, SLOTS)), 1)
        ids[:, -2:] = np.iinfo(np.int32).max
        live = np.diff(ids, axis=1, prepend=-1) != 0
        live &= ids < ITEMS
    else:
        ids, live = None, rng.random((CLIENTS, ITEMS)) < 0.3
        live[:, -UNTOUCHED:] = False
    values = numbers.normal(size=(*live.shape, WIDTH)) * live[..., None] + noise[:, None, None]
    origin = ORIGIN if layout == "origin" else None
    values = values if origin is None else values + ORIGIN
    table = RowsUpdate(
        jnp.float32(values), None if ids is None else jnp.int32(ids), jnp.asarray(live), origin,
        ITEMS,
    )  # fmt: skip
    change = {"item": table, "bias": jnp.float32(bias), "base": Frozen(None)}
    steps = jnp.asarray(STEPS)
    metrics = {"loss": jnp.zeros(CLIENTS), "steps": steps}
    return Upload(change, jnp.asarray(WEIGHTS), metrics, {"steps": steps})


def take(tree: PyTree, index) -> PyTree:
    """The clients `index` of stacked uploads; the origin has no client axis."""
    index = jnp.asarray(index)

    def one(node):
        if not isinstance(node, RowsUpdate):
            return node[index]
        ids = None if node.ids is None else node.ids[index]
        factor = None if node.factor is None else node.factor[index]
        live = node.live[index]
        return replace(node, values=node.values[index], ids=ids, live=live, factor=factor)

    return rows.map_nodes(one, tree)


def as_engines_do(aggregator: Aggregator, upload: Upload, ids=None) -> Upload:
    """The uploads as `reduce` gets them: `origin` is taken off unless all of it adds up, and under
    a seal they are sealed by their clients, `ids` int32[c], None for 0, 1, ..."""
    if aggregator.seal is not None:
        return _sealed(aggregator.seal, upload, ids)
    if aggregator.additive is True:
        return upload
    apart = jax.vmap(
        lambda update: rows.map_tables(lambda u: u.delta(), update),
        in_axes=(rows.map_axes(upload.update),),
    )
    return replace(upload, update=apart(upload.update))


def _sealed(seal: Seal, upload: Upload, ids) -> Upload:
    def one(update, id):
        body = whole_tables(update) if seal.narrow else rows.dense(rows.all_rows(update))
        packets = seal.send(for_client(KEY, id), body, now(id))[0]
        return tuple(x.body for x in packets) if seal.narrow else packets.body

    ids = jnp.arange(upload.weight.shape[0], dtype=jnp.int32) if ids is None else jnp.int32(ids)
    body = jax.vmap(one, in_axes=(rows.map_axes(upload.update), 0))(upload.update, ids)
    return replace(upload, update=body)


def now(clients=None) -> Now:
    """What is known of the round; clients: int32[c], the ids of a chunk."""
    return Now(jnp.int32(0), SHARED, clients, jnp.arange(CLIENTS))


def aggregated(
    aggregator: Aggregator, upload: Upload, ids=None, chunk: int | None = None, key=KEY, state=None
):
    """(state, update as dense arrays, verdicts) of uploads reduced in chunks. ids: int32[n], of the
    clients; None for 0, 1, ... state: None for that before the first round."""
    upload = as_engines_do(aggregator, upload, ids)
    state = aggregator.init(SHARED) if state is None else state
    count = upload.weight.shape[0]
    ids = jnp.arange(count) if ids is None else jnp.asarray(ids)
    total, stacks, chunks = None, [], -(-count // (chunk or count))
    for start in range(0, count, chunk or count):
        index = np.arange(start, min(start + (chunk or count), count))
        found = aggregator.reduce(state, take(upload, index), now(jnp.int32(ids[index])))
        adds, lists = rows.divide(found, aggregator.additive, chunks)
        total = rows.combine(total, adds)
        stacks.append(lists)
    summary = rows.join(total, jax.tree.map(lambda *x: jnp.stack(x), *stacks))
    state, update, verdicts = aggregator.finish(key, state, summary, now())
    return state, rows.to_dense(update), verdicts
