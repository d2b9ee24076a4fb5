"""Plain arrays of an update, for what knows arrays alone, and the way back.

Sums of updates list the rows of all clients one after another, so an id may stand there more than
once, and a number drawn for each leaf of such a list is drawn several times for one row. In the
view each row of a table stands once.

`I` rows of the table, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from ..types import PyTree
from .table import RowsUpdate, is_table
from .update import to_dense
from .walk import map_nodes


def dense_view(update: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """(arrays, back): the update with float[I, D] for its tables, each row once, and what makes an
    update of such arrays again, in which the rows that are not 0 move.

    Args:
        update: of one client, or a sum of many.

    Example:
        >>> from fedjax_rec import rows
        >>> ids = jnp.array([1, 1])  # of a sum, in which row 1 stands twice
        >>> update = rows.RowsUpdate(jnp.ones((2, 1)), ids, ids < 3, None, 3)
        >>> arrays, back = rows.dense_view(update)
        >>> arrays[:, 0].tolist(), back(arrays / 2).live.tolist()
        ([0.0, 2.0, 0.0], [False, True, False])
    """

    def back(arrays: PyTree) -> PyTree:
        def one(x, values):
            if not is_table(x):
                return values
            return RowsUpdate(values, None, (values != 0).any(-1), None, x.size)

        return map_nodes(one, update, arrays)

    arrays = map_nodes(lambda x: to_dense(x) if is_table(x) else jnp.asarray(x), update)
    return arrays, back
