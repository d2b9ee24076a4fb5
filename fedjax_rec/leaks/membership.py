"""Interaction-level membership: shadow fits of the rows that a user sent (IMIA).

    guess labels y of the rows;  fit the private part phi of a shadow client to them;
    score_i = |u_i - g_i(0)|^2 - |u_i - g_i(1)|^2,   g_i(y) the change of row i that label y makes;
    the best `ratio` of the rows are the positives of the next guess

with all changes scaled to length 1, since rates are not known. Guesses begin at random, and of
several shadows the one counts whose labels the public model fits best: the model has learned from
true ones. (Yuan et al., "Interaction-level membership inference attack against federated
recommender systems", WWW 2023, who train a shadow recommender on random ratings and compare item
vectors; they fit it to uploads round by round, here to one. Their ratio is .2, one positive in
five.)

It needs the model and its loss, which a server that made them has, and that what is sent changes
the item table of that model.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import rows, trees
from ..check import at_least, fraction
from ..rounds.cohort import vmapped
from ..types import Model, PyTree
from .overheard import Message, Overheard
from .scores import Guess

TOGETHER = 16  # messages of one compiled call


def membership(
    model: Model,
    heard: Sequence[Overheard],
    ratio: float = 0.2,
    shadows: int = 5,
    turns: int = 4,
    steps: int = 40,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> list[Guess]:
    """Says which of the rows of the last round's messages are of interactions.

    Args:
        model: what is trained, as its clients have it.
        heard: rounds of messages; the last counts.
        ratio: the share of positives among the rows, which the configuration tells.
        shadows: fits with other first guesses.
        turns: guesses of each.
        steps: of Adam, of the private part.
        learning_rate: of Adam.
        seed: of the first guesses.

    Raises:
        ValueError: for a model that is not the one the messages change, and numbers out of range.

    Example:
        >>> from fedjax_rec import leaks
        >>> guesses = leaks.membership(model, [seen], shadows=1, turns=1, steps=2)
    """
    fraction("membership", "ratio", ratio)
    for name, value in (("shadows", shadows), ("turns", turns), ("steps", steps)):
        at_least("membership", name, value, 1)
    last = heard[-1]
    _check(model, last)
    most = max((len(m.items) for m in last.messages), default=1)
    fit = _fit(model, last.num_items, ratio, turns, steps, learning_rate)
    found = []
    for begin in range(0, len(last.messages), TOGETHER):
        some = last.messages[begin : begin + TOGETHER]
        padded = [_padded(m, most) for m in some]
        padded += [padded[-1]] * (TOGETHER - len(some))
        items, real, moved = (jnp.asarray(np.stack(x)) for x in zip(*padded, strict=True))
        best = None
        for shadow in range(shadows):
            key = jax.random.fold_in(jax.random.key(seed), begin * shadows + shadow)
            each = jax.random.split(key, len(padded))
            score, loss = map(np.asarray, fit(last.shared, each, items, real, moved))
            if best is None:
                best = score, loss
            else:
                best = tuple(
                    np.where((loss < best[1]).reshape(-1, *[1] * (new.ndim - 1)), new, old)
                    for new, old in ((score, best[0]), (loss, best[1]))
                )
        assert best is not None
        for message, score in zip(some, best[0], strict=False):
            score = score[: len(message.items)]
            count = round(ratio * len(score))
            said = np.zeros(len(score), bool)
            said[np.argsort(-score, kind="stable")[:count]] = True
            found.append(Guess(message.client, message.items, score, said))
    return found


def _check(model: Model, last: Overheard) -> None:
    fresh = jax.eval_shape(model.init, jax.random.key(0))[0]
    outline = lambda tree: jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
    if outline(fresh) != outline(last.shared):
        raise ValueError(
            "membership(model): the server does not hold this model alone, so that no shadow "
            "client can be fit to it; use directions."
        )


def _padded(message: Message, most: int) -> tuple[np.ndarray, ...]:
    n = len(message.items)
    moved = message.rows / np.maximum(np.linalg.norm(message.rows, axis=1, keepdims=True), 1e-30)
    return (
        np.pad(message.items, (0, most - n)),
        np.arange(most) < n,
        np.pad(moved, ((0, most - n), (0, 0))),
    )


def _fit(model: Model, num_items: int, ratio, turns, steps, learning_rate):
    """fit(shared, keys, items, real, moved) -> (score float[c, n], loss float[c])."""
    adam = optax.adam(learning_rate)

    def loss(private, shared, items, real, labels, key):
        batch = {"items": items, "labels": labels, "mask": real.astype(jnp.float32)}
        return model.loss(shared, private, batch, key)

    def row_changes(shared: PyTree, private, items, real, label, key):
        """float[n, D] of length 1: minus the gradient of each row, were its label so."""
        labels = jnp.full(items.shape, label, jnp.float32)
        of_table = jax.grad(lambda s: loss(private, s, items, real, labels, key), allow_int=True)
        tables = [
            x for x in rows.nodes(trees.trainable(of_table(shared)))
            if rows.is_table(x) and x.shape[0] == num_items
        ]  # fmt: skip
        if not tables:
            raise ValueError(
                "membership(model): it shares items as a whole array and no table of rows, and a "
                "message names none; use directions."
            )
        change = -jnp.concatenate([x.values[items] for x in tables], -1)
        return change / jnp.maximum(jnp.linalg.norm(change, axis=-1, keepdims=True), 1e-30)

    def one(shared, key, items, real, moved):
        begin, guess, noise = jax.random.split(key, 3)
        count = jnp.round(ratio * real.sum()).astype(jnp.int32)

        def best(score):
            order = jnp.argsort(jnp.where(real, -score, jnp.inf))
            return jnp.zeros(items.shape).at[order].set(
                (jnp.arange(items.size) < count).astype(jnp.float32)
            )  # fmt: skip

        def turn(t, carry):
            score, _ = carry
            labels = best(score)
            start = model.init(jax.random.fold_in(begin, t), begin)[1]

            def step(carry, _):
                private, moments = carry
                value, gradient = jax.value_and_grad(loss)(
                    private, shared, items, real, labels, noise
                )
                change, moments = adam.update(gradient, moments, private)
                return (optax.apply_updates(private, change), moments), value

            (private, _), values = jax.lax.scan(step, (start, adam.init(start)), length=steps)
            apart = [
                ((moved - row_changes(shared, private, items, real, label, noise)) ** 2).sum(-1)
                for label in (0.0, 1.0)
            ]
            return apart[0] - apart[1], values[-1]

        first = jax.random.uniform(guess, items.shape), jnp.float32(0)
        return jax.lax.fori_loop(0, turns, turn, first)

    def fit(shared, keys, items, real, moved):
        args = keys, items, real, moved
        return vmapped(lambda *each: one(shared, *each), *args)(*args)

    return jax.jit(fit)
