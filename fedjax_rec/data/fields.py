"""How one column of user or item features becomes numbers that a model reads.

A field maps the cells of a column to columns of float32, with statistics of the rows that train:

    tokens          one column a label, 1 / L in those of a row's L labels       (a bag)
    equal_width     one column a bin, of equal width from the least to the most value
    quantile_bins   one column a bin, of about as many rows each
    min_max         (x - min) / (max - min), cut to [0, 1]
    z_score         (x - mean) / std

so that, with a vector for each column, a row times the table is the mean of its labels' vectors, a
bin's vector, or x times one vector. What is missing is said by `missing`: "own" gives it a column
of its own, "mean" makes a number the mean, "refuse" is an error. A label that no row of the
training part has is missing; without any label that has, so is the row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from ..check import at_least, one_of
from ..made import part
from .categories import labels_of

OWN, MEAN, REFUSE = "own", "mean", "refuse"


@part
class Field:
    """encode(values [n], trains bool[n], where) -> (names of its columns, float32[n, columns]).
    where: what messages call the column."""

    encode: Callable[[pl.Series, np.ndarray, str], tuple[list[str], np.ndarray]]


def tokens(separator: str | None = None, missing: str = OWN) -> Field:
    """A column for each label, such as a gender or a genre, of which a row may have several.

    Args:
        separator: between the labels of a cell; None as in `data.categories`. Give "" for texts
            that are one label each, whatever signs they hold.
        missing: "own", a column for it, or "refuse".

    Raises:
        ValueError: for another `missing`; when it encodes, where something is missing and refused.

    Example:
        >>> described = data.features(users={"occupation": data.tokens()})
    """
    one_of("tokens", "missing", missing, (OWN, REFUSE))

    def encode(values, trains, where):
        cells = labels_of(values, separator) if separator != "" else _whole(values)
        known = sorted({x for one, used in zip(cells, trains, strict=True) if used for x in one})
        place = {name: i for i, name in enumerate(known)}
        table = np.zeros((len(cells), len(known)), np.float32)
        for row, one in enumerate(cells):
            mine = [place[name] for name in one if name in place]
            table[row, mine] = 1 / max(len(mine), 1)
        return _with_missing(known, table, np.asarray(table.any(1)), missing, where)

    return Field(encode)


def equal_width(bins: int = 10, missing: str = OWN) -> Field:
    """A column for each of `bins` intervals of equal width between the least and the most number of
    the training part; numbers beyond are of the outermost.

    Args:
        bins: at least 1; empty ones have a column that is zero.
        missing: "own", "mean" or "refuse".

    Raises:
        ValueError: for bins < 1 and another `missing`; when it encodes, for a cell that is no
            number, and where something is missing and refused.

    Example:
        >>> described = data.features(users={"age": data.equal_width(5)})
    """
    return _binned("equal_width", bins, missing, lambda x: np.linspace(x.min(), x.max(), bins + 1))


def quantile_bins(bins: int = 10, missing: str = OWN) -> Field:
    """A column for each of `bins` intervals that hold about as many rows of the training part each;
    fewer where many rows have one number.

    Args:
        bins: at least 1.
        missing: "own", "mean" or "refuse".

    Raises:
        ValueError: as `equal_width`.

    Example:
        >>> described = data.features(users={"age": data.quantile_bins(4)})
    """
    levels = np.linspace(0, 1, bins + 1) if bins >= 1 else []
    return _binned("quantile_bins", bins, missing, lambda x: np.unique(np.quantile(x, levels)))


def min_max(missing: str = MEAN) -> Field:
    """One column, (x - min) / (max - min) of the training part, cut to [0, 1]; 0 where all are
    alike.

    Args:
        missing: "mean", "own" (a second column, 1 where it is missing and the first is 0) or
            "refuse".

    Raises:
        ValueError: for another `missing`; when it encodes, for a cell that is no number, and where
            something is missing and refused.

    Example:
        >>> described = data.features(items={"release_year": data.min_max()})
    """

    def scaled(x, used):
        low, high = used.min(), used.max()
        return np.clip((x - low) / (high - low), 0, 1) if high > low else 0.0 * x

    return _scaled("min_max", missing, scaled)


def z_score(missing: str = MEAN) -> Field:
    """One column, (x - mean) / std of the training part; 0 where all are alike.

    Args:
        missing: "mean", "own" or "refuse".

    Raises:
        ValueError: as `min_max`.

    Example:
        >>> described = data.features(items={"release_year": data.z_score()})
    """

    def scaled(x, used):
        return (x - used.mean()) / used.std() if used.std() > 0 else 0.0 * x

    return _scaled("z_score", missing, scaled)


def _binned(name: str, bins: int, missing: str, edges_of: Callable) -> Field:
    at_least(name, "bins", bins, 1)
    one_of(name, "missing", missing, (OWN, MEAN, REFUSE))

    def encode(values, trains, where):
        x, there = _numbers(values, where)
        used = _used(x, there & trains, where)
        edges = edges_of(used)
        if missing == MEAN:
            x, there = np.where(there, x, used.mean()), np.ones_like(there)
        inner = edges[1:-1]
        table = np.eye(len(inner) + 1, dtype=np.float32)[np.searchsorted(inner, x, side="right")]
        ends = [*inner, edges[-1]]
        names = [f"{low:g} to {high:g}" for low, high in zip([edges[0], *inner], ends, strict=True)]
        return _with_missing(names, table * there[:, None], there, missing, where)

    return Field(encode)


def _scaled(name: str, missing: str, scaled: Callable) -> Field:
    one_of(name, "missing", missing, (OWN, MEAN, REFUSE))

    def encode(values, trains, where):
        x, there = _numbers(values, where)
        used = _used(x, there & trains, where)
        table = scaled(np.where(there, x, used.mean()), used)
        if missing == MEAN:
            there = np.ones_like(there)
        table = np.where(there, table, 0).astype(np.float32)[:, None]
        return _with_missing([""], table, there, missing, where)

    return Field(encode)


def _numbers(values: pl.Series, where: str) -> tuple[np.ndarray, np.ndarray]:
    """(float64[n], 0 where missing; bool[n], which are there). Raises ValueError for a text that is
    no number."""
    cast = values.cast(pl.Float64, strict=False) if not values.dtype.is_nested() else values
    if cast.dtype != pl.Float64 or cast.null_count() > values.null_count():
        bad = values.filter(values.is_not_null() & cast.is_null())
        shown = repr(bad[0]) if len(bad) else f"of type {values.dtype}"
        raise ValueError(f"{where}: {shown} is no number; use tokens, or fix the cell.")
    x = cast.fill_null(float("nan")).to_numpy()
    there = np.isfinite(x)
    return np.where(there, x, 0.0), there


def _used(x: np.ndarray, which: np.ndarray, where: str) -> np.ndarray:
    if not which.any():
        raise ValueError(f"{where}: no row of the training part has a number; leave it out.")
    return x[which]


def _whole(values: pl.Series) -> list[list[str]]:
    return [[] if one in (None, "") else [one] for one in values.cast(pl.String)]


def _with_missing(
    names: list[str], table: np.ndarray, there: np.ndarray, missing: str, where: str
) -> tuple[list[str], np.ndarray]:
    if missing == OWN:
        column = (~there).astype(np.float32)[:, None]
        return [*names, "missing"], np.concatenate([table, column], 1)
    if missing == REFUSE and not there.all():
        raise ValueError(
            f"{where}: {int((~there).sum())} of {len(there)} are missing; fill them in, or use "
            'missing="own".'
        )
    return names, table
