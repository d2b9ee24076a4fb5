"""Federated dropout: each client trains a random part of the columns of every matrix.

    k = ceil(fraction * D) of D columns, drawn by every client for each round;
    the loss sees D/k * x in these columns and 0 in the others

(Caldas et al., "Expanding the reach of federated learning by reducing client resource
requirements", 2018.) A column of an embedding is one of its D features, one of a layer's matrix is
a unit; a unit's bias is left out with it.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .. import keys
from ..trees import Frozen
from ..types import Client


def submodel(client: Client, fraction: float) -> Client:
    """`client`, of a model from `models.prunable`, on a submodel that is drawn anew every round.

    The factor D/k is that of inverted dropout: what the loss sees is the whole model on average,
    and the gradient, D/k times as large, makes up for the clients that left a column out and whose
    zeros enter the mean. With an optimizer that leaves alone what has no gradient (SGD, Adam; not
    weight decay) the upload is zero in the columns that were left out: send it by
    `compress.columns(fraction)`, which loses nothing. Private parameters stay whole, and so does
    a matrix of one column, such as the read-out of `models.neumf`.

    The submodel takes the place of the model's mask: not to be used with `strategies.pruning`.
    Raises ValueError outside 0 < fraction <= 1, and where the model has no mask.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"submodel(fraction={fraction}) trains nothing; use 0 < fraction <= 1.")

    def update(key, private, shared, data):
        if not (isinstance(shared, dict) and isinstance(shared.get("mask"), Frozen)):
            raise ValueError(
                "submodel(client): the model has no mask; make it with models.prunable(model)."
            )
        draw_key, key = jax.random.split(key)
        mask = _drawn(draw_key, shared["mask"].value, fraction)
        return client.update(key, private, {**shared, "mask": Frozen(mask)}, data)

    at = client.at
    if at is None:
        return Client(client.init, update, score=client.score)
    later = lambda round, shared: submodel(at(round, shared), fraction)
    return Client(client.init, update, later, client.score)


def _drawn(key: jax.Array, mask: dict, fraction: float) -> dict:
    """A factor for each column, float32[D], of every matrix, and of its bias if it has one."""
    factors, beside = {}, {}
    for path in sorted(mask):
        if mask[path].ndim < 2:
            continue
        width = mask[path].shape[-1]
        kept = max(1, math.ceil(fraction * width - 1e-9))
        chosen = jax.random.permutation(keys.stream(key, path), width) < kept
        factors[path] = jnp.where(chosen, width / kept, 0.0)
        beside.setdefault((path.rpartition("/")[0], width), factors[path])
    for path, of_vector in mask.items():
        if of_vector.ndim < 2:
            place = (path.rpartition("/")[0], of_vector.size)
            factors[path] = beside.get(place, of_vector) if of_vector.ndim else of_vector
    return factors
