"""The trie of items' codes, and the beam search that no item's codes lead out of.

    log p(i) = sum_d log softmax_c(s(c_1 .. c_{d-1}))[c_d],   c over the codes that lead on to items

and the `width` best prefixes of each depth are kept. So a code without a choice costs nothing, and
the p of all items add up to one. A depth's prefixes stand in the order of their codes, so that the
children of one are neighbours: the trie is a few lists of numbers a depth, whatever the number of
codes. With a width of I nothing is dropped, and the search is the exhaustive one.

`I` items, `M` codes of an item, `P_d` prefixes of d codes, of which P_0 = 1 and P_M = I.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32

from ...check import at_least
from ...types import Array, record


@record
class Trie:
    """codes, parents: of depths 1 .. M, int32[P_d], the last code of each prefix and the place of
    the prefix without it. begins: of depths 0 .. M - 1, int32[P_d + 1], where the children of each
    begin among the next depth's. shared: of depths 1 .. M - 1, int32[Q_d], the prefixes that two
    items or more have. items: int32[I], those of depth M. prefixes: int32[I, M], the places of an
    item's own prefixes of depths 0 .. M - 1. widest: of these depths, most children of a prefix."""

    codes: tuple[Int32[Array, " P"], ...]
    parents: tuple[Int32[Array, " P"], ...]
    begins: tuple[Int32[Array, " P1"], ...]
    shared: tuple[Int32[Array, " Q"], ...]
    items: Int32[Array, " I"]
    prefixes: Int32[Array, "I M"]
    widest: tuple[int, ...] = field(metadata={"static": True})


def trie(codes: np.ndarray) -> Trie:
    """The trie of the codes of items.

    Args:
        codes: int[I, M], no two items' the same.

    Raises:
        ValueError: for two items with the same.

    Example:
        >>> models.trie(np.array([[1, 0], [0, 2], [1, 1]])).items.tolist()
        [1, 0, 2]
    """
    codes = np.asarray(codes, np.int32)
    items = np.lexsort(codes.T[::-1])
    ordered = codes[items]
    # Where a row begins another prefix of d codes than the one before it.
    news = np.ones((len(ordered), codes.shape[1]), bool)
    news[1:] = np.cumsum(ordered[1:] != ordered[:-1], 1) > 0
    if not news[:, -1].all():
        second = int(np.flatnonzero(~news[:, -1])[0])
        raise ValueError(
            f"trie(codes): items {items[second - 1]} and {items[second]} have the same; give "
            "codes of models.semantic_ids, which a further one tells apart."
        )
    starts = [np.zeros(1, int), *(np.flatnonzero(new) for new in news.T)]
    depths = range(1, codes.shape[1] + 1)
    parents = [np.searchsorted(starts[d - 1], starts[d], side="right") - 1 for d in depths]
    begins = [np.r_[np.searchsorted(b, a), len(b)] for a, b in pairwise(starts)]
    places = np.c_[np.zeros(len(ordered), int), np.cumsum(news, 0)[:, :-1] - 1]
    items_of = (np.diff(a, append=len(ordered)) for a in starts[1:-1])
    ints = lambda arrays: tuple(jnp.asarray(x, jnp.int32) for x in arrays)
    return Trie(
        ints(ordered[starts[d], d - 1] for d in depths),
        ints(parents),
        ints(begins),
        ints(np.flatnonzero(count > 1) for count in items_of),
        jnp.asarray(items, jnp.int32),
        jnp.asarray(places[np.argsort(items)], jnp.int32),
        tuple(int(np.diff(b).max()) for b in begins),
    )


def children(tree: Trie, depth: int, nodes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(int32[..., W], bool[..., W]): the places of the children, in the next depth, of prefixes
    int32[...] of a depth, and which of them there are."""
    begins = tree.begins[depth]
    child = begins[nodes][..., None] + jnp.arange(tree.widest[depth])
    there = child < begins[nodes + 1][..., None]
    return jnp.where(there, child, 0), there


def beam_search(
    tree: Trie,
    scores: Callable[[jax.Array], jax.Array],
    width: int,
    allowed: Bool[Array, " I"] | None = None,
) -> tuple[Int32[Array, " B"], Float32[Array, " B"]]:
    """The items whose codes are likely, the best first, by the `width` best prefixes of a depth.

    Runs under `jit`.

    Args:
        tree: the trie of the items.
        scores: scores(int32[b, d]) -> float[b, K]: of each code after b prefixes of d codes, whose
            softmax over those that lead on is taken here.
        width: `B`, prefixes that are kept.
        allowed: bool[I], the items that may be found, such as those that a user has not seen; None
            for all.

    Returns:
        (int32[B], float[B]): items and the sums of their log-probabilities; -1 and -inf in places
        that no allowed item was found for.

    Raises:
        ValueError: for a width below 1, and for one beyond the items of the trie.

    Example:
        >>> tree = models.trie(np.array([[1, 0], [0, 2], [1, 1]]))
        >>> alike = lambda prefixes: jnp.zeros((len(prefixes), 3))
        >>> items, log_probs = models.beam_search(tree, alike, width=3)
        >>> items.tolist(), jnp.exp(log_probs).tolist()
        ([1, 0, 2], [0.5, 0.25, 0.25])
    """
    at_least("beam_search", "width", width, 1)
    if width > len(tree.items):
        raise ValueError(
            f"beam_search(width={width}) is wider than the catalogue of {len(tree.items)} items; "
            f"use at most {len(tree.items)}."
        )
    may = None if allowed is None else _with_any(tree, jnp.asarray(allowed))
    nodes, total = jnp.zeros(1, jnp.int32), jnp.zeros(1)
    prefixes = jnp.zeros((1, 0), jnp.int32)
    for depth, codes in enumerate(tree.codes):
        child, there = children(tree, depth, nodes)
        code = codes[child]
        found = jnp.take_along_axis(scores(prefixes), code, 1)
        found = total[:, None] + jax.nn.log_softmax(jnp.where(there, found, -jnp.inf))
        if may is not None:
            found = jnp.where(may[depth][child], found, -jnp.inf)
        total, best = jax.lax.top_k(found.reshape(-1), min(width, len(codes)))
        nodes, code = child.reshape(-1)[best], code.reshape(-1)[best]
        prefixes = jnp.concatenate([prefixes[best // child.shape[1]], code[:, None]], 1)
    return jnp.where(total > -jnp.inf, tree.items[nodes], -1), total


def _with_any(tree: Trie, allowed: jax.Array) -> list[jax.Array]:
    """bool[P_d] of depths 1 .. M: whether a prefix has an allowed item."""
    found = [allowed[tree.items]]
    for parents, codes in zip(tree.parents[:0:-1], tree.codes[-2::-1], strict=True):
        found.insert(0, jnp.zeros(len(codes), bool).at[parents].max(found[0]))
    return found
