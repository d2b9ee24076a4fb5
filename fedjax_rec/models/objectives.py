"""Losses of one example, from scores and the batch: composed into a model by its factory.

An objective maps (scores, batch) to the mean loss over examples with `mask` 1. Scores are
float[B] for pointwise objectives and float[B, 2] for `bpr`, as the batches give items.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

Objective = Callable[[jax.Array, dict], jax.Array]


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """float[], the mean over the examples that count; 0 where none does.

    Args:
        values: float[B].
        mask: [B], 1 for an example that counts and 0 for padding.

    Example:
        >>> float(models.masked_mean(jnp.array([1.0, 3.0, 9.0]), jnp.array([1.0, 1.0, 0.0])))
        2.0
    """
    return (values * mask).sum() / jnp.maximum(mask.sum(), 1.0)


@jax.custom_jvp
def softplus(x: jax.Array) -> jax.Array:
    """log(1 + e^x), at half the cost of `jax.nn.softplus` on a CPU."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(jnp.minimum(x, -x)))


# Slopes are written out, since XLA computes what is cheap of them anew for every number of a row.
softplus.defjvps(lambda moved, _, x: logistic(x) * moved)


@jax.custom_jvp
def logistic(x: jax.Array) -> jax.Array:
    """1 / (1 + e^-x), by the exponential that `softplus` has."""
    small = jnp.exp(jnp.minimum(x, -x))
    return jnp.where(x >= 0, 1.0, small) / (1.0 + small)


logistic.defjvps(lambda moved, y, x: y * (1.0 - y) * moved)


def _one_score_a_label(name: str, scores: jax.Array, batch: dict) -> None:
    if scores.shape != batch["labels"].shape:
        raise ValueError(
            f"{name}() got scores of shape {scores.shape} for labels of shape "
            f"{batch['labels'].shape}; train it on data.pointwise() or data.ratings(), or "
            "pairs with objective=models.bpr()."
        )


def bce() -> Objective:
    """-y log s(z) - (1 - y) log(1 - s(z)), with labels y in [0, 1] and the logistic s.

    Example:
        >>> model = models.fedmf(num_items, objective=models.bce())
    """

    def objective(scores, batch):
        _one_score_a_label("bce", scores, batch)
        values = softplus(scores) - batch["labels"] * scores
        return masked_mean(values, batch["mask"])

    return objective


def squared_error() -> Objective:
    """(z - y)^2, with labels y, such as ratings.

    Example:
        >>> model = models.fedmf(num_items, objective=models.squared_error())
        >>> strategy = strategies.fedavg(model, data.ratings())
    """

    def objective(scores, batch):
        _one_score_a_label("squared_error", scores, batch)
        return masked_mean((scores - batch["labels"]) ** 2, batch["mask"])

    return objective


def bpr() -> Objective:
    """-log s(z_positive - z_negative) (Rendle et al., UAI 2009). Needs `pairwise` batches.

    Raises:
        ValueError: in the round, for batches that are no pairs.

    Example:
        >>> model = models.fedmf(num_items, objective=models.bpr())
        >>> strategy = strategies.fedavg(model, data.pairwise())
    """

    def objective(scores, batch):
        if scores.ndim != 2 or scores.shape[-1] != 2:
            raise ValueError(
                f"bpr() got scores of shape {scores.shape}; train it on data.pairwise() batches."
            )
        return masked_mean(softplus(scores[:, 1] - scores[:, 0]), batch["mask"])

    return objective
