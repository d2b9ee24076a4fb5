"""Neural collaborative filtering, federated: private user vectors, shared item rows and layers.

- GMF:   score = h . (p_u * q_i)
- MLP:   score = h . f_L(... f_1([p_u ; q_i]))
- NeuMF: score = h . [p_u * q_i ; f_L(... f_1([p'_u ; q'_i]))], each half with its own vectors

He et al., WWW 2017; federated as FedNCF (Perifanis & Efraimidis, 2022).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import of_users


def product(user: jax.Array, item: jax.Array) -> jax.Array:
    """GMF's features p_u * q_i."""
    return user * item


class Tower(nnx.Module):
    """MLP's features of [p_u ; q_i]: ReLU layers of the given widths."""

    def __init__(self, width, layers, rngs):
        sizes = [2 * width, *layers]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(sizes)])

    def __call__(self, user, item):
        x = jnp.concatenate([jnp.broadcast_to(user, item.shape), item], -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return x


class Half(nnx.Module):
    """User and item vectors, and the features made of them."""

    def __init__(self, num_items, members, width, scale, features, rngs):
        draw = jax.random.normal
        self.item = Rows(scale * draw(rngs.params(), (num_items, width)))
        self.user = Private(scale * draw(rngs.params(), (members, width)))
        self.features = features

    def of_batch(self, batch):
        rows = self.item[batch["items"]]
        return self.features(of_users(self.user, batch, rows.ndim), rows)

    def of_items(self, items, user):
        return self.features(self.user[user], self.item[items])


class NeuralFiltering(nnx.Module):
    """The affine read-out of one half or both."""

    def __init__(self, halves, widths, objective, rngs):
        self.halves = nnx.List(halves)
        self.readout = nnx.Linear(sum(widths), 1, rngs=rngs)
        self.objective = objective

    def loss(self, batch, key):
        features = jnp.concatenate([half.of_batch(batch) for half in self.halves], -1)
        return self.objective(self.readout(features)[..., 0], batch)

    def score(self, items, user):
        features = jnp.concatenate([half.of_items(items, user) for half in self.halves], -1)
        return self.readout(features)[..., 0]


def _gmf(num_items, members, width, scale, rngs):
    return Half(num_items, members, width, scale, product, rngs), width


def _mlp(num_items, members, width, scale, layers, rngs):
    tower = Tower(width, layers, rngs)
    return Half(num_items, members, width, scale, tower, rngs), layers[-1]


def _model(build, objective):
    objective = objective or bce()

    def module(rngs):
        halves, widths = zip(*build(rngs), strict=True)
        return NeuralFiltering(halves, widths, objective, rngs)

    return from_nnx(module)


def _check(where: str, width: int, layers: Sequence[int] = (1,)) -> None:
    positive(where, "width", width)
    if not layers or min(layers) < 1:
        raise ValueError(f"{where}(layers={list(layers)}) must be positive widths, e.g. [32, 16].")


def gmf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """score = h . (p_u * q_i): generalized matrix factorization; read-out [width, 1] shared.

    Arguments that are not named here are those of `fedmf`.

    Raises:
        ValueError: for a width that is not positive.

    Example:
        >>> strategy = strategies.fedncf(models.gmf(num_items, width=8), data.pointwise(4))
    """
    _check("gmf", width)
    return _model(lambda rngs: [_gmf(num_items, members, width, scale, rngs)], objective)


def mlp(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (32, 16, 8),
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """score = h . f_L(... f_1([p_u ; q_i])): a ReLU tower on user and item vectors; tower and
    read-out shared.

    Arguments that are not named here are those of `fedmf`.

    Args:
        layers: widths of the tower's layers.

    Raises:
        ValueError: for widths that are not positive, and for no layer.

    Example:
        >>> strategy = strategies.fedncf(models.mlp(num_items, layers=(16, 8)), data.pointwise(4))
    """
    _check("mlp", width, layers)
    return _model(lambda rngs: [_mlp(num_items, members, width, scale, layers, rngs)], objective)


def neumf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (32, 16, 8),
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """score = h . [p_u * q_i ; f_L(... f_1([p'_u ; q'_i]))]: GMF and MLP side by side, each with
    its own vectors.

    Arguments that are not named here are those of `mlp`.

    Raises:
        ValueError: as `mlp`.

    Example:
        >>> strategy = strategies.fedncf(models.neumf(num_items, width=8), data.pointwise(4))
    """
    _check("neumf", width, layers)
    return _model(
        lambda rngs: [
            _gmf(num_items, members, width, scale, rngs),
            _mlp(num_items, members, width, scale, layers, rngs),
        ],
        objective,
    )
