"""Features of users and items, as the numbers that models read: one row each, fields side by side.

    x_u = [field_1(u) ; field_2(u) ; ...]          float32[U, Fu];    items likewise, float32[I, Fi]

Statistics (labels, bins, least and most, means) are of the users and the items that have training
interactions, each counted once, so that what is held out says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from ..check import nearest
from ..made import part, refuse_uncalled
from .fields import Field
from .partition import Partition, members_of
from .splits import TRAIN, Split


@dataclass(frozen=True)
class Encoded:
    """users: float32[U, Fu], or None where no field of users was asked for; items: float32[I, Fi],
    likewise. user_columns, item_columns: what their columns are, `age: 18 to 25`. user_sizes,
    item_sizes: how many of them each field has, in their order; None where nothing is said."""

    users: np.ndarray | None
    items: np.ndarray | None
    user_columns: tuple[str, ...] = ()
    item_columns: tuple[str, ...] = ()
    user_sizes: tuple[int, ...] | None = None
    item_sizes: tuple[int, ...] | None = None

    def by_client(self, partition: Partition) -> np.ndarray | None:
        """float32[N, members, Fu]: what each client knows of its users; zero for padding."""
        if self.users is None:
            return None
        member, most = members_of(partition)
        width = self.users.shape[1]
        found = np.zeros((partition.num_clients, most, width), np.float32)
        found[partition.client_of_user, member] = self.users
        return found


@part
class Features:
    """encode(split) -> `Encoded`."""

    encode: Callable[[Split], Encoded]


def features(
    users: dict[str, Field] | None = None, items: dict[str, Field] | None = None
) -> Features:
    """Which columns of user and item features models read, and how each becomes numbers.

    Args:
        users: field by column of the user features.
        items: field by column of the item features.

    Raises:
        ValueError: for no field at all; when it encodes, naming the column, where data have no such
            column, and as its field.

    Example:
        >>> described = data.features(
        ...     users={"age": data.quantile_bins(4), "gender": data.tokens()},
        ...     items={"genre": data.tokens(), "release_year": data.z_score()},
        ... )
    """
    given = {"users": users or {}, "items": items or {}}
    if not any(given.values()):
        raise ValueError("features() names no column; give users={'age': quantile_bins(4)}.")
    for role, fields in given.items():
        refuse_uncalled("features", role, fields)

    def encode(split: Split) -> Encoded:
        found, train = split.interactions, split.part == TRAIN
        trains = [
            np.bincount(ids[train], minlength=size) > 0
            for ids, size in ((found.users, found.num_users), (found.items, found.num_items))
        ]
        tables = found.user_features, found.item_features
        users, items = (
            _encoded(role, fields, table, used, found.name)
            for (role, fields), table, used in zip(given.items(), tables, trains, strict=True)
        )
        return Encoded(users[0], items[0], users[1], items[1], users[2], items[2])

    return Features(encode)


def _encoded(
    role: str, fields: Mapping[str, Field], table: pl.DataFrame | None, trains: np.ndarray, name
) -> tuple[np.ndarray | None, tuple[str, ...], tuple[int, ...] | None]:
    """(values, names of columns, columns of each field)."""
    if not fields:
        return None, (), None
    known = [] if table is None else table.columns
    columns, blocks = [], []
    for column, field in fields.items():
        if table is None or column not in known:
            raise ValueError(
                f"features({role}: {column!r}): '{name}' has no such feature of {role}"
                f"{nearest(column, known)}; use one of "
                f"{', '.join(known) or 'data that have some'}."
            )
        labels, block = field.encode(table[column], trains, f"features({role}: {column!r})")
        columns += [f"{column}: {label}" if label else column for label in labels]
        blocks.append(block)
    return np.concatenate(blocks, 1), tuple(columns), tuple(x.shape[1] for x in blocks)
