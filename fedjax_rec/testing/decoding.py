"""What comes of packets: many decoded at once, the error of each node, sums of bodies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import trees
from ..rows import RowsUpdate
from ..types import Compressor, Now, Packet, PyTree
from ..wire import is_node
from .laws import compiled
from .updates import flat

# Samples are drawn in portions, no more of them than this.
PORTION, PORTIONS = 2000, 8


def many(compressor: Compressor, memory: PyTree, x: PyTree, now: Now) -> Callable:
    """draw(key) -> decoded updates of `x` under PORTION keys, the numbers of every node."""

    def one(key):
        packet = compressor.encode(key, memory, x, now)[1]
        back = compressor.decode(packet, x, now)
        return [whole(node) for node in nodes(back)]

    return compiled(lambda key: jax.vmap(one)(jax.random.split(key, PORTION)))


def whole(node) -> Any:
    """The numbers of a node; of rows with ids those of the whole table, whatever their order."""
    if not isinstance(node, RowsUpdate) or node.ids is None:
        return node.values if is_node(node) else node
    ids = jnp.where(node.live, node.ids, node.size)
    zeros = jnp.zeros((node.size, *node.values.shape[1:]), node.values.dtype)
    return zeros.at[ids].add(node.values, mode="drop")


def squares(before: PyTree, after: PyTree, whole: bool) -> list[tuple[float, float]]:
    """(|C(x) - x|^2, |x|^2) of every node, or of all of them together; in float64."""
    pairs = []
    for x, y in zip(flat(before), flat(after), strict=True):
        x, y = x.astype(np.float64), y.astype(np.float64)
        pairs.append((float(((y - x) ** 2).sum()), float((x**2).sum())))
    return [tuple(np.sum(pairs, 0))] if whole else pairs


def off_linear(decode: Callable, packet: Packet) -> float:
    """How far decode(sum_k w_k body_k) is from sum_k w_k decode(body_k), of bodies of one side."""
    weights, bodies = (0.5, 3.0, -1.25), [_refilled(packet, k) for k in range(3)]

    def summed(*nodes):
        if not is_node(nodes[0]):
            total: Any = sum(w * x for w, x in zip(weights, nodes, strict=True))
            return total.astype(nodes[0].dtype)
        return replace(nodes[0], values=summed(*(node.values for node in nodes)))

    body = jax.tree.map(summed, *(p.body for p in bodies), is_leaf=is_node)
    together = flat(decode(replace(packet, body=body)))
    alone = zip(*(flat(decode(p)) for p in bodies), strict=True)
    wanted = [sum(w * x for w, x in zip(weights, xs, strict=True)) for xs in alone]
    pairs = zip(together, wanted, strict=True)
    return max(float(np.abs(a - b).max(initial=0)) for a, b in pairs)


def _refilled(packet: Packet, seed: int) -> Packet:
    """`packet` with other numbers in its body, where there are some; all else stays."""
    rng = np.random.default_rng(seed)

    def one(node):
        x = node.values if is_node(node) else node
        if is_node(x) or not jnp.issubdtype(x.dtype, jnp.floating):
            return node
        drawn = jnp.asarray(rng.normal(size=x.shape), x.dtype)
        if not is_node(node):
            return drawn
        return replace(node, values=jnp.where(trees.leading(node.live, x), drawn, 0))

    return replace(packet, body=jax.tree.map(one, packet.body, is_leaf=is_node))


def nodes(tree: PyTree) -> list:
    return jax.tree.leaves(tree, is_leaf=is_node)


def numbers(node) -> np.ndarray:
    return np.asarray(whole(node), np.float64)
