"""GPFedRec: a private user vector and layers over a shared item table (Zhang et al., KDD 2024).

    score_k(i) = h_k . f_L(... f_1([p_k ; q_i])) + b_k,    f_l(x) = max(0, W_l x + b_l)

Only the item table q leaves client k. All clients start alike: vectors from N(0, 1), layers
uniform in +-1/sqrt(inputs) as `torch.nn.Linear`.

`guided` adds the pull towards a target that the server made for the client:

    loss_k + strength * mean |q - t_k|^2
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from ... import rows, trees
from ...check import at_least, positive
from ...types import Model, PyTree
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import of_users


class PrivateLayer(nnx.Module):
    """x W + b."""

    def __init__(self, inputs, outputs, rngs):
        draw = lambda shape: jax.random.uniform(rngs.common(), shape, minval=-1.0) / inputs**0.5
        self.kernel = Private(draw((inputs, outputs)))
        self.bias = Private(draw((outputs,)))

    def __call__(self, x):
        return x @ self.kernel + self.bias


class PrivateTower(nnx.Module):
    def __init__(self, role, num_items, members, width, layers, objective, rngs):
        user = jax.random.normal(rngs.common(), (width,))
        self.item = role(jax.random.normal(rngs.params(), (num_items, width)))
        self.user = Private(jnp.broadcast_to(user, (members, width)))
        sizes = [2 * width, *layers]
        self.layers = nnx.List([PrivateLayer(a, b, rngs) for a, b in itertools.pairwise(sizes)])
        self.readout = PrivateLayer(sizes[-1], 1, rngs)
        self.objective = objective

    def of(self, item, user):
        x = jnp.concatenate([jnp.broadcast_to(user, item.shape), item], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.readout(x)[..., 0]

    def loss(self, batch, key):
        item = self.item[batch["items"]]
        return self.objective(self.of(item, of_users(self.user, batch, item.ndim)), batch)

    def score(self, items, user):
        return self.of(self.item[items], self.user[user])


def gpfedrec(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (32, 16, 8),
    objective: Objective | None = None,
) -> Model:
    """Private user vectors [members, width] and ReLU layers; a shared item table [num_items,
    width], trained and sent whole, as released: the pull moves every row of it.

    A client that holds several users has one tower for them.
    Arguments that are not named here are those of `fedmf`.

    Args:
        layers: widths of the tower's layers.

    Raises:
        ValueError: for widths that are not positive.

    Example:
        >>> strategy = strategies.gpfedrec(models.gpfedrec(num_items, width=8), data.pointwise(4))
    """
    return _model("gpfedrec", nnx.Param, num_items, members, width, layers, objective)


def gpfedrec_rows(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (32, 16, 8),
    objective: Objective | None = None,
) -> Model:
    """`gpfedrec` with item rows: a client trains, pulls and sends those that it touches.

    Arguments that are not named here are those of `gpfedrec`.

    Raises:
        ValueError: as `gpfedrec`.

    Example:
        >>> strategy = strategies.gpfedrec(models.gpfedrec_rows(num_items), data.pointwise(4))
    """
    return _model("gpfedrec_rows", Rows, num_items, members, width, layers, objective)


def _model(where, role, num_items, members, width, layers, objective) -> Model:
    positive(where, "width", width)
    if not layers or min(layers) < 1:
        raise ValueError(f"{where}(layers={list(layers)}) must be positive widths, e.g. [32, 16].")
    objective = objective or bce()
    return from_nnx(
        lambda rngs: PrivateTower(role, num_items, members, width, layers, objective, rngs)
    )


def guided(model: Model, strength: float) -> Model:
    """`model` with a target for what it shares: loss + strength * sum_x mean |x - target_x|^2 over
    the trained leaves x of `shared`.

    Its `shared` is `{"model": ..., "target": Frozen(...)}`: what `model` shares, and the same
    leaves without frozen ones, tables as arrays, which `init` sets to the model itself. Of a row
    table, the sum over the distinct rows of the batch is divided by all of the table's entries: the
    pull on a row is that of the mean over the whole table, whatever the batch. A plain array is
    pulled whole. Scores and predictions are those of `model`.

    Args:
        model: any.
        strength: of the pull, at least 0.

    Raises:
        ValueError: for strength < 0.

    Example:
        >>> pulled = models.guided(model, strength=0.1)
        >>> client = clients.local_training(pulled, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.graph_guided(client, model)
    """
    at_least("guided", "strength", strength, 0)

    def init(key, common=None):
        shared, private = model.init(key, common)
        return {"model": shared, "target": trees.Frozen(target_of(shared))}, private

    def loss(shared, private, batch, key):
        pull = lambda x, target: _distance(x, target, batch)
        trained = trees.trainable(shared["model"])
        pulls = rows.map_nodes(pull, trained, shared["target"].value)
        return model.loss(shared["model"], private, batch, key) + strength * sum(
            jax.tree.leaves(pulls)
        )

    seen = model.through(lambda shared, private: (shared["model"], private), init)
    return replace(seen, loss=loss)


def target_of(shared: PyTree) -> PyTree:
    """The target that is `shared` itself: its trained leaves, tables as arrays."""
    return rows.dense(trees.trainable(shared))


def _distance(x, target: jax.Array, batch: dict) -> jax.Array:
    if not isinstance(x, (rows.Table, rows.Gathered)):
        return ((x - target) ** 2).mean()
    # Of this batch, which may be a part of the one that was gathered.
    named = [batch[name] for name in x.fields if name in batch]
    count = target.shape[0]
    real = lambda ids: batch["mask"].reshape(-1, *[1] * (ids.ndim - 1)) > 0
    ids = jnp.concatenate([jnp.where(real(i), i, count).reshape(-1) for i in named])
    mine = jnp.concatenate([x[i].reshape(-1, target.shape[-1]) for i in named])
    # A row that stands in the batch several times counts once, in equal shares.
    times = jnp.zeros(count, mine.dtype).at[ids].add(1.0, mode="drop")
    share = jnp.where(ids < count, 1.0 / times.at[ids].get(mode="fill", fill_value=1.0), 0.0)
    apart = mine - jnp.asarray(target).at[ids].get(mode="clip")
    return (share[:, None] * apart**2).sum() / target.size
