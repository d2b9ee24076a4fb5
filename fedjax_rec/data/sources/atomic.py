r"""RecBole's atomic files, the exchange format of the field: `NAME.inter`, `NAME.item`,
`NAME.user`.

Tab-separated text, the first line a typed header such as
`user_id:token\titem_id:token\ttimestamp:float`. Types: `token` (one id or label), `token_seq`
(labels with spaces between), `float`, `float_seq` (Zhao et al. 2021, "RecBole", CIKM;
https://recbole.io/docs/user_guide/data/atomic_files.html).
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from fedjax_rec.data.interactions import Interactions, from_arrays
from fedjax_rec.data.sources import tables
from fedjax_rec.data.sources.rows_of_lists import TYPES


def read_atomic(folder: str | Path, name: str | None = None) -> Interactions:
    """Read `folder/name.inter` and, where present, `name.user` and `name.item`; `name` is the
    folder's by default.

    Used columns: `user_id`, `item_id`, `timestamp` (without it the rows are taken in time order)
    and `rating` (without it the data is implicit). Features keep their names: `float` becomes
    Float64, `float_seq` List(Float64), the others String (a `token_seq` as written). Only users and
    items that occur are kept. Raises FileNotFoundError, or ValueError with path and line.
    """
    folder = Path(folder)
    name = folder.name if name is None else name
    path = folder / f"{name}.inter"
    header = _header(path, ("user_id", "item_id"))
    numbers = [field for field in ("timestamp", "rating") if field in header]
    used = ["user_id", "item_id", *numbers]
    rows = tables.interaction_table(path, list(header), numbers, used, separator="\t", skip=1)
    return from_arrays(
        name,
        rows["user_id"],
        rows["item_id"],
        times=rows["timestamp"] if "timestamp" in numbers else None,
        ratings=rows["rating"] if "rating" in numbers else None,
        user_features=features_of(folder / f"{name}.user", "user_id"),
        item_features=features_of(folder / f"{name}.item", "item_id"),
    )


def _header(path: Path, needed: tuple[str, ...]) -> dict[str, str]:
    """Field to type, from the first line."""
    tables.exists(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline().rstrip("\r\n")
    header = {}
    for entry in line.split("\t"):
        field, _, kind = entry.partition(":")
        if kind not in TYPES or field in header:
            raise ValueError(
                f"{path}:1: expected a header of name:type fields (type one of "
                f"{', '.join(TYPES)}), found '{entry}'; "
                "add or fix the header."
            )
        header[field] = kind
    for field in needed:
        if field not in header:
            raise ValueError(
                f"{path}:1: column '{field}' is missing among {', '.join(header)}; add it or "
                "rename one."
            )
    return header


def features_of(path: Path, key: str) -> pl.DataFrame | None:
    if not path.is_file():
        return None
    header = _header(path, (key,))
    # The id goes first, so that the reader can watch for ids described twice.
    fields = list(header)
    if fields[0] != key:
        raise ValueError(f"{path}:1: the first column is '{fields[0]}'; put '{key}' first.")
    lines, rows = [], []
    for line, row in tables.feature_rows(path, fields, "\t", skip=1):
        lines.append(line)
        rows.append(row)
    table = pl.DataFrame(rows, schema=dict.fromkeys(fields, pl.String), orient="row")
    table = table.with_columns(pl.col(fields[1:]).replace("", None)) if fields[1:] else table
    for field, kind in header.items():
        if kind in ("token", "token_seq"):
            continue
        text = table[field]
        values = text.str.split(" ") if kind == "float_seq" else text
        values = values.cast(
            pl.List(pl.Float64) if kind == "float_seq" else pl.Float64, strict=False
        )
        bad = (
            values.list.eval(pl.element().is_null()).list.any()
            if kind == "float_seq"
            else values.is_null()
        ) & (text.is_not_null())
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise ValueError(
                f"{path}:{lines[row]}: {field} should be of type {kind}, found '{text[row]}'; "
                "fix or remove the line."
            )
        table = table.with_columns(values.alias(field))
    return table
