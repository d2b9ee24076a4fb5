"""A table that a program holds as a frame of polars whose rows know where they stood: frames of
polars and pandas, tables of Arrow, dicts of columns. None of pandas or pyarrow is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Table:
    """frame: columns of text or typed ones. name: of the data. where(row): file and line of a row,
    or what else finds it. headed: whether the columns have names of their own. kinds: types of
    columns whose header says them, as RecBole's `item_id:token`. source: what messages call it."""

    frame: pl.DataFrame
    name: str
    where: Callable[[int], str]
    headed: bool = True
    kinds: Mapping[str, str] = field(default_factory=dict)
    source: str = "table"


def table_of(given: Any, name: str, what: str) -> Table:
    """A frame of polars or pandas, a table of Arrow or a dict of columns. what: of messages.

    Raises ValueError for anything else, and for columns of unequal length.
    """
    if isinstance(given, pl.LazyFrame):
        given = given.collect()
    where = lambda row: f"{name} row {row}"
    if isinstance(given, pl.DataFrame):
        return Table(given, name, where, source=name)
    labels = getattr(given, "column_names", getattr(given, "columns", ()))
    names = [] if callable(labels) else [str(c) for c in labels]
    twice = next((c for c in names if names.count(c) > 1), None)
    if twice is not None:
        raise ValueError(f"{name} has column '{twice}' twice; rename one.")
    if not isinstance(given, Mapping) and hasattr(given, "column_names"):  # of Arrow
        try:
            given = pl.DataFrame(given)
            return Table(given, name, where, source=name)
        except (TypeError, ValueError, pl.exceptions.PolarsError):
            given = {c: given[c].to_pylist() for c in given.column_names}
    columns = given.keys() if isinstance(given, Mapping) else getattr(given, "columns", None)
    if columns is None or isinstance(given, type):
        raise ValueError(
            f"{what}={type(given).__name__} is no table; give the path of a file or folder, a "
            "frame of polars or pandas, a table of Arrow, or a dict of columns."
        )
    held = {str(c): _column(given[c]) for c in columns}
    sizes = {c: len(values) for c, values in held.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{name} has columns of unequal length {sizes}; give one value a row.")
    return Table(pl.DataFrame(held), name, where, source=name)


def _column(values: Any) -> pl.Series:
    """A column of anything; None, NaN and the NA of pandas are missing, mixed types are text."""
    if isinstance(values, pl.Series):
        return values
    if str(getattr(values, "dtype", "")) == "category" and hasattr(values, "astype"):
        values = values.astype(object)
    array = values.to_numpy() if hasattr(values, "to_numpy") else _listed(values)
    if isinstance(array, pl.Series):  # of lists
        return array
    if array.dtype != object:
        return pl.Series(array.astype("datetime64[us]") if array.dtype.kind == "M" else array)
    gap = lambda x: x is None or type(x).__name__ in ("NAType", "NaTType") or x != x
    plain = [None if gap(x) else x for x in array.tolist()]
    kinds = {type(x) for x in plain if x is not None}
    made = pl.Series(plain, strict=False) if len(kinds) <= 1 else None
    if made is not None and made.dtype != pl.Object:  # as periods of pandas are
        return made
    return pl.Series([None if x is None else str(x) for x in plain], dtype=pl.String)


def _listed(values: Any) -> Any:
    """A list as an array, of objects where types differ: NumPy would make text of all of them. A
    list of lists as a column of them."""
    if isinstance(values, np.ndarray):
        return values
    values = list(values)
    kinds = {type(x) for x in values}
    if kinds <= {list, tuple, np.ndarray, type(None)} and kinds:
        return pl.Series([None if x is None else list(x) for x in values])
    return np.array(values, object) if len(kinds) > 1 or kinds & {str} else np.asarray(values)
