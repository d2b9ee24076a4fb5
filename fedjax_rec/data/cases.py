"""Evaluation cases: who is measured, on which held-out items, against what.

Dimensions: `N` clients, `U` users, `R` most held-out items of a user, `H` items of a history.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..types import Array, record
from .interactions import Interactions
from .negatives import pairs_to_csr
from .partition import Partition, members_of
from .ragged import Ragged, ragged
from .splits import TEST, TRAIN, UNUSED, VALIDATION, Split


@record
class Cases:
    """Who is evaluated on what; one row a user with something held out.

    users: int32[U], of the data set; clients: int32[U], who holds them; members: int32[U], their
    index there. targets: lists of int32, or int32[U, R] padded with -1; ratings: the same of
    float32, or None. negatives: int32[U, n], fixed candidates for sampled evaluation, or None.
    history: int32[U, H], the last items before the held-out ones in time, -1 before the first, or
    None.
    seen: int32[nnz], items to filter from a full ranking, at seen_start[u] .. + seen_count[u].
    rows: int32[N], the row of the first user of each client, -1 where it has none.
    """

    users: Array
    clients: Array
    members: Array
    targets: Ragged | Array
    ratings: Ragged | Array | None
    negatives: Array | None
    seen: Array
    seen_start: Array
    seen_count: Array
    rows: Array
    history: Array | None = None

    def held_out(self) -> jax.Array:
        """int32[U]: how many items of each user are held out."""
        if isinstance(self.targets, Ragged):
            return self.targets.count
        return (self.targets >= 0).sum(1)


def cases_of(
    split: Split, partition: Partition, part: int, drawn: np.ndarray | None, history: int
) -> Cases | None:
    """The cases of one part of `split`, or None where it is empty. drawn: the negatives of all
    users, int32[users, n], or None; history: how long the histories are, 0 for none."""
    data = split.interactions
    held = split.part == part
    if not held.any():
        return None
    users, items = data.users[held], data.items[held]
    present, row = np.unique(users, return_inverse=True)
    # What a deployed recommender would have seen by then: for the test, validation items too, and
    # what no part uses.
    read = split.part == TRAIN
    if part == TEST:
        read |= split.part == VALIDATION
    seen = read | (split.part == UNUSED)
    seen_items, start, length = pairs_to_csr(
        data.users[seen], data.items[seen], data.num_users, data.num_items
    )
    earlier = read | (seen & before(split, held)) if history else read
    ratings = None if data.ratings is None else data.ratings[held]
    clients = partition.client_of_user[present]
    rows = np.full(partition.num_clients, -1, np.int32)
    rows[clients[::-1]] = np.arange(len(present), dtype=np.int32)[::-1]
    member, _ = members_of(partition)
    return Cases(
        users=jnp.asarray(present, jnp.int32),
        clients=jnp.asarray(clients, jnp.int32),
        members=jnp.asarray(member[present], jnp.int32),
        targets=ragged(items.astype(np.int32), row),
        ratings=None if ratings is None else ragged(ratings.astype(np.float32), row, 0.0),
        negatives=None if drawn is None else jnp.asarray(drawn[present]),
        seen=jnp.asarray(seen_items),
        seen_start=jnp.asarray(start[present]),
        seen_count=jnp.asarray(length[present]),
        rows=jnp.asarray(rows),
        history=jnp.asarray(_last(data, earlier, history)[present]) if history else None,
    )


def before(split: Split, held: np.ndarray) -> np.ndarray:
    """bool[n]: rows that come before the first of their user where `held` holds, of items that
    training may see."""
    data, place = split.interactions, np.arange(len(held))
    first = np.full(data.num_users, len(held))
    np.minimum.at(first, data.users[held], place[held])
    earlier = place < first[data.users]
    return earlier if split.absent is None else earlier & ~split.absent[data.items]


def _last(data: Interactions, seen: np.ndarray, size: int) -> np.ndarray:
    """int32[U, size]: the last of each user's items where `seen` holds, -1 before the first."""
    users, items = data.users[seen], data.items[seen]
    count = np.bincount(users, minlength=data.num_users)
    # Rows are sorted by user and time, so a row's distance from the end of its user is its place.
    left = np.repeat(np.cumsum(count), count) - np.arange(len(users))
    last = np.full((data.num_users, size), -1, np.int32)
    keep = left <= size
    last[users[keep], size - left[keep]] = items[keep]
    return last
