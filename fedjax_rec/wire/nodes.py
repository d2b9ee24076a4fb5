"""Nodes of a packet that travel in fewer bits than their arrays take in memory.

`Codes` are symbols at a fixed width, `Elias` integers in Elias gamma code, `Live` an array of
which only some leading entries are sent, and `rows.RowsUpdate` rows with their ids. Plain arrays
travel as they are, bool arrays at one bit each; so does `Raw`, which compressors leave alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..rows import RowsUpdate, static
from ..types import Array, PyTree, record


@record
class Codes:
    """symbols: unsigned integers [...] below `levels`, sent at ceil(log2 levels) bits each; three
    levels at five in a byte. With range coding, at their entropy."""

    symbols: Array
    levels: int = static(default=2)

    @property
    def shape(self):
        return self.symbols.shape


@record
class Elias:
    """values: int32[...], sent in Elias gamma code: gamma(|v| + 1), and a sign where v != 0."""

    values: Array

    @property
    def shape(self):
        return self.values.shape


@record
class Live:
    """values: [L, ...], an array, `Codes` or `Elias`; live: bool[L]. Only live entries are sent,
    in their order, and their number; what arrives holds these alone."""

    values: Array
    live: Array


@record
class Raw:
    """values: a node of an update that no compressor touches. On the wire it is that node."""

    values: Any


def is_node(node) -> bool:
    """Whether `node` is a leaf of a packet that is no plain array.

    Args:
        node: whatever stands in a packet.

    Example:
        >>> wire.is_node(wire.Elias(jnp.arange(3))), wire.is_node(jnp.arange(3))
        (True, False)
    """
    return isinstance(node, (RowsUpdate, Live, Codes, Elias, Raw))


def nodes(tree: PyTree) -> list:
    """The nodes and arrays of an update or of what is sent, in order.

    Args:
        tree: of them.

    Example:
        >>> len(wire.nodes({"a": wire.Elias(jnp.arange(3)), "b": jnp.arange(3)}))
        2
    """
    return jax.tree.leaves(tree, is_leaf=is_node)


def flatten(tree: PyTree) -> tuple[list[tuple[Any, Any]], Any]:
    """A tree's nodes with where they stand.

    Args:
        tree: of nodes and arrays.

    Returns:
        ([(key path, node)] in order, the structure that puts as many nodes together).

    Example:
        >>> found, structure = wire.flatten({"a": wire.Elias(jnp.arange(3)), "b": jnp.arange(3)})
        >>> same = structure.unflatten([node for _, node in found])
    """
    return jax.tree.flatten_with_path(tree, is_leaf=is_node)


def map_nodes(one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one(node, *nodes)` on each node and array of `tree` and what `rest` have in its place.

    Args:
        one: of a node, or of one of each tree.
        tree: of nodes and arrays.
        rest: trees like it.

    Example:
        >>> wire.map_nodes(lambda node: node.shape, {"a": wire.Elias(jnp.arange(3))})
        {'a': (3,)}
    """
    return jax.tree.map(one, tree, *rest, is_leaf=is_node)
