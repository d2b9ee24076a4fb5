"""A file as a table whose rows know where they stood.

Text with any separator, plain or in gz or zip, UTF-8, UTF-16 or Latin-1, with a header or without;
Parquet, Arrow (Feather) and lines of JSON. Of text every column is read as text, so that an id
stays as it is written.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import polars as pl

from . import tables
from .columns import by_position, is_usual
from .frames import Table
from .rows_of_lists import TYPES

TEXT = (".csv", ".tsv", ".txt", ".tab", ".data", ".dat", ".inter", ".base", ".test")
BINARY = {
    ".parquet": pl.read_parquet, ".pq": pl.read_parquet, ".feather": pl.read_ipc,
    ".arrow": pl.read_ipc, ".ipc": pl.read_ipc,
}  # fmt: skip
LINES = (".jsonl", ".ndjson", ".json")
PACKED = (".gz", ".zip")
SEPARATORS = ("\t", "::", ";", ",", "|", " ")


def file_table(path: Path, separator: str | None = None, header: bool | None = None) -> Table:
    """What a file holds. separator, header: of text, None to judge by its first lines.

    Raises FileNotFoundError, and ValueError, with the line where there is one.
    """
    tables.exists(path)
    name, kind = _stem(path)
    try:
        data, inner = _bytes(path)
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be unpacked ({error}); fetch or copy it again.") from None
    kind = Path(inner).suffix.lower() if inner else kind
    if not data.strip():
        raise ValueError(f"{path} is empty; fetch or copy the file again.")
    where = lambda row: f"{path} row {row}"
    try:
        if kind in BINARY and separator is None:
            stream = BINARY[kind] is pl.read_ipc and data[:6] != b"ARROW1"  # as libraries send it
            found = (pl.read_ipc_stream if stream else BINARY[kind])(io.BytesIO(data))
            return _some(Table(found, name, where, source=str(path)), path)
        if kind in LINES and separator is None:
            listed = data.lstrip()[:1] == b"["  # one array, and not an object a line
            found = (pl.read_json if listed else pl.read_ndjson)(
                io.BytesIO(data), infer_schema_length=None
            )
            if not listed and found.height == 1 and set(map(type, found.dtypes)) == {pl.List}:
                found = found.explode(found.columns)  # one object, of columns
            return _some(
                Table(found, name, lambda row: f"{path}:{row + 1}", source=str(path)), path
            )
    except pl.exceptions.PolarsError as error:
        first = str(error).split("\n")[0]
        raise ValueError(f"{path} is no whole {kind[1:]} file ({first}); write it again.") from None
    if kind and kind not in TEXT and separator is None:
        known = ", ".join((*TEXT, *BINARY, *LINES[:1]))
        raise ValueError(
            f"{path} has the unknown extension '{kind}'; save it as CSV or Parquet ({known}; .gz "
            "or .zip around them), or say that it is text, separator=','."
        )
    return _text(path, name, data, separator, header, kind)


def _text(
    path: Path, name: str, data: bytes, separator: str | None, header: bool | None, kind: str
) -> Table:
    data = _utf8(data, path).rstrip(b"\r\n ")
    if b"\r" in data and b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    data, above = _without_remarks(data)
    sample = data[:65536].decode("utf-8", "ignore").splitlines()[:50]
    sample = sample[:-1] if len(data) > 65536 and len(sample) > 1 else sample
    if not sample:
        raise ValueError(f"{path} holds no interactions; give a file with at least one row.")
    if separator is None:
        separator = "\t" if kind in (".tsv", ".inter") else _separator(sample)
    elif not separator or (len(separator) > 1 and separator not in ("::", "\\t")):
        raise ValueError(f"separator={separator!r} is none; use one character, or '::'.")
    separator = "\t" if separator == "\\t" else separator
    if separator == "::":
        data, sample = data.replace(b"::", b"\x1f"), [x.replace("::", "\x1f") for x in sample]
        separator = "\x1f"
    # Tabs and '::' come without quotes: a title may hold a lone one.
    quote = '"' if separator in (",", ";", "|", " ") and b'"' in data else None
    if separator == " " and quote is None and (b"  " in data or b"\n " in data):  # in columns
        data = re.sub(rb"(?m)^ +| +$", b"", re.sub(rb" +", b" ", data))
        sample = [" ".join(x.split()) for x in sample]
    cells = lambda line: _cells(line, separator, quote)
    first = cells(sample[0])
    if header is None:
        second = cells(sample[1]) if len(sample) > 1 else []
        header = kind == ".inter" or _is_header(first, second)
    kinds: dict[str, str] = {}
    if header:
        columns = [x.strip() for x in first]
        if all(x.rpartition(":")[2] in TYPES for x in columns):
            kinds = {x.partition(":")[0]: x.rpartition(":")[2] for x in columns}
            columns = [x.partition(":")[0] for x in columns]
        twice = next((x for x in columns if columns.count(x) > 1), None)
        if twice is not None:
            raise ValueError(f"{path}:1: column '{twice}' is there twice; rename one.")
        columns = [x or f"column {i}" for i, x in enumerate(columns)]
    else:
        late = len(first) == 3 and all(_number(cells(x)[2:3]) > 1e8 for x in sample)
        columns = by_position(len(first), late, str(path))
    # Where a line is a record, lines are counted without the text.
    where = lambda row: f"{path}:{row + int(header) + 1 + above}"
    if quote is not None:
        where = lambda row: f"{path}:{_line(data, separator, quote, row + header) + above}"
    try:
        frame = pl.read_csv(
            data, has_header=False, skip_rows=int(header), separator=separator, quote_char=quote,
            schema=dict.fromkeys(columns, pl.String), low_memory=False,
        )  # fmt: skip
    except pl.exceptions.NoDataError:
        frame = pl.DataFrame()
    except pl.exceptions.PolarsError as error:
        frame = _blamed(path, data, separator, quote, columns, error, above)
    if separator != " " and _is_padded(data, separator):  # which is no part of what is written
        frame = frame.with_columns(pl.all().str.strip_chars(" "))
    return _some(Table(frame, name, where, bool(header), kinds, str(path)), path)


def _blamed(path: Path, data: bytes, separator: str, quote, columns: list[str], error, above: int):
    """Raises for the first row with more fields than there are columns, else for `error`."""
    for line, row in _rows(data, separator, quote):
        if len(row) > len(columns):
            raise ValueError(
                f"{path}:{line + above}: expected {len(columns)} fields ({', '.join(columns)}), "
                f"found {len(row)}; fix or remove the line, or say the separator, separator=."
            )
    first = str(error).split("\n")[0]
    raise ValueError(f"{path} cannot be read ({first}); check its quotes and separator.")


def _without_remarks(data: bytes) -> tuple[bytes, int]:
    """Text without the lines above it that begin with % or #, as KONECT and SNAP write them, and
    how many those are. Usual names after such a sign are a header, as NumPy writes it, and stay."""
    above = 0
    while data[:1] in (b"%", b"#"):
        line, _, rest = data.partition(b"\n")
        words = line.decode("utf-8", "ignore").lstrip("#% ")
        if all(is_usual(x) for x in re.split(r"[\t,;|: ]+", words)[:2]):
            return words.encode() + b"\n" + rest, above
        data, above = rest, above + 1
    return data, above


def _is_padded(data: bytes, separator: str) -> bool:
    """Whether there are spaces beside separators, or at the ends of lines."""
    mark = separator.encode()
    return any(x in data for x in (mark + b" ", b" " + mark, b"\n ", b" \n"))


def _line(data: bytes, separator: str, quote: str, record: int) -> int:
    """The line, from 1, at which a record (the header is one) begins; texts in quotes may hold
    line ends."""
    before = 1
    for index, (line, _) in enumerate(_rows(data, separator, quote)):
        if index == record:
            return before
        before = line + 1
    return record + 1


def _rows(data: bytes, separator: str, quote: str | None):
    text = io.StringIO(data.decode(), newline="")
    style = csv.QUOTE_NONE if quote is None else csv.QUOTE_MINIMAL
    reader = csv.reader(text, delimiter=separator, quoting=style, quotechar=quote or '"')
    for row in reader:
        yield reader.line_num, row


def _cells(line: str, separator: str, quote: str | None) -> list[str]:
    if quote is None:
        return line.split(separator)
    return next(csv.reader([line], delimiter=separator, quotechar=quote), [""])


def _separator(lines: list[str]) -> str:
    """The separator that gives all lines one number of fields, the largest; else the one that gives
    the first line most."""

    def fields(s: str) -> list[int]:
        if s == " ":
            return [len(x.split() if '"' not in x else _cells(x, s, '"')) for x in lines if x]
        if len(s) > 1:
            return [len(x.split(s)) for x in lines if x]
        return [len(_cells(x, s, '"')) for x in lines if x]

    counts = {s: fields(s) for s in SEPARATORS}
    even = {s: c[0] for s, c in counts.items() if c[0] > 1 and len(set(c)) == 1}
    found = even or {s: c[0] for s, c in counts.items() if c[0] > 1}
    return max(found, key=lambda s: found[s]) if found else ","


def _is_header(first: list[str], second: list[str]) -> bool:
    """Whether names stand in the first line: usual ones, or no number over a number."""
    if any(is_usual(x) for x in first):
        return True
    numbers = [_number([x]) == _number([x]) for x in first]
    below = [_number([x]) == _number([x]) for x in second]
    return not any(numbers) and any(below)


def _number(cell: list[str]) -> float:
    try:
        return float(cell[0]) if cell else np.nan
    except ValueError:
        return np.nan


def _utf8(data: bytes, path: Path) -> bytes:
    """Text as UTF-8 without a mark: UTF-16 where it says so, Latin-1 where it is no UTF-8."""
    try:
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            return data.decode("utf-16").encode()
        data = data.removeprefix(b"\xef\xbb\xbf")
        if not data.isascii():
            data.decode()
        return data
    except UnicodeDecodeError:
        if b"\0" in data:
            raise ValueError(f"{path} is no text; save it as CSV in UTF-8.") from None
        return data.decode("latin-1").encode()


def _bytes(path: Path) -> tuple[bytes, str]:
    """What a file holds, unpacked, and the name of the file in a zip."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data), ""
    if path.suffix.lower() != ".zip":
        return data, ""
    with zipfile.ZipFile(io.BytesIO(data)) as pack:
        names = [x for x in pack.namelist() if Path(x).suffix.lower() in (*TEXT, *BINARY, *LINES)]
        names = [x for x in names if "__MACOSX" not in x]
        if len(names) != 1:
            raise ValueError(
                f"{path} holds {len(names)} tables ({', '.join(names[:5])}); unpack it and name "
                "one file."
            )
        return pack.read(names[0]), names[0]


def _stem(path: Path) -> tuple[str, str]:
    """The name without what says how it is written, and the extension in lower case."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.stem, inner.suffix.lower()


def _some(table: Table, path: Path) -> Table:
    if not table.frame.height:
        raise ValueError(f"{path} holds no interactions; give a file with at least one row.")
    return table
