"""An update with a node of every kind, and adversarial numbers to fill it with.

Whole and gathered rows of a table of `ITEMS` x `WIDTH`, blocks of which some count, a matrix, a
vector, a scalar and a frozen leaf.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..rows import RowsUpdate
from ..trees import Frozen
from ..types import PyTree
from ..wire import Live, is_node

ITEMS, WIDTH, SLOTS, BLOCKS = 37, 5, 12, 6


def rows_update(rng, layout: str, touched: int, draw: Callable) -> RowsUpdate:
    """`touched` live rows; as in `rows.localize` the first slot of an id is the live one."""
    ids = np.sort(rng.choice(ITEMS, touched, replace=False))
    if layout == "whole":
        live = np.isin(np.arange(ITEMS), ids)
        values = draw((ITEMS, WIDTH)) * live[:, None]
        return RowsUpdate(jnp.float32(values), None, jnp.asarray(live), None, ITEMS)
    slots = np.sort(np.concatenate([ids, ids[: min(2, touched)]]))
    slots = np.concatenate([slots, np.full(SLOTS - len(slots), np.iinfo(np.int32).max)])
    live = np.concatenate([[True], slots[1:] != slots[:-1]]) & (slots < ITEMS)
    values = draw((SLOTS, WIDTH)) * live[:, None]
    return RowsUpdate(jnp.float32(values), jnp.int32(slots), jnp.asarray(live), None, ITEMS)


def update(touched: int = 7, seed: int = 0, draw: Callable | None = None) -> dict:
    """What a client changes that touches `touched` rows of each table.

    Args:
        touched: live rows, at most 10.
        seed: of the numbers.
        draw: draw(shape) -> numbers; None for normal ones.
    """
    rng = np.random.default_rng(seed)
    draw = draw or (lambda shape: rng.normal(size=shape))
    live = np.arange(BLOCKS) < touched % BLOCKS
    return {
        "item": rows_update(rng, "whole", touched, draw),
        "tail": rows_update(rng, "ids", touched, draw),
        "blocks": Live(jnp.float32(draw((BLOCKS, 16)) * live[:, None]), jnp.asarray(live)),
        "kernel": jnp.float32(draw((WIDTH, 70))),
        "vector": jnp.float32(draw((19,))),
        "bias": jnp.float32(draw(())),
        "base": Frozen(None),
    }


def model_of(update: PyTree) -> PyTree:
    """The update of the whole model that memory is made for: tables with all of their rows."""

    def one(node):
        if not isinstance(node, RowsUpdate):
            return jax.tree.map(jnp.zeros_like, node)
        values = jnp.zeros((node.size, node.values.shape[1]))
        return RowsUpdate(values, None, jnp.zeros(node.size, bool), None, node.size)

    return jax.tree.map(one, update, is_leaf=is_node)


def flat(tree: PyTree) -> list[np.ndarray]:
    """The numbers of every node, rows as whole tables, so that layouts can be compared."""

    def one(node):
        if not is_node(node):
            return np.asarray(node)
        live, values = np.asarray(node.live), np.asarray(node.values)
        whole = isinstance(node, RowsUpdate)
        out = np.zeros((node.size if whole else BLOCKS, *values.shape[1:]), values.dtype)
        if whole:
            ids = np.arange(node.size) if node.ids is None else np.asarray(node.ids)
            np.add.at(out, ids[live], values[live])
        else:
            out[: live.sum()] = values[live]
        return out

    return [one(node) for node in jax.tree.leaves(tree, is_leaf=is_node)]


def _spike(shape):
    x = np.zeros(shape)
    if x.size:
        x.reshape(-1)[x.size // 2] = -3.0
    return x


ADVERSARIAL = {
    "one spike": _spike,
    "all equal": lambda shape: np.full(shape, 0.7),
    "alternating": lambda shape: np.resize([1.0, -1.0], shape) if shape else np.ones(shape),
    "all zero": np.zeros,
    "denormal": lambda shape: np.full(shape, 1e-40),
    "huge": lambda shape: np.random.default_rng(1).normal(size=shape) * 1e20,
    "wide range": lambda shape: 10.0 ** np.random.default_rng(2).uniform(-20, 10, shape),
}
