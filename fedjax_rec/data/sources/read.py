"""A file, a folder or a table of somebody's own in, `Interactions` out: one way for all of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from ..interactions import Interactions, with_features
from .columns import USUAL, taken
from .files import file_table
from .folders import ratings_in, read_folder, read_inter
from .frames import Table, table_of
from .judged import judged, rolled_out, whole
from .movielens import beside, has_official_header, read_movielens


def read(
    source: Any,
    user: str | int | None = None,
    item: str | int | None = None,
    rating: str | int | None = None,
    time: str | int | None = None,
    split: str | int | None = None,
    separator: str | None = None,
    header: bool | None = None,
    time_format: str | None = None,
    name: str | None = None,
    user_features: Any = None,
    item_features: Any = None,
    drop: bool = False,
    say: Callable[[str], Any] | None = None,
) -> Interactions:
    """Interactions of a file, a folder or a table: a row is an interaction, or a sequence of them.

    Files are text with any separator (CSV, TSV, `::`), Parquet, Arrow or lines of JSON; text may be
    in gz or zip, in UTF-8, UTF-16 or Latin-1. Folders are RecBole's atomic files, split or not, or
    the official MovieLens files. Tables are frames of polars and pandas, tables of Arrow, and dicts
    of columns. Columns that are not named are found by their usual names, and said. Ids stay as
    they are written; numbers of time stay in their unit, dates become seconds since 1970 in UTC.

    Args:
        source: a path, or a table.
        user: the column, by its name or its place from 0.
        item: likewise.
        rating: likewise; "" for none.
        time: likewise; "" for none, where rows come in time order.
        split: the column that says train, valid or test, for `as_given`.
        separator: of text, one character or "::"; None to judge by the first lines.
        header: whether text has one; None to judge. Without one, columns are user, item, rating and
            time, in this order.
        time_format: of dates, e.g. "%d/%m/%Y"; None to judge.
        name: what tables and errors call the data; by default the file's.
        user_features: a path or a table with a column of users, for what is known of them.
        item_features: likewise of items, e.g. with a column `title`.
        drop: leave rows out that are no interactions (a missing id, what is no number, a time
            before 1970 or after 2100), and say how many, in place of an error.
        say: is told in a line which columns were taken; None says it on standard error.

    Raises:
        FileNotFoundError: for a path that is not there.
        ValueError: with file and line, for what cannot be read.

    Example:
        >>> table = {"userId": ["ann", "ann", "bob"], "movieId": [7, 9, 7], "stars": [4, 5, 1]}
        >>> found = data.read(table, say=lambda line: None)
    """
    say = _on_stderr if say is None else say
    asked = {"user": user, "item": item, "rating": rating, "time": time, "split": split}
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        typed = separator is None and header is None  # as the file itself says
        if path.is_dir() and (ratings := ratings_in(path)) is not None:
            path, name = ratings, name or path.name
        if path.is_dir():
            if not typed:
                raise ValueError(
                    f"{path} is a folder, and separator= and header= are of a file; name the file."
                )
            found = read_folder(path, None, asked, say, drop, time_format)
            found = replace(found, name=name or found.name)
            return _described(found, user_features, item_features)
        if not path.exists():
            raise FileNotFoundError(f"data source {path} does not exist; check the path.")
        official = has_official_header(path)
        as_is = typed and not drop and all(x is None for x in (*asked.values(), time_format))
        if official and as_is:
            found = read_movielens(path.parent, name, path.name)
            return _described(found, user_features, item_features)
        if path.suffix == ".inter" and typed:
            found = read_inter(path, asked, say, drop, time_format)
            return _described(replace(found, name=name or found.name), user_features, item_features)
        table = file_table(path, separator, header)
        features = beside(path.parent) if official else (None, None)
        place = str(path)
    else:
        table = table_of(source, name or "table", "read(source)")
        features, place = (None, None), table.name
    table = replace(rolled_out(table, asked), name=name or table.name)
    found = judged(table, asked, time_format)
    del table  # whose texts are no longer needed
    if not drop:
        whole(found, drop, say, place)
    if found.guessed:
        say(f"{place}: {found.told()}; name others with user=, item=, rating=, time=.")
    if drop:
        whole(found, drop, say, place)
    return _described(found.interactions(features), user_features, item_features)


def _described(found: Interactions, user_features: Any, item_features: Any) -> Interactions:
    """`found` with features from other tables."""
    users = _features("user", user_features)
    items = _features("item", item_features)
    return found if users is None and items is None else with_features(found, users, items)


def _features(role: str, source: Any) -> pl.DataFrame | None:
    """What is known of users or items, the column of ids called as `from_arrays` wants it."""
    if source is None:
        return None
    what = f"{role}_features"
    if isinstance(source, str | Path):
        table: Table = file_table(Path(source).expanduser())
    else:
        table = table_of(source, what, what)
    frame = table.frame
    columns = list(frame.columns)
    other = {"user": "item", "item": "user"}[role]
    asked: Mapping[str, Any] = {one: "" for one in USUAL if one != role}
    try:
        found, _ = taken([*columns, other], {**asked, other: other}, what)
    except ValueError:
        key = next((c for c in columns if c.lower() in ("id", f"{role}_id:token")), None)
        if key is None:
            raise ValueError(
                f"{what} has no column that is called as {role}s usually are, but "
                f"{', '.join(columns)}; call that of its ids {role}_id."
            ) from None
        found = {role: key}
    return frame.rename({found[role]: f"{role}_id"})


def _on_stderr(line: str) -> None:
    print(line, file=sys.stderr)
