"""Rows that hold a sequence, as RecBole's `_seq` fields do, to one row an interaction.

A row has a user and a list of items, and often the item that came next (`item_id_list:token_seq`,
`item_id:token`); with lists of times and ratings beside them each has its own. Sets for training
often repeat a history with each of its beginnings: what of a row continues, ends or begins what is
known of its user adds only what is new.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from ..splits import TEST, UNUSED, VALIDATION

if TYPE_CHECKING:
    from .frames import Table

TYPES = ("token", "token_seq", "float", "float_seq")
PART = "part of a row"  # of interactions that came out of lists


def lists_of(table: Table) -> list[str]:
    """Columns that hold a list in each row."""
    of_type = lambda c: table.kinds.get(c, "").endswith("_seq")
    return [c for c in table.frame.columns if of_type(c) or table.frame[c].dtype == pl.List]


def item_list(table: Table, item: Any = None) -> str | None:
    """The column that holds lists of items; None where each row is an interaction."""
    lists = lists_of(table)
    if item in lists:
        return item
    named = lambda c: c.lower().startswith(("item", "movie", "asin", "product", "news"))
    return next((c for c in lists if item is None and named(c)), None)


def unrolled(
    table: Table, user: str, items: str, target: str | None, parts: np.ndarray | None = None
) -> Table:
    """One row an interaction, in the order of the sequence: columns `user`, `item`, and, where
    there are lists of them, `time` and `rating`, and PART, of a split.

    Args:
        table: with a sequence a row.
        user: its column of users; `items` that of the lists, `target` that of the items that came
            next, or None.
        items: see `user`.
        target: see `user`.
        parts: of a split, one a row: what rows to test by list as known and was not known yet
            trains in none, so it is UNUSED.

    Raises:
        ValueError: for a list of times or ratings of another length than that of items.
    """
    frame = table.frame
    listed = lambda c: _lists(frame[c])
    sequences = listed(items)
    beside = {}
    for role, words in (("time", ("time", "date")), ("rating", ("rating", "score", "star"))):
        column = next(
            (c for c in lists_of(table) if c != items and c.lower().startswith(words)), None
        )
        if column is not None:
            beside[role] = (listed(column), column)
            single = column.removesuffix("_list")
            last = frame[single].to_list() if single != column and single in frame.columns else None
            beside[role] += (last,)
    users = frame[user].to_list()
    targets = [None] * len(users) if target is None else frame[target].to_list()
    known: dict[Any, list] = {}
    rows: list[int] = []
    out: dict[str, list] = {"user": [], "item": [], PART: [], **{role: [] for role in beside}}
    for row, (one, sequence, following) in enumerate(zip(users, sequences, targets, strict=True)):
        for role, (values, column, _) in beside.items():
            if len(values[row]) != len(sequence):
                raise ValueError(
                    f"{table.where(row)}: {column} has {len(values[row])} values for "
                    f"{len(sequence)} items of {items}; give one {role} an item."
                )
        whole = sequence if following is None else [*sequence, following]
        before = known.setdefault(one, [])
        for place in range(_first_new(before, sequence, whole), len(whole)):
            rows.append(row)
            out["user"].append(one)
            out["item"].append(whole[place])
            known_only = following is not None and place < len(sequence)
            out[PART].append(_part(None if parts is None else int(parts[row]), known_only))
            for role, (values, _, last) in beside.items():
                inside = place < len(sequence)
                out[role].append(values[row][place] if inside else last[row] if last else None)
            before.append(whole[place])
    schema = {name: pl.Int8 if name == PART else pl.String for name in out}
    made = pl.DataFrame(
        {k: v if k == PART else [None if x is None else str(x) for x in v] for k, v in out.items()},
        schema=schema,
    )
    for role, (_, _, last) in beside.items():
        if target is not None and last is None:  # what came next has none
            made = made.drop(role)
    origin = np.array(rows)
    return replace(table, frame=made, where=lambda row: table.where(int(origin[row])), kinds={})


def _part(part: int | None, known_only: bool) -> int | None:
    """Of an interaction that came out of a row of this part."""
    return UNUSED if known_only and part in (VALIDATION, TEST) else part


def _first_new(before: list, sequence: list, whole: list) -> int:
    """The place in `whole` from which on it says something new of a user."""
    if whole == before[: len(whole)]:
        return len(whole)
    if before == whole[: len(before)]:
        return len(before)
    if sequence and before[-len(sequence) :] == sequence:
        return len(sequence)
    return 0


def _lists(values: pl.Series) -> list[list]:
    if values.dtype == pl.List:
        return [x or [] for x in values.to_list()]
    return [x.split() if x else [] for x in values.cast(pl.String).to_list()]
