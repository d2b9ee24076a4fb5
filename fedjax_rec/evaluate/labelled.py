"""Held-out labelled examples: AUC over all, AUC by client, log loss and accuracy.

    AUC = P(z+ > z-) + P(z+ = z-) / 2     over pairs of a positive and a negative example

- `auc`       over all pairs, whoever's they are: exact, by sorting.
- `gauc`      over each client's own pairs, weighted by its examples, of clients that have both
              labels (Zhou et al., "Deep interest network", KDD 2018): base rates of clients do not
              count in it.
- `uauc`      the same over each user's own pairs, where examples have a field `user`.
- `log_loss`  mean of -y log s(z) - (1 - y) log(1 - s(z)); `accuracy`, of z > 0. A logit that is NaN
              makes the first NaN and is wrong in the second.
- `ece`       the expected calibration error of all examples, see `reliability`.

`n` examples, `K` clients, `T` examples of one client that are predicted together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int32, Shaped

from ..check import at_least
from ..types import Array, Model, PyTree
from .protocol import Protocol
from .reliability import calibration_error
from .totals import total, total_by

TILE = 16


def labelled(by_user: bool = False) -> Protocol:
    """What `evaluate_examples` gives: `auc`, `log_loss` and `accuracy` of each client, and over all
    of them `auc`, `gauc`, `log_loss`, `accuracy` and `ece`, of which the first chooses the best
    round.

    Args:
        by_user: examples have a field `user`, so there is `uauc` too.

    Raises:
        ValueError: when it is asked to measure a case, which is no labelled example.

    Example:
        >>> protocol = evaluate.labelled()
    """

    def refuse(*_):
        raise ValueError("labelled(): examples are no cases; measure with evaluate_examples.")

    names = ("auc", "log_loss", "accuracy")
    whole = ("auc", "gauc", *names[1:], *(["uauc"] if by_user else []), "ece")
    return Protocol(names, refuse, "held-out examples", refuse, whole)


def auc_of_all(scores: Float[Array, " n"], labels: Shaped[Array, " n"]) -> Float32[Array, ""]:
    """P(z+ > z-) + P(z+ = z-) / 2 over all pairs of a positive and a negative example, float32[].

    Args:
        scores: z, float[n]; NaN counts as the smallest.
        labels: [n], 0 or 1.

    Returns:
        The AUC, NaN where one of the labels does not occur.

    Example:
        >>> scores, labels = jnp.array([0.1, 0.9, 0.4, 0.2]), jnp.array([0, 1, 0, 1])
        >>> float(jax.jit(evaluate.auc_of_all)(scores, labels))
        0.75
    """
    _, positive, beaten = _beaten(scores, labels, jnp.zeros(scores.shape, jnp.int32))
    ones = positive.sum()
    pairs = 2.0 * (positive.shape[0] - ones)
    return total(positive * (beaten / pairs)) / ones


def auc_by_group(
    scores: Float[Array, " n"], labels: Shaped[Array, " n"], groups: Int32[Array, " n"], count: int
) -> Float32[Array, " {count}"]:
    """`auc_of_all` within each group, float32[count].

    Args:
        scores: z, float[n]; NaN counts as the smallest.
        labels: [n], 0 or 1.
        groups: int32[n] in 0..count-1.
        count: how many groups there are.

    Returns:
        The AUC of each group, NaN where one of the labels does not occur.

    Example:
        >>> scores, labels = jnp.array([0.1, 0.9, 0.4, 0.2]), jnp.array([0, 1, 0, 1])
        >>> by_group = jax.jit(evaluate.auc_by_group, static_argnums=3)
        >>> by_group(scores, labels, jnp.array([0, 0, 1, 1]), 2).tolist()
        [1.0, 0.0]
    """
    group, positive, beaten = _beaten(scores, labels, groups)
    per_group = lambda x: jax.ops.segment_sum(x, group, count, indices_are_sorted=True)
    ones = per_group(positive)
    pairs = 2.0 * (per_group(jnp.ones_like(positive)) - ones)
    # Shares are summed: the pairs of 65,000 examples are more than an int32 can count.
    return total_by(positive * (beaten / pairs[group]), group, count) / ones


def _beaten(scores, labels, groups):
    """(group, 1 for a positive, 2 * negatives below + negatives tied) int32[n], sorted by group and
    score."""
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    group, score, label = jax.lax.sort((groups, scores, labels), num_keys=2)
    positive = (label > 0).astype(jnp.int32)
    through = jnp.cumsum(1 - positive)
    before = through - (1 - positive)
    of_group = group[1:] != group[:-1]
    new_run = jnp.append(True, of_group | (score[1:] != score[:-1]))
    first = lambda begins: jax.lax.cummax(jnp.where(begins, before, 0))
    below = first(new_run)
    end = jax.lax.cummin(jnp.where(jnp.append(new_run[1:], True), through, through[-1]), 0, True)
    return group, positive, below + end - 2 * first(jnp.append(True, of_group))


def predict_examples(model: Model, shared, private, held, tiles_per_chunk: int = 32) -> jax.Array:
    """float32[n]: the logits of `held`, each example predicted with the private part of its client.

    Args:
        model: one with `predict`.
        shared: the server's pytree.
        private: leaves [N, ...].
        held: a `data.HeldOut`, which cannot be traced.
        tiles_per_chunk: tiles of `T` examples of one client that go through at once.

    Raises:
        ValueError: for a model without `predict`, and for tiles_per_chunk < 1.

    Example:
        >>> logits = evaluate.predict_examples(click_model, *click_parameters, clicked.test)
    """
    at_least("predict_examples", "tiles_per_chunk", tiles_per_chunk, 1)
    if model.predict is None:
        raise ValueError(
            "predict_examples(model): it predicts no examples; give it predict(batch) -> logits."
        )
    predict = model.predict
    count = np.asarray(held.count)
    tiles = -(-count // TILE)
    client = np.repeat(np.asarray(held.clients), tiles)
    number = np.arange(len(client)) - np.repeat(np.cumsum(tiles) - tiles, tiles)
    start = np.repeat(np.cumsum(count) - count, tiles) + number * TILE
    size = np.minimum(np.repeat(count, tiles) - number * TILE, TILE)
    examples, c = int(count.sum()), min(tiles_per_chunk, len(client))

    def one(client, start, size):
        place = jnp.arange(TILE)
        batch = {name: x.at[start + place].get(mode="clip") for name, x in held.fields.items()}
        mine = jax.tree.map(lambda x: x[client], private)
        return predict(shared, mine, {**batch, "mask": (place < size).astype(jnp.float32)})

    def chunk(logits, tile):
        place = tile[1][:, None] + jnp.arange(TILE)
        place = jnp.where(jnp.arange(TILE) < tile[2][:, None], place, examples)
        return logits.at[place].set(jax.vmap(one)(*tile), mode="drop"), None

    # Padding repeats the first client with no example of its own.
    rows = [
        np.append(x, [y] * (-len(x) % c)) for x, y in ((client, client[0]), (start, 0), (size, 0))
    ]
    chunks = [jnp.asarray(x.reshape(-1, c), jnp.int32) for x in rows]
    return jax.lax.scan(chunk, jnp.zeros(examples), chunks)[0]


def evaluate_examples(
    model: Model, shared: PyTree, private: PyTree, held, tiles_per_chunk: int = 32
) -> tuple[jax.Array, jax.Array]:
    """The numbers that `labelled` names, of the aggregated model with each client's private part.

    Arguments that are not named here are those of `predict_examples`.

    Returns:
        (float32[K, 3] of each client, float32[5] over all; float32[6] where examples have a field
        `user`, int32[n]).

    Raises:
        ValueError: as `predict_examples`.

    Example:
        >>> measure = partial(evaluate.evaluate_examples, click_model, held=clicked.test)
        >>> each, whole = jax.jit(measure)(*click_parameters)
    """
    logits = predict_examples(model, shared, private, held, tiles_per_chunk)
    return measures(logits, held)


def measures(logits: jax.Array, held) -> tuple[jax.Array, jax.Array]:
    """The numbers that `labelled` names, of logits float[n]."""
    labels, count = held.fields["labels"], held.count
    # -log s(z), or -log(1 - s(z)): 0 and infinite at the two ends, where z - y z has no value.
    loss = jnp.logaddexp(0.0, jnp.where(labels > 0, -logits, logits))
    right = (((logits > 0) == (labels > 0)) & ~jnp.isnan(logits)).astype(jnp.float32)
    clients = count.shape[0]
    auc = auc_by_group(logits, labels, held.owner, clients)
    by_client = lambda x: total_by(x, held.owner, clients) / count
    means = [total(x) / x.shape[0] for x in (loss, right)]
    of_clients = jnp.stack([auc, by_client(loss), by_client(right)], 1)
    over_all = [auc_of_all(logits, labels), _weighted(auc, count), *means]
    if "user" in held.fields:
        over_all.append(_by_user(logits, labels, held.fields["user"]))
    over_all.append(calibration_error(logits, labels))
    return of_clients, jnp.stack(over_all)


def _by_user(logits, labels, users):
    """float32[]: the mean AUC of users, whose ids may be any."""
    n = labels.shape[0]
    ordered = jnp.sort(users)
    place = jnp.searchsorted(ordered, users)  # the same number of one user, below n
    count = jnp.zeros(n).at[place].add(1.0)
    return _weighted(auc_by_group(logits, labels, place, n), count)


def _weighted(auc, count):
    """float32[]: the mean of the groups that have both labels, by their examples."""
    weight = jnp.where(jnp.isnan(auc), 0.0, count)
    return total(weight * jnp.nan_to_num(auc)) / total(weight)
