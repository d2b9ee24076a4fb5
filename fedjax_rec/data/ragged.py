"""Lists of unlike length, one after another: what one of them would be padded to, all would."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..rows import static
from ..types import Array, record


@record
class Ragged:
    """`U` lists. lists[rows] are those at `rows`, int32[] or int32[c], as an array [..., R] with
    `blank` after the end of each; np.asarray(lists) is all of them, [U, R].

    values: [nnz]; start, count: int32[U]; most: R, the length of the longest.
    """

    values: Array
    start: Array
    count: Array
    most: int = static()
    blank: float = static(default=-1)

    def __getitem__(self, rows) -> jax.Array:
        place = jnp.arange(self.most)
        taken = self.values.at[self.start[rows][..., None] + place].get(mode="clip")
        return jnp.where(place < self.count[rows][..., None], taken, self.blank)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[jnp.arange(self.count.shape[0])], dtype)


def ragged(values: np.ndarray, rows: np.ndarray, blank: float = -1) -> Ragged:
    """The lists of `values`, of which each says in `rows`, ascending from 0, which one it is of."""
    count = np.bincount(rows)
    start = np.cumsum(count) - count
    whole = lambda x: jnp.asarray(x, jnp.int32)
    return Ragged(jnp.asarray(values), whole(start), whole(count), int(count.max()), blank)
