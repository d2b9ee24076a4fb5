"""The gradient of a model's loss on one batch, of row tables with respect to the gathered rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows, trees
from ..rows.fields import ids_of
from ..types import Model, PyTree
from .optimizers import path_of


def value_and_gradient(
    model: Model, covers: Callable[[str], bool], params: PyTree, shared: PyTree, batch: dict, key
) -> tuple[jax.Array, PyTree]:
    """(loss, gradients) at `params`, {"shared": ..., "private": ...} with tables as `LocalTable`.

    Of a batch of padding both are 0, whatever the loss makes of no example: it may divide by their
    number. Gradients are `rows.RowsGradient` of tables, and None of leaves that `covers(path)`
    leaves out.
    shared: the server's pytree, of which the frozen leaves are taken.
    """
    paths, structure = rows.flatten(params)
    leaves = [leaf for _, leaf in paths]
    trained = [covers(path_of(path)) for path, _ in paths]
    slots = [
        [x.slots(ids_of(f, batch)) for f in x.fields] if rows.is_table(x) else [] for x in leaves
    ]
    seen = [
        [x.rows(i) for i in s] if rows.is_table(x) else x
        for x, s in zip(leaves, slots, strict=True)
    ]

    def loss(some):
        some = iter(some)
        full = []
        for x, value, train in zip(leaves, seen, trained, strict=True):
            value = next(some) if train else value
            if rows.is_table(x):
                value = rows.gather(batch, x.fields, value)
            full.append(value)
        tree = structure.unflatten(full)
        whole = trees.with_frozen(tree["shared"], shared)
        return model.loss(whole, tree["private"], batch, key)

    for (path, x), train in zip(paths, trained, strict=True):
        if train:
            _check_floats(path_of(path), x.values if rows.is_table(x) else x)
    chosen = [value for value, train in zip(seen, trained, strict=True) if train]
    real = batch["mask"].sum() > 0
    value, gradients = jax.value_and_grad(loss)(chosen)
    value, gradients = trees.select(real, (value, gradients), trees.zeros_like((value, gradients)))
    gradients = iter(gradients)
    out = []
    for x, s, train in zip(leaves, slots, trained, strict=True):
        gradient: Any = next(gradients) if train else None
        if train and rows.is_table(x):
            gradient = rows.RowsGradient(
                jnp.concatenate([i.reshape(-1) for i in s]),
                jnp.concatenate([g.reshape(-1, g.shape[-1]) for g in gradient]),
            )
        out.append(gradient)
    return value, structure.unflatten(out)


def _check_floats(path: str, x) -> None:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"{path} is of {x.dtype.name}, which has no gradient; keep it in trees.Frozen(...) "
            "(models.Frozen of a module), or train a float."
        )
