"""Which client holds which user: factories that return `Split -> Partition`.

Cross-device: a client is a user (`by_user`). Cross-silo: a client is a group of users, by hash, by
an attribute, or with Dirichlet skew (Hsu et al. 2019; per label as in Yurochkin et al. 2019): for
each label v, p_v ~ Dir(alpha, ..., alpha) over clients, and client c gets the share p_v[c] of the
users with that label. No client is ever empty.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from fedjax_rec import check
from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.splits import Split


@dataclass(frozen=True)
class Partition:
    """The client of each user; each client has at least one."""

    client_of_user: np.ndarray  # int32[num_users] in 0..num_clients-1
    num_clients: int


Partitioner = Callable[[Split], Partition]


def by_user() -> Partitioner:
    """Each user is a client, in the order of the dense ids.

    Example:
        >>> partition = data.by_user()(split)
    """

    def partition(split: Split) -> Partition:
        size = split.interactions.num_users
        return Partition(np.arange(size, dtype=np.int32), size)

    return partition


def by_hash(num_clients: int, seed: int = 0) -> Partitioner:
    """Users spread evenly by a hash of their original id: the same user, the same client, whatever
    was filtered.

    CRC-32 of the id, mixed with the seed by splitmix64 (Steele et al. 2014). A client that got no
    user takes one from the largest.

    Args:
        num_clients: at most the users there are.
        seed: of the hash.

    Raises:
        ValueError: for no client, with more clients than users, and for no seed of 32 bits.

    Example:
        >>> partition = data.by_hash(num_clients=4)(split)
    """
    _check_clients("by_hash", num_clients)
    check.seed("by_hash", seed)

    def partition(split: Split) -> Partition:
        _check_enough("by_hash", num_clients, split.interactions)
        names = split.interactions.user_names.tolist()
        codes = np.array([zlib.crc32(name.encode()) for name in names], np.uint64)
        mixed = _splitmix64(codes + _splitmix64(np.array([seed], np.int64).astype(np.uint64)))
        return _filled(mixed % np.uint64(num_clients), num_clients)

    return partition


def by_attribute(column: str) -> Partitioner:
    """One client for each value of a user feature, in sorted order; users without a value share the
    last client.

    Args:
        column: of the user features, such as "occupation".

    Raises:
        ValueError: naming the columns there are, where `column` is none of them.

    Example:
        >>> partitioner = data.by_attribute("occupation")
    """

    def partition(split: Split) -> Partition:
        codes, size = _labels("by_attribute", split.interactions, column)
        return Partition(codes, size)

    return partition


def dirichlet(
    num_clients: int, alpha: float, column: str | None = None, seed: int = 0
) -> Partitioner:
    """Skewed groups: client c gets the share p_v[c] of the users with label v, p_v ~ Dir(alpha).

    A client that got no user takes one from the largest.

    Args:
        num_clients: at most the users there are.
        alpha: small concentrates users on few clients, large makes them even; infinity is the
            limit, where shares are equal.
        column: the user feature that has the labels; None for one label, where the skew is in the
            number of users.
        seed: of the draw.

    Raises:
        ValueError: for no client, with more clients than users, alpha <= 0, a column that is not
            there, and for no seed of 32 bits.

    Example:
        >>> partition = data.dirichlet(num_clients=4, alpha=0.5)(split)
    """
    _check_clients("dirichlet", num_clients)
    check.seed("dirichlet", seed)
    if not alpha > 0:
        raise ValueError(f"dirichlet(alpha={alpha}) is not a concentration; use alpha > 0.")

    def partition(split: Split) -> Partition:
        interactions = split.interactions
        _check_enough("dirichlet", num_clients, interactions)
        labels, count = np.zeros(interactions.num_users, np.int32), 1
        if column is not None:
            labels, count = _labels("dirichlet", interactions, column)
        rng = np.random.default_rng(seed)
        client = np.empty(interactions.num_users, np.int64)
        for label in range(count):
            users = rng.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(_shares(rng, num_clients, alpha))[:-1] * len(users)
            # User number j of the shuffled label goes to the client whose share covers j + 1/2.
            client[users] = np.searchsorted(cuts, np.arange(len(users)) + 0.5, side="right")
        return _filled(client, num_clients)

    return partition


def _shares(rng: np.random.Generator, size: int, alpha: float) -> np.ndarray:
    """Dir(alpha, ..., alpha), whose shares deviate by 1 / sqrt(size alpha) of themselves: where no
    float64 shows that they are equal, and the sums of the draw do not overflow."""
    if alpha > 1e32:
        return np.full(size, 1 / size)
    return rng.dirichlet(np.full(size, alpha))


def _labels(what: str, interactions: Interactions, column: str) -> tuple[np.ndarray, int]:
    """Codes int32[num_users] of a user feature and how many there are; null comes last."""
    table = interactions.user_features
    if table is None:
        raise ValueError(
            f"{what}(column='{column}'): '{interactions.name}' has no user features; use by_hash."
        )
    if column not in table.columns:
        raise ValueError(
            f"{what}(column='{column}') is no user feature of '{interactions.name}'; use one of "
            f"{', '.join(table.columns)}."
        )
    values = table[column]
    numbers = values.cast(pl.Float64, strict=False)
    if numbers.null_count() == values.null_count():
        values = numbers  # '9' before '10' where all are numbers
    known = values.drop_nulls().unique().sort()
    codes = values.replace_strict(known, np.arange(len(known), dtype=np.int32), default=len(known))
    return codes.to_numpy().astype(np.int32), len(known) + (values.null_count() > 0)


def _filled(client: np.ndarray, num_clients: int) -> Partition:
    """Give each empty client the last user of the client that has most."""
    client = client.astype(np.int32)
    counts = np.bincount(client, minlength=num_clients)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        by_client = np.split(np.argsort(client, kind="stable"), np.cumsum(counts)[:-1])
        users = {c: list(rows) for c, rows in enumerate(by_client) if len(rows)}
        heap = [(-len(rows), c) for c, rows in users.items()]
        heapq.heapify(heap)
        for target in empty:
            size, largest = heapq.heappop(heap)
            client[users[largest].pop()] = target
            heapq.heappush(heap, (size + 1, largest))
    return Partition(client, num_clients)


def _splitmix64(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser on uint64, wrapping."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _check_clients(what: str, num_clients: int) -> None:
    if num_clients < 1:
        raise ValueError(f"{what}(num_clients={num_clients}) makes no client; use at least 1.")


def _check_enough(what: str, num_clients: int, interactions: Interactions) -> None:
    if num_clients > interactions.num_users:
        raise ValueError(
            f"{what}(num_clients={num_clients}) exceeds the {interactions.num_users} users of "
            f"'{interactions.name}'; use at most that many."
        )


def members_of(partition: Partition) -> tuple[np.ndarray, int]:
    """(index of each user inside its client, most users of a client)."""
    clients = partition.client_of_user
    order = np.argsort(clients, kind="stable")
    count = np.bincount(clients, minlength=partition.num_clients)
    first = np.concatenate([[0], np.cumsum(count)[:-1]])
    member = np.empty(len(clients), np.int32)
    member[order] = np.arange(len(clients)) - np.repeat(first, count)
    return member, int(count.max(initial=1))
