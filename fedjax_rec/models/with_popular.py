"""PIECK's defence at the client: two terms that make popular items a poor model of anything.

    l - alignment * sum_r w_r mean_i cos(q_r, q_i) - separation * sum_r w_r KL(s(p_u) || s(q_r)) / D
    w_r = (P + 1 - r)^2 / (1 + 4 + ... + P^2)

over the P most popular items r = 1, ..., P, and the items i of the client's batch that are not
among them; s is the softmax over the D numbers of a vector. The first turns all items the way of
popular ones, so that to be turned their way says nothing (against `attacks.pieck_ipe`); the second
takes the user's vector away from theirs, so that they do not stand for users (against
`attacks.pieck_uea`).

(Zhang, Li, et al., "Preventing the popular item embedding based attack in federated
recommendations", ICDE 2024; weights and the mean over D are those of the released code.) Which
items are popular is mined by how far their rows move, by the server `strategies.mining`, which
hands out their rows; there each client mines for itself, from two copies of the whole table.

`P` popular items, `I` items, `D` width.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least, static
from ..types import Model, PyTree
from .contrastive import items_of

TINY = 1e-12


def with_popular(
    model: Model, popular: int = 10, alignment: float = 1.0, separation: float = 1.0
) -> Model:
    """`model` whose loss has PIECK's two terms, and whose `shared` has room for popular items.

    `shared` is `{"model": ..., "popular": Frozen({"ids": int32[P], "rows": float[P, D]})}`, with
    ids of `I` until they are known; until then it is `model`.

    Args:
        model: one with a table of items of width D, and one private array [members, D]. A client
            that holds several users has the term of the first.
        popular: P. 1 or more.
        alignment: weight of the first term. 0 or more.
        separation: weight of the second. 0 or more.

    Raises:
        ValueError: for numbers out of range, and for a model of another form.

    Example:
        >>> model = models.with_popular(models.fedmf(num_items), popular=5)
        >>> server = strategies.mining(strategies.step(1.0))
        >>> strategy = strategies.fedmf(model, data.pointwise(4), server=server)
    """
    static("with_popular", "popular", popular)
    at_least("with_popular", "popular", popular, 1)
    at_least("with_popular", "alignment", alignment, 0)
    at_least("with_popular", "separation", separation, 0)
    weights = (popular - jnp.arange(popular)) ** 2
    weights = weights / weights.sum()

    def init(key, common=None):
        inner, private = model.init(key, common)
        table = items_of(inner)
        size, width = table.values.shape
        _vector(private, width)
        if popular > size:
            raise ValueError(
                f"with_popular(popular={popular}) is more than the {size} items; use popular <= "
                f"{size}."
            )
        ids = jnp.full(popular, size, jnp.int32)
        nothing = {"ids": ids, "rows": jnp.zeros((popular, width))}
        return {"model": inner, "popular": trees.Frozen(nothing)}, private

    whole = model.through(lambda shared, private: (shared["model"], private), init)

    def loss(shared, private, batch, key):
        own = model.loss(shared["model"], private, batch, key)
        known = shared["popular"].value
        items = batch["items"].reshape(-1)
        read = items_of(shared["model"])[batch["items"]]
        read = read.reshape(items.shape[0], -1)
        real = jnp.repeat(batch["mask"] > 0, items.shape[0] // batch["mask"].shape[0])
        others = real & ~(items[:, None] == known["ids"][None, :]).any(1)
        alike = weights @ _mean_cosine(known["rows"], read, others)
        unlike = weights @ _divergence(_vector(private, read.shape[-1])[0], known["rows"])
        # Of a batch of padding, as of items that are not known yet, there is nothing to say.
        told = real.any() & (known["rows"] != 0).any()
        return own - jnp.where(told, alignment * alike + separation * unlike, 0)

    return replace(whole, loss=loss)


def _vector(private: PyTree, width: int) -> jax.Array:
    """float[members, D], the vectors of a client's users."""
    leaves = [x.values if rows.is_table(x) else x for x in rows.nodes(private)]
    if len(leaves) != 1 or leaves[0].ndim != 2 or leaves[0].shape[-1] != width:
        raise ValueError(
            f"with_popular(model) takes users away from items, and the model keeps "
            f"{[list(x.shape) for x in leaves]} beside items of width {width}; use one with a "
            "vector of that width a user, such as models.fedmf."
        )
    return leaves[0]


def _mean_cosine(popular: jax.Array, read: jax.Array, chosen: jax.Array) -> jax.Array:
    """float[P]: the mean cosine of each popular row with the rows [B, D] that are `chosen`."""

    def unit(x):
        square = (x**2).sum(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.maximum(square, TINY))

    cosines = unit(popular) @ jnp.where(chosen[:, None], unit(read), 0).T
    return cosines.sum(1) / jnp.maximum(chosen.sum(), 1)


def _divergence(user: jax.Array, popular: jax.Array) -> jax.Array:
    """float[P]: KL(s(user) || s(row)) / D of each popular row."""
    log_user = jax.nn.log_softmax(user)
    log_rows = jax.nn.log_softmax(popular, axis=-1)
    return (jnp.exp(log_user) * (log_user - log_rows)).mean(-1)
