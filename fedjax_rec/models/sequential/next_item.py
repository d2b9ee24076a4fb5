"""Losses of predicting a place's item, from the state of the place and the rows of items.

With s+ = h . q of the target, s_k of k negatives and I items:

- `sampled_bce`      (-log s(s+) - sum_k log(1 - s(s_k))) / (k + 1)   (Kang & McAuley, ICDM 2018)
- `gbce`             the same with s(s+)^beta,  beta = a (t (1 - 1/a) + 1/a),  a = k / (I - 1)
                     (gSASRec, Petrov & Macdonald, RecSys 2023)
- `sampled_softmax`  -s+ + log(e^{s+} + sum_k e^{s_k})
- `log_q_softmax`    -s+ + log(e^{s+} + sum_k e^{s_k} / (m q_k)),  m draws, k with probability q_k
                     (Bengio & Senecal, 2008; Yi et al., RecSys 2019; the target is no draw and is
                     not corrected: Khrylchenko et al., RecSys 2025)
- `full_softmax`     -s+ + log sum_i e^{s_i}

and with `cosine(loss)`, s = cos(h, q) in all of them (as HSTU is trained, Zhai et al., ICML 2024).

The sampled ones read rows alone, which are then touched rows; `full_softmax` reads all items, so
the table is a dense shared parameter that each client trains and uploads whole: for centralised or
cross-silo training of small catalogues.

`B` examples, `L` places, `D` width, `n` negatives.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import fraction, positive
from ...made import part
from ..objectives import masked_mean, softplus
from ..roles import Rows
from ..transformers.layers import MASKED, unit


@part
class ItemLoss:
    """value(states [B, L, D], item, targets, batch, counts [B, L], num_items) -> float[], the mean
    over the places where `counts` is 1; `targets` is an id field of `batch`, `item` the table.

    whole: whether it reads the whole table, which is then an `nnx.Param`.
    compared(rows [..., D]): what of a row a state is compared with, its whole by default.
    """

    value: Callable[..., jax.Array]
    whole: bool = False
    compared: Callable[[jax.Array], jax.Array] = lambda rows: rows


def item_table(values: jax.Array, loss: ItemLoss, fields: tuple[str, ...]) -> nnx.Param:
    """The variable of item rows [I, D] that `loss` can read; fields: of the batch, besides
    `negatives`."""
    return nnx.Param(values) if loss.whole else Rows(values, fields=(*fields, "negatives"))


def loss_of_next(model, batch, key) -> jax.Array:
    """Method `loss` of a model with `item`, `objective`, `num_items` and `states(rows, real,
    seed)`, on `data.sequences`: each place predicts the next."""
    real = batch["real"] * batch["mask"][:, None]
    seed = jax.random.bits(key, (), jnp.uint32)
    states = model.states(model.item[batch["inputs"]], real > 0, seed)
    return model.objective.value(states, model.item, "targets", batch, real, model.num_items)


def read_last(model, history) -> jax.Array:
    """Its method `read`: [D], the state of the last place of int32[H]."""
    return model.states(model.item[jnp.maximum(history, 0)], history >= 0)[-1]


def score_rows(model, items, user, reading, prepared=None) -> jax.Array:
    """Its method `score`: inner products of what was read with the rows of `items`; prepared: all
    of them, where they are made of something."""
    rows = (model.item if prepared is None else prepared)[items]
    return model.objective.compared(rows) @ reading


def gbce(t: float = 0.75) -> ItemLoss:
    """BCE made to know how few negatives were drawn.

    Args:
        t: at 0 it is `sampled_bce`, at 1 scores are calibrated.

    Raises:
        ValueError: outside 0 <= t <= 1.

    Example:
        >>> model = models.sasrec(num_items, width=8, loss=models.gbce(0.75))
    """
    fraction("gbce", "t", t)

    def value(states, item, targets, batch, counts, num_items):
        up, down, there = _scores(states, item, targets, batch)
        k = jnp.maximum(there.sum(-1), 1.0)
        a = k / (num_items - 1)
        beta = a * (t * (1 - 1 / a) + 1 / a)
        total = beta * softplus(-up) + (there * softplus(down)).sum(-1)
        return masked_mean(total / (k + 1), counts)

    return ItemLoss(value)


def sampled_bce() -> ItemLoss:
    """(-log s(s+) - sum_k log(1 - s(s_k))) / (k + 1): each negative counts as much as the target.

    Example:
        >>> model = models.sasrec(num_items, width=8, loss=models.sampled_bce())
    """
    return gbce(0.0)


def sampled_softmax(temperature: float = 1.0) -> ItemLoss:
    """-s+ + log(e^{s+} + sum_k e^{s_k}): cross-entropy among the target and the negatives.

    Args:
        temperature: by which scores are divided.

    Raises:
        ValueError: for temperature <= 0.

    Example:
        >>> model = models.sasrec(num_items, width=8, loss=models.sampled_softmax(0.5))
    """
    positive("sampled_softmax", "temperature", temperature)

    def value(states, item, targets, batch, counts, num_items):
        up, down, there = _scores(states / temperature, item, targets, batch)
        return _among(up, down, there, counts)

    return ItemLoss(value)


def log_q_softmax(temperature: float = 1.0) -> ItemLoss:
    """-s+ + log(e^{s+} + sum_k e^{s_k} / (m q_k)): `sampled_softmax` whose negatives stand for all
    items, each by how likely it was to be drawn; the sum is an unbiased estimate of that over all
    items but the target.

    q is what the batch says of its draws (`data.popular_negatives`), else 1 / I, as of draws from
    all items. m: the draws that an example is held against, those of its own target among them.

    Args:
        temperature: by which scores are divided.

    Raises:
        ValueError: for temperature <= 0.

    Example:
        >>> model = models.sasrec(num_items, width=8, loss=models.log_q_softmax())
    """
    positive("log_q_softmax", "temperature", temperature)

    def value(states, item, targets, batch, counts, num_items):
        up, down, there = _scores(states / temperature, item, targets, batch)
        log_q, size = batch.get("log_q", -jnp.log(num_items)), batch["negatives"].shape[-1]
        if there.ndim > batch["negatives"].ndim:  # of all examples
            log_q, size = jnp.reshape(log_q, -1), size * batch["mask"].sum()
        return _among(up, down - log_q - jnp.log(jnp.maximum(size, 1)), there, counts)

    return ItemLoss(value)


def cosine(loss: ItemLoss) -> ItemLoss:
    """`loss` whose scores are cosines, in training and in ranking: an item's row says by its
    direction what it is, and its length, which popularity makes longer, counts only where it is
    read. Of cosines a softmax needs a small temperature.

    Args:
        loss: of scores, such as `sampled_softmax(0.05)`.

    Raises:
        ValueError: for a loss of cosines.

    Example:
        >>> loss = models.cosine(models.sampled_softmax(temperature=0.05))
        >>> model = models.hstu(num_items, width=8, length=10, loss=loss)
    """
    if loss.compared is unit:
        raise ValueError("cosine(loss) is one of cosines already; give it the loss of scores.")

    def value(states, item, targets, batch, counts, num_items):
        return loss.value(unit(states), Directions(item), targets, batch, counts, num_items)

    return ItemLoss(value, loss.whole, unit)


class Directions:
    """Rows of an item table, or of a module indexed like one, at length 1."""

    def __init__(self, item):
        self.item = item

    def __getitem__(self, ids):
        return unit(self.item[ids])


def _among(up, down, there, counts) -> jax.Array:
    """-up + log(e^up + sum e^down), of those that are there, where `counts` is 1."""
    down = jnp.where(there > 0, down, MASKED)
    top = jax.lax.stop_gradient(jnp.maximum(up, down.max(-1)))
    rest = jnp.exp(down - top[..., None]).sum(-1)
    return masked_mean(jnp.log(jnp.exp(up - top) + rest) + top - up, counts)


def full_softmax() -> ItemLoss:
    """-s+ + log sum_i e^{s_i}: cross-entropy among all items, whose table is then no row table.

    Example:
        >>> model = models.sasrec(num_items, width=8, loss=models.full_softmax())
    """

    def value(states, item, targets, batch, counts, num_items):
        scores = states @ item[...].T
        up = jnp.take_along_axis(scores, batch[targets][..., None], -1)[..., 0]
        return masked_mean(jax.nn.logsumexp(scores, -1) - up, counts)

    return ItemLoss(value, whole=True)


def _scores(states, item, targets: str, batch: dict):
    """(of the target [B, L], of negatives [B, L, k], which of them count [B, L, k]).

    Negatives [B, n] are those of all examples: k = B n. What is no negative of a place is its own
    target, and what a padded example drew.
    """
    if "negatives" not in batch:
        raise ValueError(
            "a sampled loss needs negatives; give sequences(negatives=128), or full_softmax()."
        )
    ids, wanted = batch["negatives"], batch[targets]
    up = (states * item[wanted]).sum(-1)
    rows = item[ids]
    if ids.ndim == 3:
        down = (rows * states[:, :, None]).sum(-1)
        return up, down, (ids != wanted[..., None]).astype(up.dtype)
    down = states @ rows.reshape(-1, rows.shape[-1]).T
    drawn = jnp.repeat(batch["mask"] > 0, ids.shape[1])
    there = drawn & (ids.reshape(-1) != wanted[..., None])
    return up, down, there.astype(up.dtype)
