"""Where each user's interactions lie inside the client that holds it.

Dimensions: `N` clients, `V` users with a sequence, that is, two interactions or more.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..rows import static
from ..types import Array, record


@record
class Spans:
    """Of clients that hold several users.

    start, length: int32[V], the interactions of a user in the store, in the order of time; users
    of a client follow one another. begin, count: int32[N], the users of a client among them.
    most: most such users of any client.
    """

    start: Array
    length: Array
    begin: Array
    count: Array
    most: int = static()


def spans_of(users: np.ndarray, clients: np.ndarray, num_clients: int) -> Spans:
    """users, clients: int[nnz], of the interactions of a store in its order."""
    fresh = np.concatenate([[True], users[1:] != users[:-1]])
    start = np.flatnonzero(fresh)
    length = np.diff(np.append(start, len(users)))
    enough = length > 1
    start, length = start[enough], length[enough]
    count = np.bincount(clients[start], minlength=num_clients)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    put = lambda x: jnp.asarray(x, jnp.int32)
    return Spans(put(start), put(length), put(begin), put(count), int(count.max()))
