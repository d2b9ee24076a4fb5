"""A table inside a loss: the rows of one batch, found by the ids that they belong to.

A client's loss does not see a table but the rows that its batch names, gathered before it, so that
the gradient is one of a few rows. `table[batch["items"]]` is the whole of them and costs nothing.
Whatever else is asked for is looked up among the ids of the batch: a slice of a field, an example
under `vmap`, a microbatch of a `scan`, a batch in another order, what `jax.checkpoint` made of it,
several fields one after another. An id that stands in the batch more than once is read at its first
place; all of them are one row, so its gradient is the same.

Ids are found by their values and not by a record around them, since JAX takes none as an index of
another array: `self.bias[batch["items"]]` of a plain parameter has to work beside a table.

`n` rows of the batch in all fields, `D` width, `k` rows an id (1 but for `fields.Derived`).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from .fields import Derived, Field, name_of, through


class _Same:
    """Arrays that belong to a pytree's structure: equal where they are the same objects. Held
    weakly, since caches of `jax` keep structures longer than traces."""

    def __init__(self, arrays: Iterable):
        arrays = tuple(arrays)
        self.refs, self.names = tuple(map(weakref.ref, arrays)), tuple(map(id, arrays))

    def arrays(self) -> tuple:
        return tuple(ref() for ref in self.refs)

    def __eq__(self, other) -> bool:
        if self is other:
            return True
        if not isinstance(other, _Same) or self.names != other.names:
            return False
        # The name of an array that is gone may be another's by now.
        return all(x is not None for x in (*self.arrays(), *other.arrays()))

    def __hash__(self) -> int:
        return hash(self.names)


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Gathered:
    """The rows that a batch names of a table, indexed by ids: a pytree of the rows alone.

    ids: the fields of the batch, int[...] each. rows: float[..., D], those of each field, or
    float[..., k, D] of a `Derived` one. fields: what they are called. others: the other arrays of
    the batch, of which it is known that they name no row.
    """

    ids: tuple[Any, ...]
    rows: tuple[Any, ...]
    fields: tuple[Field, ...]
    others: tuple[Any, ...] = ()

    def __getitem__(self, ids) -> jax.Array:
        """float[..., D], or [..., k, D], of int[...] among the ids of the batch.

        NaN where an id is not among them, which cannot be known while a program is traced. Raises
        ValueError for what is no array of ids, for another field of the batch, and outside of
        `jit` for an id that the batch does not have.
        """
        for known, rows in zip(self.ids, self.rows, strict=True):
            if ids is known:
                return rows
        integers = hasattr(ids, "dtype") and jnp.issubdtype(ids.dtype, jnp.integer)
        if not integers or any(ids is x for x in self.others) or not self._alike():
            raise self._unknown()
        found, rows = self._looked_up(through(self.fields[0], ids))
        if not isinstance(found, Tracer) and not found.all():
            raise self._unknown()
        return rows

    def _looked_up(self, wanted) -> tuple[jax.Array, jax.Array]:
        """(bool[...], [..., D]): whether the batch has the rows `wanted` int[...], and what."""
        named = [through(f, i) for f, i in zip(self.fields, self.ids, strict=True)]
        named = jnp.concatenate([jnp.reshape(i, -1) for i in named])
        rows = jnp.concatenate([r.reshape(-1, r.shape[-1]) for r in self.rows])
        if not named.size:
            found = jnp.zeros(jnp.shape(wanted), bool)
            return found, jnp.full((*found.shape, rows.shape[-1]), jnp.nan, rows.dtype)
        order = jnp.argsort(named)
        slot = jnp.searchsorted(named[order], wanted, method="scan_unrolled")
        slot = order[jnp.minimum(slot, named.size - 1)]
        found = named[slot] == wanted
        return found, jnp.where(found[..., None], rows[slot], jnp.nan)

    def _alike(self) -> bool:
        """Whether all fields say in one way which rows an id names."""
        kinds = {replace(f, field="") if isinstance(f, Derived) else "" for f in self.fields}
        return len(kinds) == 1

    def _unknown(self) -> ValueError:
        return ValueError(
            "A row table was indexed with something other than "
            f"batch[{' or '.join(repr(name_of(f)) for f in self.fields)}] or ids among them; "
            "index it with ids of these fields, name the field in Rows(fields=...), "
            "or make the table a plain nnx.Param to train it whole."
        )

    def tree_flatten(self):
        return (self.rows,), (_Same(self.ids), self.fields, _Same(self.others))

    @classmethod
    def tree_unflatten(cls, structure, children):
        ids, fields, others = structure
        return cls(ids.arrays(), children[0], fields, others.arrays())


def gather(batch: dict, fields: tuple[Field, ...], rows: Iterable) -> Gathered:
    """What the loss of `batch` sees of a table whose ids stand in `fields` of it; rows: float[...,
    D], those of each field.
    """
    names = [name_of(f) for f in fields]
    others = tuple(x for name, x in batch.items() if name not in names)
    return Gathered(tuple(batch[name] for name in names), tuple(rows), fields, others)
