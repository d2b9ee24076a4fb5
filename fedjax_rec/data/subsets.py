"""Parts of a client's examples, of which each has every other interaction and its negatives.

    part p of m:  interactions p, p + m, p + 2 m, ... of a client, in the order of the store

That is by time within a user, and over all users where a client holds several, so that every part
has old and new ones of everybody; it is the even-odd split of federated reconstruction (Singhal et
al., NeurIPS 2021). A positive stays with its own negatives; parts draw theirs apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from ..check import at_least
from ..keys import mix
from ..types import Array
from .batches import Batches


def part_of(batches: Batches, part: int, of: int) -> Batches:
    """`batches` on the interactions `part`, `part + of`, ... of each client.

    Of `n` interactions that is ceil((n - part) / of): a client of few has none in the last parts.

    Args:
        batches: what reads `data.start`, `data.length` and the arrays of `data.store` by index, as
            all of this room do.
        part: p, from 0.
        of: m.

    Raises:
        ValueError: unless 0 <= part < of.

    Example:
        >>> third = data.part_of(data.pointwise(4), part=2, of=3)
    """
    at_least("part_of", "of", of, 1)
    if not 0 <= part < of:
        raise ValueError(f"part_of(part={part}, of={of}) is no part; use 0 <= part < {of}.")
    share = lambda count: (count - part + of - 1) // of

    def own(data):
        every = lambda values: _Every(values, data.start, part, of)
        thinned = data.store.viewed(every, share(data.store.longest))
        return replace(data, store=thinned, length=share(data.length), longest=share(data.longest))

    def count(data):
        return batches.count(replace(data, length=share(data.length), longest=share(data.longest)))

    def most(store):
        return batches.most(replace(store, longest=share(store.longest)))

    def draw(seed, data, q):
        # Else negative q would be the same item in every part.
        return batches.draw(mix(seed + jnp.uint32(part)) if part else seed, own(data), q)

    return Batches(count, most, draw, batches.ids)


def support(batches: Batches) -> Batches:
    """Every other interaction, from the first: what private parameters are fitted to.

    Args:
        batches: as in `part_of`.

    Example:
        >>> half = data.support(data.pointwise(4))
    """
    return part_of(batches, 0, 2)


def query(batches: Batches) -> Batches:
    """The half that `support` leaves: a client of one interaction has none.

    Args:
        batches: as in `part_of`.

    Example:
        >>> half = data.query(data.pointwise(4))
    """
    return part_of(batches, 1, 2)


@dataclass(frozen=True)
class _Every:
    """Entry start + j is entry start + part + j * of of `values`: a view, nothing is copied."""

    values: Array
    start: Array
    part: int
    of: int

    def __getitem__(self, index) -> jax.Array:
        return self.values[self._place(index)]

    @property
    def at(self) -> Any:
        return _At(self)

    def _place(self, index):
        return self.start + self.part + (index - self.start) * self.of


@dataclass(frozen=True)
class _At:
    """`array.at`, for reading."""

    view: _Every

    def __getitem__(self, index) -> Any:
        return self.view.values.at[self.view._place(index)]
