"""Digests: which data a run is made of, in twelve digits each.

A name says where data came from, and a folder of that name may hold others tomorrow. `digests`
reads what training and tests read: who is called what, which row is in which part, and who holds
whom.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from .examples import Examples
from .partition import Partition
from .splits import Split

CATALOGUE, ROWS = "catalogue of users and items", "data set"  # as messages call them


def digests(split: Split, partition: Partition) -> dict[str, str]:
    """Which data a run is made of, in twelve hexadecimal digits each.

    Args:
        split: what trains and tests.
        partition: who holds whom.

    Returns:
        By `CATALOGUE`, the ids of users and items, in order, to whom rows of tables and the state
        of clients belong; by `ROWS`, these, every interaction with its part, and the clients.

    Example:
        >>> told = data.digests(split, data.by_user()(split))
    """
    data = split.interactions
    names = {"users": data.user_names, "items": data.item_names}
    rows = {
        **names, "user": data.users, "item": data.items, "rating": data.ratings,
        "part": split.part, "absent": split.absent, "client": partition.client_of_user,
    }  # fmt: skip
    return {CATALOGUE: _digest(names), ROWS: _digest(rows)}


def digests_of_examples(found: Examples) -> dict[str, str]:
    """`digests` of labelled examples, whose rows and clients have numbers and no names.

    Args:
        found: the record.

    Returns:
        By `CATALOGUE`, how many rows and clients there are, so that what is learned of some prompts
        may go on with others of the same users; by `ROWS`, everything.

    Example:
        >>> told = data.digests_of_examples(clicks)
    """
    sizes = np.array([found.num_rows, found.num_clients])
    fields = {f"field {name}": x for name, x in found.fields.items()}
    rows = {**fields, "client": found.client, "part": found.part, "sizes": sizes}
    return {CATALOGUE: _digest({"sizes": sizes}), ROWS: _digest(rows)}


def _digest(arrays: Mapping[str, np.ndarray | None]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes."""
    sum_ = hashlib.sha256()
    for name, x in sorted(arrays.items()):
        if x is None:
            continue
        x = np.asarray(x)
        if x.dtype.kind in "OU":  # the width of a column of text is that of its longest
            x = np.frombuffer("\0".join(map(str, x.tolist())).encode(), np.uint8)
        sum_.update(f"{name} {x.dtype} {x.shape};".encode())
        sum_.update(np.ascontiguousarray(x).data)
    return sum_.hexdigest()[:12]
