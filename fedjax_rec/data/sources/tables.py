"""Delimited text: read millions of rows fast, and name the line when one is wrong.

`interaction_table` reads with polars, all fields as text, and converts whole columns; only when
that fails is the offending line looked up. `feature_rows` is for the small files that describe
users and items: plain Python, strict about each line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import polars as pl

from ..ids import MISSING

NAMES = {"\t": "tab", ",": "comma", "|": "'|'", "::": "'::'", ":": "':'"}


def interaction_table(
    path: Path,
    fields: Sequence[str],
    numbers: Sequence[str],
    required: Sequence[str],
    separator: str,
    skip: int,
) -> pl.DataFrame:
    """The `required` columns of a file with one row a line: text as String, those in `numbers` as
    Float64.

    `fields` names all columns in order, `skip` counts header lines. Raises FileNotFoundError, and
    ValueError with path and line for a row with other than len(fields) fields, an empty required
    field or a bad number.
    """
    exists(path)
    # Polars splits at one byte: '::' becomes ':' with an empty column between each two.
    columns = list(fields)
    if separator == "::":
        columns = [name for field in fields for name in (field, f"{field} gap")][:-1]
    try:
        table = pl.read_csv(
            path,
            has_header=False,
            skip_rows=skip,
            separator=separator[0],
            quote_char=None,
            schema=dict.fromkeys(columns, pl.String),
        )
    except pl.exceptions.NoDataError:
        table = pl.DataFrame()
    except pl.exceptions.PolarsError as error:
        _blame_fields(path, fields, separator, skip, str(error).split("\n")[0])
    if table.height == 0:
        raise ValueError(f"{path} holds no interactions; give a file with at least one row.")
    gaps = [c for c in columns if c.endswith(" gap") and table[c].null_count() < table.height]
    if gaps or any(table[c].null_count() for c in (*required, columns[-1])):
        # A short row reads as nulls at its end, so look at the number of fields first.
        _blame_fields(path, fields, separator, skip, None)
        for name in required:
            if table[name].null_count():
                line = skip + 1 + int(table[name].is_null().arg_max() or 0)
                raise ValueError(f"{path}:{line}: {name} is empty; fix or remove the line.")
    table = table.select(required)
    for name in (name for name in required if name not in numbers):
        gap = table[name].is_in(MISSING)
        if gap.any():
            row = int(gap.arg_max() or 0)
            raise ValueError(
                f"{path}:{skip + 1 + row}: {name} '{table[name][row]}' stands for a missing id; "
                "remove the line, or rename the id."
            )
    for name in numbers:
        values = table[name].cast(pl.Float64, strict=False)
        good = values.is_finite().fill_null(False)
        if not good.all():
            row = int((~good).arg_max() or 0)
            raise ValueError(
                f"{path}:{skip + 1 + row}: {name} should be a number, found '{table[name][row]}'; "
                "fix or remove the line."
            )
        table = table.with_columns(values)
    return table


def feature_rows(
    path: Path, fields: Sequence[str], separator: str, skip: int, quoted: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) of a small file; its first field is an id that may occur once.

    Text is UTF-8, or Latin-1 where it is not (the older MovieLens files). `quoted` reads CSV with
    double quotes. Raises FileNotFoundError, and ValueError with path and line.
    """
    lines = read_lines(path)[skip:]
    first_line: dict[str, int] = {}
    for line, text in enumerate(lines, start=skip + 1):
        row = next(csv.reader([text]), []) if quoted else text.split(separator)
        if len(row) != len(fields) or not text:
            _wrong_fields(path, line, fields, separator, text, len(row))
        if not row[0]:
            raise ValueError(f"{path}:{line}: {fields[0]} is empty; fix or remove the line.")
        if row[0] in first_line:
            raise ValueError(
                f"{path}:{line}: {fields[0]} '{row[0]}' is described in line "
                f"{first_line[row[0]]} already; keep one."
            )
        first_line[row[0]] = line
        yield line, row


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends; UTF-8 with or without a mark, else Latin-1."""
    exists(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []


def exists(path: Path) -> None:
    """Raise FileNotFoundError for a missing file, ValueError for an empty one."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; put the file there or name another folder.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; fetch or copy the file again.")


def _wrong_fields(
    path: Path, line: int, fields: Sequence[str], separator: str, text: str, found: int
) -> NoReturn:
    what = f"found {found}" if text else "found an empty line"
    raise ValueError(
        f"{path}:{line}: expected {len(fields)} "
        f"{NAMES.get(separator, repr(separator))}-separated fields "
        f"({', '.join(fields)}), {what}; fix or remove the line."
    )


def _blame_fields(
    path: Path, fields: Sequence[str], separator: str, skip: int, otherwise: str | None
) -> None:
    """Raise for the first line that is not text or has the wrong number of fields; else raise
    `otherwise`, if any.
    """
    with path.open("rb") as file:
        for line, data in enumerate(file, start=1):
            if line <= skip:
                continue
            try:
                text = data.decode().rstrip("\r\n")
            except UnicodeDecodeError:
                raise ValueError(
                    f"{path}:{line}: not UTF-8 text; save the file as UTF-8."
                ) from None
            if text.count(separator) != len(fields) - 1 or not text:
                _wrong_fields(path, line, fields, separator, text, text.count(separator) + 1)
    if otherwise is not None:
        raise ValueError(
            f"{path} cannot be read ({otherwise}); check that it is a {separator!r}-separated "
            "table."
        )
