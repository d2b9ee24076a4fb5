"""Which table rows a batch names: those of a field as it is, or what a function makes of its ids.

A table of `rows` tells by its `fields` where its row ids stand. `Derived` ids (hashes, quotients
and remainders) are computed where they are needed, so that a batch, the store and the model know
only the ids of the data.

`k` row ids an id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax


@dataclass(frozen=True)
class Derived:
    """function(ids int32[...]) -> int32[..., k] row ids, of the ids in a batch's `field`. It must
    be hashable and compare equal to itself made again: a frozen dataclass with `__call__`."""

    field: str
    function: Callable[[jax.Array], jax.Array]
    count: int


Field = str | Derived


def name_of(field: Field) -> str:
    """The entry of the batch that is read."""
    return field if isinstance(field, str) else field.field


def times(field: Field) -> int:
    """`k`: how many rows an id of the batch names."""
    return 1 if isinstance(field, str) else field.count


def through(field: Field, ids: Any) -> Any:
    """Row ids of ids; slices are left alone."""
    if isinstance(field, Derived) and not isinstance(ids, slice):
        return field.function(ids)
    return ids


def ids_of(field: Field, batch: dict) -> jax.Array:
    """The row ids that `batch` names."""
    return through(field, batch[name_of(field)])
