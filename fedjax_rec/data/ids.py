"""Ids as data sets write them, and the dense ones 0, 1, ... that arrays are indexed by.

An id is an integer or a text. A column that holds whole numbers only, as integers, as floats (what
a table library makes of a column with a gap) or as text, holds integers: `1`, `1.0` and "1" are one
id. Beside any other text they are text, and "007" is not "7". What stands for a missing value is no
id.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

# What libraries write where there is no value.
MISSING = ("", "nan", "NaN", "NaT", "None", "null", "NULL", "<NA>")
# Only text that is exactly the number, or that with zeros after a point.
_WHOLE = r"^(?:0|-?[1-9][0-9]*)(?:\.0+)?$"


def dense_ids(values: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes int32[n] and the sorted original ids as text, one a code; numbers in their order.

    Raises:
        ValueError: An id is missing, or a number that is not whole; it names the row.
    """
    series = _read(values, what)
    if series.dtype.is_integer():
        return _dense_integers(series.to_numpy())
    names = series.unique().sort()
    if names.is_in(MISSING).any():
        row = int(series.is_in(MISSING).arg_max() or 0)
        raise ValueError(
            f"{what}[{row}] = '{series[row]}' is what stands for a missing id; drop the row, or "
            "rename the id."
        )
    codes = series.cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int32)
    return codes, names.to_numpy().astype(np.str_)


def names_like(values: pl.Series, names: np.ndarray) -> pl.Series:
    """`values` as text, written as `names` of `dense_ids` are: whole numbers are integers where
    those all are."""
    text = values.cast(pl.String)
    if not pl.Series(names).str.contains(_WHOLE).all():
        return text
    whole = text.str.contains(_WHOLE).fill_null(False)
    short = text.str.replace(r"\.0+$", "")
    return pl.select(pl.when(whole).then(short).otherwise(text)).to_series()


def _read(values: Any, what: str) -> pl.Series:
    """Integers where all are whole numbers, else text."""
    series = values if isinstance(values, pl.Series) else _series(values)
    if series.dtype.is_float():
        series = series.fill_nan(None)
    if series.null_count():
        row = int(series.is_null().arg_max() or 0)
        raise ValueError(f"{what}[{row}] is missing; give an id for each row.")
    if series.dtype.is_float():
        wrong = ~(series.is_finite() & (series == series.floor()) & (series.abs() < 2.0**63))
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise ValueError(
                f"{what}[{row}] = {series[row]} is no whole number; give integers or text."
            )
        return series.cast(pl.Int64)
    if series.dtype.is_integer():
        return series
    series = series.cast(pl.String)
    if series.str.contains(_WHOLE).all():
        numbers = series.str.replace(r"\.0+$", "").cast(pl.Int64, strict=False)
        if not numbers.null_count():
            return numbers
    return series


def _series(values: Any) -> pl.Series:
    array = np.asarray(values)
    if array.dtype != object:
        return pl.Series(array)
    gap = lambda x: x is None or (isinstance(x, float) and np.isnan(x)) or str(x) in MISSING
    return pl.Series([None if gap(x) else str(x) for x in array.tolist()], dtype=pl.String)


def _dense_integers(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low, high = int(ids.min()), int(ids.max())
    if high - low > 4 * len(ids) + 1_000_000:  # too sparse for a table over the range
        names, codes = np.unique(ids, return_inverse=True)
        return codes.astype(np.int32), names.astype(np.str_)
    if ids.dtype != np.uint64:
        ids = ids.astype(np.int64)  # differences of narrow types overflow
    place = (ids - ids.dtype.type(low)).astype(np.int64)
    seen = np.zeros(high - low + 1, bool)
    seen[place] = True
    codes = (np.cumsum(seen, dtype=np.int32) - 1)[place]
    names = [str(low + int(x)) for x in np.flatnonzero(seen)]  # sums beyond int64 are names too
    return codes, np.array(names, np.str_)
