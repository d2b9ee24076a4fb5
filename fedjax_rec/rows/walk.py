"""Trees whose nodes are tables and arrays: the one place that says where a node ends.

A tree is what a model shares, a client trains or an update changes. It holds tables (`Table`,
`LocalTable`, `RowsUpdate`, `RowsGradient`, `Gathered`), arrays, `trees.Frozen` around either, and
None for what it leaves out: frozen values of a trainable part, gradients of what is not trained.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from ..types import PyTree
from .gathered import Gathered
from .table import Table, is_table


def is_node(x) -> bool:
    """Whether `x` is a table or None, which is nothing; every other leaf is an array."""
    return x is None or is_table(x)


def map_nodes(one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one(node, *nodes)` on each table and array of `tree`; what is None in `tree` stays None.

    Args:
        one: gets a table or an array of `tree` and what stands in its place in each of `rest`,
            which may be None.
        tree: it says what the nodes are.
        rest: trees of the same structure above the nodes of `tree`.
    """
    return jax.tree.map(
        lambda x, *r: None if x is None else one(x, *r), tree, *rest, is_leaf=is_node
    )


def map_nodes_with_path(one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`map_nodes` of `one(path, node, *nodes)` on `tree` and `rest`, with a node's key path."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x, *r: None if x is None else one(path, x, *r), tree, *rest, is_leaf=is_node
    )


def map_tables(one: Callable, tree: PyTree, *rest: PyTree) -> PyTree:
    """`one` on each table node of `tree`, and what stands in its place in `rest`; everything else,
    and what a loss sees of a table, as it is.
    """
    chosen = lambda x: is_table(x) and not isinstance(x, Gathered)
    return map_nodes(lambda x, *r: one(x, *r) if chosen(x) else x, tree, *rest)


def nodes(tree: PyTree) -> list:
    """The tables and arrays of `tree`, in order."""
    return jax.tree.leaves(tree, is_leaf=is_table)


def nodes_with_path(tree: PyTree) -> list[tuple[Any, Any]]:
    """[(key path, node)] of the tables and arrays of `tree`, in order."""
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_table)


def flatten(tree: PyTree) -> tuple[list[tuple[Any, Any]], Any]:
    """(`nodes_with_path(tree)`, the structure that puts as many nodes together)."""
    return jax.tree.flatten_with_path(tree, is_leaf=is_table)


def has_tables(tree: PyTree) -> bool:
    """Whether `tree` holds a table of any kind."""
    return any(map(is_table, nodes(tree)))


def tables(tree: PyTree) -> list[Table]:
    """The server's tables in `tree`, in order."""
    return [x for x in nodes(tree) if isinstance(x, Table)]


def merge(some: PyTree, tree: PyTree) -> PyTree:
    """`some`, and where it is None the node of `tree`."""
    return jax.tree.map(lambda x, y: y if x is None else x, some, tree, is_leaf=is_node)
