"""A model that keeps items apart: UNION's contrastive task beside the model's own.

    l + weight * mean over items i that the client has of
        -log exp(q_i . q_+) / (exp(q_i . q_+) + sum over K of exp(q_i . q_-))

with q_+ of another item of the same client and q_- of K items that it does not have, drawn for each
i (Yu et al., AAAI 2023). It draws the rows of items towards a uniform distribution, so that an
update that gathers them stands out to `aggregate.union`. There negatives are drawn from the whole
catalogue, here among those of the batch, whose rows the client has already: no row is sent that was
not.

`B` examples of a batch, `D` width.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import at_least, static
from ..types import Model
from .objectives import masked_mean


def contrastive(model: Model, weight: float = 1.0, negatives: int = 15) -> Model:
    """`model` with UNION's contrastive loss on its table of items.

    Batches are those of `data.pointwise` or `data.pairwise`: a batch without two items that the
    client has, or without one that it has not, adds nothing.

    Args:
        model: one with a table whose rows are read by `batch["items"]`.
        weight: of the task beside the model's loss. 0 or more.
        negatives: K of each item. 1 or more.

    Raises:
        ValueError: for numbers out of range, and in the round for a model without such a table.

    Example:
        >>> model = models.contrastive(models.fedmf(num_items), weight=0.1)
        >>> rule = aggregate.union(f=2)
        >>> strategy = strategies.fedmf(model, data.pointwise(4), aggregator=rule)
    """
    at_least("contrastive", "weight", weight, 0)
    static("contrastive", "negatives", negatives)
    at_least("contrastive", "negatives", negatives, 1)

    def loss(shared, private, batch, key):
        of_model, of_task = jax.random.split(key)
        own = model.loss(shared, private, batch, of_model)
        return own + weight * task(of_task, items_of(shared), batch, negatives)

    return replace(model, loss=loss)


def items_of(shared):
    """The table of items as a loss sees it.

    Raises ValueError where there is not one.
    """
    found = [x for x in rows.nodes(shared) if rows.is_table(x) and x.fields == ("items",)]
    if len(found) != 1:
        raise ValueError(
            f"a regularised model reads one table by batch['items'] and this has {len(found)}; use "
            "a model with one, such as models.fedmf."
        )
    return found[0]


def task(key, table, batch: dict, negatives: int) -> jax.Array:
    """float[]: the contrastive loss of one batch."""
    items = batch["items"]
    real = batch["mask"] > 0
    rows_of = table[items]
    if items.ndim == 2:  # [B, 2]: an item of the client, and one that it has not
        had, other = rows_of[:, 0], rows_of[:, 1]
        has, has_not, names = real, real, items[:, 0]
    else:
        had = other = rows_of
        has, has_not, names = real & (batch["labels"] > 0), real & (batch["labels"] <= 0), items
    of_like, of_unlike = jax.random.split(key)
    like = drawn(of_like, has, (has.shape[0], 1))
    unlike = drawn(of_unlike, has_not, (has.shape[0], negatives))
    # A draw of the item itself is no other one.
    counts = has & has_not.any() & (names[like[:, 0]] != names)
    near = (had * had[like[:, 0]]).sum(-1, keepdims=True)
    far = jnp.einsum("bd,bkd->bk", had, other[unlike])
    scores = jnp.concatenate([near, far], 1)
    return masked_mean(jax.nn.logsumexp(scores, 1) - scores[:, 0], counts.astype(scores.dtype))


def drawn(key, chosen: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """int32[shape]: places at random among those that are `chosen` bool[B]; any where none is."""
    places = jnp.cumsum(chosen.astype(jnp.int32))
    nth = jnp.floor(jax.random.uniform(key, shape) * places[-1]).astype(jnp.int32)
    return jnp.minimum(jnp.searchsorted(places, nth + 1), chosen.shape[0] - 1).astype(jnp.int32)
