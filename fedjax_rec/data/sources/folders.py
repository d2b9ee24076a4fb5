"""Folders of data, told apart by what lies in them: RecBole's atomic files, whole or split into
`.train.inter`, `.valid.inter` and `.test.inter`, and the official MovieLens files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..interactions import Interactions
from ..splits import TEST, TRAIN, VALIDATION
from . import tables
from .atomic import features_of, read_atomic
from .files import file_table
from .frames import Table
from .judged import Judged, judged, rolled_out, whole
from .movielens import RATINGS, read_movielens, tidy_atomic

BENCHMARK = {".train.inter": TRAIN, ".valid.inter": VALIDATION, ".test.inter": TEST}
OTHERS = (".kg", ".link", ".net", ".ent", ".rel")  # graphs and what belongs to them


def read_folder(
    folder: str | Path,
    name: str | None = None,
    asked: Mapping[str, Any] | None = None,
    say: Callable[[str], Any] | None = None,
    drop: bool = False,
    time_format: str | None = None,
) -> Interactions:
    """What lies in a folder.

    Args:
        folder: of data.
        name: of the data, the folder's by default.
        asked: role -> column of atomic files, for those that have other names than RecBole's.
        say: is told what is not read.
        drop: see `read`.
        time_format: see `read`.

    Raises FileNotFoundError, and ValueError with path and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"data folder {folder} does not exist; check the path.")
    place = holds(folder)
    split = benchmark(folder if place is None else place)
    if place is None and not split:
        if several := sorted(p.name for p in folder.glob("*.inter")):
            raise FileNotFoundError(
                f"{folder} holds several tables ({', '.join(several[:5])}); name one of them, or "
                f"call the parts of a split {', '.join(f'{folder.name}{x}' for x in BENCHMARK)}."
            )
        raise FileNotFoundError(
            f"{folder} holds no data; put {folder.name}.inter (RecBole) or {', '.join(RATINGS)} "
            f"(MovieLens) there{_tables_in(folder)}."
        )
    place = folder if place is None else place
    stem = inter(place)
    if say is not None and (left := sorted(p.name for p in place.iterdir() if p.suffix in OTHERS)):
        say(f"{place}: {', '.join(left)} not read: graphs of knowledge or of friends have no use.")
    if stem is None and not split:
        return read_movielens(place, name or place.name)
    if stem is not None:
        if split and say is not None:
            say(f"{place}: {stem}.inter is read whole, and {', '.join(split)} not.")
        path = place / f"{stem}.inter"
        interactions = read_inter(path, asked or {}, say, drop, time_format)
        return tidy_atomic(interactions) if stem == "ml-100k" else interactions
    found = of_parts(place, split, asked or {}, time_format)
    whole(found, drop, say, str(place))
    return _with_features(found, place, split[0].partition(".")[0])


def ratings_in(folder: Path) -> Path | None:
    """The file of a folder that has a name of MovieLens' ratings; None where there is none, or data
    of RecBole."""
    place = holds(folder)
    if place is None or inter(place) is not None or benchmark(place):
        return None
    return next(place / name for name in RATINGS if (place / name).is_file())


def table_in(folder: Path) -> Path | None:
    """The one file of a folder that holds its interactions; None where there is none or several."""
    place = holds(folder)
    stem = None if place is None else inter(place)
    return ratings_in(folder) if place is None or stem is None else place / f"{stem}.inter"


def read_inter(
    path: Path,
    asked: Mapping[str, Any],
    say: Callable[[str], Any] | None = None,
    drop: bool = False,
    time_format: str | None = None,
) -> Interactions:
    """One .inter file with what is known of users and items beside it. Columns are RecBole's own,
    or those that are `asked` for; a row may hold a sequence. The others: see `read`."""
    tables.exists(path)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = [x.partition(":") for x in file.readline().strip().split("\t")]
    lists = any("item" in name and kind.endswith("_seq") for name, _, kind in header)
    as_is = not drop and all(x is None for x in (*asked.values(), time_format))
    if not lists and as_is:
        return read_atomic(path.parent, path.stem)
    found = judged(rolled_out(file_table(path), asked), asked, time_format)
    whole(found, drop, say, str(path))
    return _with_features(found, path.parent, path.stem)


def _with_features(found: Judged, folder: Path, stem: str) -> Interactions:
    features = (
        features_of(folder / f"{stem}.user", "user_id"),
        features_of(folder / f"{stem}.item", "item_id"),
    )
    return replace(found.interactions(features), name=stem)


def of_parts(
    folder: Path, names: list[str], asked: Mapping[str, Any], form: str | None = None
) -> Judged:
    """The files of a split, one below the other, with the part of each row."""
    made: list[tuple[Table, int]] = []
    for end, part in BENCHMARK.items():
        for name in names:
            if name.endswith(end):
                made.append((file_table(folder / name), part))
    columns = [c for c in made[0][0].frame.columns if all(c in t.frame.columns for t, _ in made)]
    frame = pl.concat([table.frame.select(columns) for table, _ in made])
    starts = np.cumsum([0, *(table.frame.height for table, _ in made)])

    def where(row: int) -> str:
        file = int(np.searchsorted(starts, row, side="right")) - 1
        return made[file][0].where(row - int(starts[file]))

    kinds = made[0][0].kinds
    parts = np.concatenate([np.full(t.frame.height, part, np.int8) for t, part in made])
    joined = Table(frame, names[0].partition(".")[0], where, kinds=kinds, source=str(folder))
    return judged(rolled_out(joined, asked, parts), asked, form, parts)


def holds(folder: Path) -> Path | None:
    """`folder`, or the folder of the same name within (as archives unpack), if data lies there;
    else None.
    """
    for place in (folder, folder / folder.name):
        if inter(place) or benchmark(place) or any((place / file).is_file() for file in RATINGS):
            return place
    return None


def inter(folder: Path) -> str | None:
    """The stem of the folder's .inter file: the folder's own name, or else the only one there."""
    stems = sorted(
        path.stem for path in folder.glob("*.inter") if path.name not in benchmark(folder)
    )
    if folder.name in stems:
        return folder.name
    return stems[0] if len(stems) == 1 else None


def benchmark(folder: Path) -> list[str]:
    """Names of RecBole's benchmark files, one for each part of a split, where there are several."""
    found = sorted(p.name for p in folder.glob("*.inter") if p.name.endswith(tuple(BENCHMARK)))
    return found if len(found) > 1 else []


def _tables_in(folder: Path) -> str:
    ends = (".csv", ".tsv", ".parquet", ".gz", ".zip", ".txt", ".jsonl")
    found = sorted(p.name for p in folder.iterdir() if p.suffix.lower() in ends)
    return f", or name a file, such as {folder / found[0]}" if found else ""
