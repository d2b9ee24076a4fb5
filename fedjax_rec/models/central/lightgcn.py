"""LightGCN, light graph convolution over the graph of users and items (He et al., SIGIR 2020).

    e_u^(l+1) = sum_{i in I_u} e_i^(l) / sqrt(|I_u| |U_i|)
    e_i^(l+1) = sum_{u in U_i} e_u^(l) / sqrt(|I_u| |U_i|)
    p_u = mean_{l <= L} e_u^(l),   q_i = mean_{l <= L} e_i^(l)
    loss = mean_(u,i,j) [ -log s(p_u'q_i - p_u'q_j) + (l2 / 2) (|e_u|^2 + |e_i|^2 + |e_j|^2) ]

over interactions (u, i), each with an item j that is drawn for it. Trained are the vectors e^(0) of
layer 0 alone, whole in every step. With A the symmetric matrix of the graph, p and q are rows of
M e^(0), M = mean_l A^l, and so the gradient of the first term at e^(0) is M times that at p and q:
one way for both, and nothing of the layers is kept.

Dimensions: `R` rows of users, `I` items, `D` width, `E` interactions, `B` batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax
from jax.experimental.sparse import BCSR

from ... import keys
from ...check import at_least
from ...types import Transform
from ..objectives import masked_mean, softplus
from .fit import Fit, Histories, factors

LEARNING_RATE = 1e-3  # of the paper


def lightgcn(
    layers: int = 3,
    l2: float = 1e-4,
    optimizer: Transform | None = None,
    batch_size: int = 2048,
    epochs: int = 1,
) -> Fit:
    """Fits `fedmf` by LightGCN: its vectors begin as layer 0, and are filled with p and q.

    The graph is of the interactions of the cohort; repeated ones count once. Negatives are drawn
    evenly among the items that the user did not meet in training, whatever the run's policy: a line
    of reference stands beside rows of all policies. A step costs 2 L products of the graph with
    each table, O(L E D), whatever the batch. What goes on in the next round, layer 0 and the
    optimizer's moments, is kept in `State.server`. Items that nobody met have no neighbours: their
    vectors are those of layer 0 by 1 / (L + 1).

    Args:
        layers: L; 0 is matrix factorization by BPR.
        l2: the weight of the squared vectors of layer 0, of the batch's rows.
        optimizer: default `optax.adam(0.001)`, the paper's; of the gradient of all rows. Users
            who are away, and their moments, stay.
        batch_size: B, interactions of a step.
        epochs: of one round; in each every interaction comes once.

    Returns:
        A `Fit` of the model `fedmf`, of any width, with `scale` 0.1 as in the paper; its loss is
        the one above, a mean over the round.

    Raises:
        ValueError: `layers` or `l2` are negative, a size is below 1, or, in `init`, the model is
            not `fedmf`.

    Example:
        >>> model = models.fedmf(num_items, width=64)
        >>> strategy = strategies.central(model, fit=models.lightgcn(layers=3))
    """
    at_least("lightgcn", "layers", layers, 0)
    at_least("lightgcn", "l2", l2, 0)
    at_least("lightgcn", "batch_size", batch_size, 1)
    at_least("lightgcn", "epochs", epochs, 1)
    descent: Transform = optax.adam(LEARNING_RATE) if optimizer is None else optimizer

    def init(shared, private):
        item, user = factors("lightgcn", shared, private)
        begin = {"user": user, "item": item.values}
        return {"begin": begin, "optimizer": descent.init(begin)}

    def solve(key, state, histories, shared, private):
        propagate = _propagation(histories, layers)
        rows = histories.clients * histories.members
        here = jnp.zeros(rows, bool).at[histories.row].max(histories.there)[:, None]

        def stays(path, new, old):
            users = new.ndim and any(getattr(at, "key", None) == "user" for at in path)
            return jnp.where(here, new, old) if users else new

        def step(carry, batch):
            begin, moments = carry
            value, gradient = _descent(begin, propagate, batch, l2)
            change, after = descent.update(gradient, moments, begin)
            moved = optax.apply_updates(begin, change)
            return jax.tree.map_with_path(stays, (moved, after), carry), value

        def epoch(carry, seeds):
            batches = _batches(histories, seeds, batch_size)
            carry, values = jax.lax.scan(step, carry, batches)
            return carry, masked_mean(values, batches["mask"].sum(1))

        seeds = keys.words(key, 2 * epochs).reshape(epochs, 2)
        carry, values = jax.lax.scan(epoch, (state["begin"], state["optimizer"]), seeds)
        final = propagate(carry[0])
        filled = {"item": replace(shared["item"], values=final["item"])}
        kept = {"user": final["user"].reshape(private["user"].shape)}
        return {"begin": carry[0], "optimizer": carry[1]}, (filled, kept, values.mean())

    return Fit(solve, init)


def _descent(begin: dict, propagate: Callable, batch: dict, l2) -> tuple[jax.Array, dict]:
    """(loss, its gradient at layer 0) of one batch."""

    def ranked(final):
        user, item = final["user"][batch["row"]], final["item"][batch["items"]]
        z = (user[:, None] * item).sum(-1)
        return masked_mean(softplus(z[:, 1] - z[:, 0]), batch["mask"])

    def penalty(begin):
        user, item = begin["user"][batch["row"]], begin["item"][batch["items"]]
        return 0.5 * l2 * masked_mean((user**2).sum(1) + (item**2).sum((1, 2)), batch["mask"])

    first, above = jax.value_and_grad(ranked)(propagate(begin))
    second, beside = jax.value_and_grad(penalty)(begin)
    return first + second, jax.tree.map(jnp.add, propagate(above), beside)


def _propagation(met: Histories, layers: int) -> Callable[[dict], dict]:
    """Tables of rows {"user": [R, D], "item": [I, D]} to their mean over the layers."""
    size = {"user": met.clients * met.members, "item": met.items}
    ids, once = {"user": met.row, "item": met.item}, met.there.astype(jnp.float32)
    degree = {side: jnp.zeros(size[side]).at[ids[side]].add(once) for side in size}
    weight = once * jax.lax.rsqrt(jnp.maximum(degree["user"], 1)[ids["user"]])
    weight *= jax.lax.rsqrt(jnp.maximum(degree["item"], 1)[ids["item"]])

    def matrix(of, other):
        order = jnp.argsort(ids[of], stable=True)
        start = jnp.searchsorted(ids[of][order], jnp.arange(size[of] + 1)).astype(jnp.int32)
        return BCSR((weight[order], ids[other][order], start), shape=(size[of], size[other]))

    to = {"user": matrix("user", "item"), "item": matrix("item", "user")}

    def propagate(tables):
        layer = total = tables
        for _ in range(layers):
            layer = {"user": to["user"] @ layer["item"], "item": to["item"] @ layer["user"]}
            total = jax.tree.map(jnp.add, total, layer)
        return jax.tree.map(lambda x: x / (layers + 1), total)

    return propagate


def _batches(met: Histories, seeds: jax.Array, size: int) -> dict:
    """{"row": int32[T, B], "items": int32[T, B, 2], "mask": float32[T, B]} of one epoch.

    The order and the negatives hang on who met what and on `seeds` uint32[2], and not on who holds
    the users or who is away. Of users who met everything there are no examples.
    """
    pair = keys.mix(met.owner.astype(jnp.uint32) ^ seeds[0]) ^ met.item.astype(jnp.uint32)
    bits = keys.mix(pair)
    order = jnp.lexsort((met.item, met.owner, bits, ~met.there))  # few bits are alike
    size = min(size, order.size)
    steps = -(-order.size // size)
    order = jnp.resize(order, (steps * size,))  # the rest of the last batch is masked below
    drawn = met.negatives.pick(met.row[order], keys.mix(bits[order] ^ seeds[1]))
    mask = met.there[order] & (jnp.arange(steps * size) < met.there.size) & (drawn < met.items)
    items = jnp.stack([met.item[order], drawn], -1)
    found = {"row": met.row[order], "items": items, "mask": mask.astype(jnp.float32)}
    return jax.tree.map(lambda x: x.reshape(steps, size, *x.shape[1:]), found)
