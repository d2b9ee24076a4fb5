"""A graph of users from what they upload: how alike two models are, and who is whose neighbour.

    S[k, j] = similarity(Q_k, Q_j),     W[k, .] = 1/d_k on the d_k neighbours of k in S

The graph of GPFedRec (Zhang et al., KDD 2024); `graph_guided` makes use of it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ..check import at_least, positive
from ..made import part
from ..types import PyTree


@part
class Similarity:
    """between(a, b) -> float32[c, N]: of stacks of models, leaves [c, ...] and [N, ...]; symmetric
    in its arguments. Higher is more alike."""

    between: Callable[..., jax.Array]


@part
class Neighbours:
    """weigh(similarity float32[N, N], known bool[N]) -> float32[N, N]: what each known client takes
    of each other's model, rows that sum to 1; 0 to and from clients that are not known."""

    weigh: Callable[..., jax.Array]


def cosine_similarity() -> Similarity:
    """<a, b> / (|a| |b|) of whole models, all leaves in one vector; 0 for a model of zeros.

    Example:
        >>> alike = strategies.cosine_similarity()
        >>> gpfedrec = models.gpfedrec(num_items)
        >>> strategy = strategies.gpfedrec(gpfedrec, data.pointwise(4), similarity=alike)
    """

    def between(a, b):
        norms = jnp.sqrt(_squares(a))[:, None] * jnp.sqrt(_squares(b))
        return _products(a, b) / jnp.maximum(norms, jnp.finfo(jnp.float32).tiny)

    return Similarity(between)


def cosine_distance_as_released() -> Similarity:
    """1 - cosine similarity, taken for a similarity: neighbours are those most UNLIKE a client.

    That is what the released code of GPFedRec does (it hands scikit-learn's cosine distance on as
    the similarity), against its paper's text. A client is never its own neighbour in it.

    Example:
        >>> unlike = strategies.cosine_distance_as_released()
    """
    cosine = cosine_similarity()
    return Similarity(lambda a, b: 1.0 - cosine.between(a, b))


def above_mean(multiple: float = 1.0) -> Neighbours:
    """Neighbours of k are those with S[k, j] > multiple * mean S.

    The mean is over all pairs of known clients, a client and itself included; a client without
    any neighbour is its own. The client itself is among its neighbours where its similarity to
    itself is above.

    Args:
        multiple: of the mean.

    Raises:
        ValueError: for multiple <= 0.

    Example:
        >>> gpfedrec, near = models.gpfedrec(num_items), strategies.above_mean(1.5)
        >>> strategy = strategies.gpfedrec(gpfedrec, data.pointwise(4), neighbours=near)
    """
    positive("above_mean", "multiple", multiple)

    def weigh(similarity, known):
        pairs = known[:, None] & known
        mean = jnp.where(pairs, similarity, 0.0).sum() / jnp.maximum(pairs.sum(), 1)
        return _even(pairs & (similarity > multiple * mean), known)

    return Neighbours(weigh)


def nearest(count: int) -> Neighbours:
    """Neighbours of k are the `count` clients of highest S[k, j], k itself among them if it is.

    All that are known where there are fewer; of equal ones those of lower id.

    Args:
        count: how many, at least 1.

    Raises:
        ValueError: for count < 1.

    Example:
        >>> near = strategies.nearest(5)
    """
    at_least("nearest", "count", count, 1)

    def weigh(similarity, known):
        pairs = known[:, None] & known
        order = jnp.argsort(jnp.where(pairs, -similarity, jnp.inf), stable=True)
        place = jnp.argsort(order)
        return _even(pairs & (place < count), known)

    return Neighbours(weigh)


def _products(a: PyTree, b: PyTree) -> jax.Array:
    """[c, N] inner products of stacks of models."""
    flat = lambda x: x.reshape(x.shape[0], -1)
    one = lambda x, y: jnp.matmul(flat(x), flat(y).T, precision="highest")
    return sum(jax.tree.leaves(jax.tree.map(one, a, b)))  # type: ignore[return-value]


def _squares(a: PyTree) -> jax.Array:
    return sum((x.reshape(x.shape[0], -1) ** 2).sum(1) for x in jax.tree.leaves(a))  # type: ignore[return-value]


def _even(chosen: jax.Array, known: jax.Array) -> jax.Array:
    """The mean over the `chosen` bool[N, N] of each row; of a known client without any, itself."""
    alone = known & ~chosen.any(1)
    chosen = chosen | (jnp.eye(known.size, dtype=bool) & alone[:, None])
    return chosen / jnp.maximum(chosen.sum(1, keepdims=True), 1)
