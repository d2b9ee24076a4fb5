"""A model that draws items of one category together: CoFedRec's supervised contrastive term.

    loss + strength * mean_i l_i
    l_i = -(t / b) mean_{p in P(i)} log softmax_{j != i}(z_i . z_j / t)[p]

z_i = q_i / |q_i|, P(i) the other items of i's category, t the temperature and b the base
temperature (He et al., WWW 2024; Khosla et al., NeurIPS 2020). A category that has no other item
has l_i = 0.
The softmax is over the whole catalogue: I^2 D products a step where every item is an anchor i. Some
drawn anchors anew each step have the same mean, and cost I D each.

`I` items, `D` width, `A` anchors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..check import at_least, positive, static
from ..types import Model
from .transformers.layers import unit


def supervised_contrastive(
    model: Model,
    strength: float = 0.005,
    temperature: float = 0.1,
    base_temperature: float = 0.5,
    anchors: int | None = None,
) -> Model:
    """`model` with the contrastive term of its categories of items; tables of items whole.

    Its `shared` is {"model": ..., "category": Frozen(int32[I])}: what `model` shares, tables as
    arrays, and the category of each item. -1, with which all begin, is no category. Scores are
    those of `model`.

    Args:
        model: one that shares a table `item`.
        strength: of the term, at least 0.
        temperature: t.
        base_temperature: b.
        anchors: A, drawn with replacement in each step; None for all items.

    Raises:
        ValueError: for numbers out of range; in `init`, for a model without that table.

    Example:
        >>> near = models.supervised_contrastive(models.pfedrec(num_items), anchors=32)
        >>> strategy = strategies.fedavg(near, data.pointwise(4))
    """
    at_least("supervised_contrastive", "strength", strength, 0)
    positive("supervised_contrastive", "temperature", temperature)
    positive("supervised_contrastive", "base_temperature", base_temperature)
    if anchors is not None:
        static("supervised_contrastive", "anchors", anchors)
        at_least("supervised_contrastive", "anchors", anchors, 1)

    def init(key, common=None):
        shared, private = model.init(key, common)
        found: Any = shared.get("item") if isinstance(shared, dict) else None
        values = found.values if rows.is_table(found) else found
        if getattr(values, "ndim", 0) != 2:
            raise ValueError(
                "supervised_contrastive(model) needs a shared table `item`; use models.pfedrec or "
                "models.fedmf."
            )
        nothing = jnp.full(values.shape[0], -1, jnp.int32)
        return {"model": rows.dense(shared), "category": trees.Frozen(nothing)}, private

    def loss(shared, private, batch, key):
        of_model, of_anchors = jax.random.split(key)
        own = model.loss(shared["model"], private, batch, of_model)
        item, category = shared["model"]["item"], shared["category"].value
        chosen = jnp.arange(len(item))
        if anchors is not None:
            chosen = jax.random.randint(of_anchors, (anchors,), 0, len(item))
        term = contrast(item, category, chosen, temperature, base_temperature)
        return own + strength * term

    seen = model.through(lambda shared, private: (shared["model"], private), init)
    return replace(seen, loss=loss)


def contrast(item: jax.Array, category: jax.Array, anchors: jax.Array, temperature, base):
    """float[]: the mean of l_i over `anchors` int[A], of float[I, D] and int[I]."""
    directions = unit(item)
    scores = jnp.matmul(directions[anchors], directions.T, precision="highest") / temperature
    itself = anchors[:, None] == jnp.arange(len(item))
    mine = category[anchors][:, None]
    like = (mine == category) & (mine >= 0) & ~itself
    total = jax.nn.logsumexp(jnp.where(itself, -jnp.inf, scores), 1)
    count = like.sum(1)
    mean = jnp.where(like, scores, 0).sum(1) / jnp.maximum(count, 1)
    return temperature / base * jnp.where(count > 0, total - mean, 0).mean()
