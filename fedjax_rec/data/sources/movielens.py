"""The official MovieLens files, 100K to 25M, as GroupLens ships them (Harper and Konstan 2015).

- 100K: `u.data` (user, item, rating, time; tabs), `u.item` (id|title|dates|url|19 genre flags),
  `u.user` (id|age|gender|occupation|zip).
- 1M, 10M: `ratings.dat` and `movies.dat` with `::` between fields; 1M has `users.dat` as well.
- 20M, 25M: `ratings.csv` and `movies.csv`, with headers; nothing about users.

Features have the names and forms that the atomic files of the same data have, so that both give
equal records: items `movie_title`, `release_year`, `genre` (spaces between genres); users `age`,
`gender`, `occupation`, `zip_code`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import polars as pl

from fedjax_rec.data.interactions import Interactions, from_arrays
from fedjax_rec.data.sources import tables

# In the order of the flags in u.item.
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime")
GENRES += ("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery")
GENRES += ("Romance", "Sci-Fi", "Thriller", "War", "Western")
RATINGS = ("u.data", "ratings.dat", "ratings.csv")
_HEADER = "userId,movieId,rating,timestamp"
_FIELDS = ("user_id", "item_id", "rating", "timestamp")
_YEAR = re.compile(r"^(.*?)\s*\((\d{4})\)(?: \(\w+\))?\s*$")
_ITEM = ("item_id", "movie_title", "release_year", "genre")
_USER = ("user_id", "age", "gender", "occupation", "zip_code")


def read_movielens(
    folder: str | Path, name: str | None = None, file: str | None = None
) -> Interactions:
    """Read the ratings in `folder` and the features beside them; `name` is the folder's by default,
    `file` the first there is of those that ratings are in.

    Raises FileNotFoundError when no ratings file is there, ValueError with path and line for a bad
    row.
    """
    folder = Path(folder)
    names = RATINGS if file is None else (file,)
    path = next((folder / one for one in names if (folder / one).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"{folder} holds none of {', '.join(RATINGS)}; unpack a MovieLens archive there."
        )
    separator = {"u.data": "\t", "ratings.dat": "::", "ratings.csv": ","}[path.name]
    skip = 0
    if path.suffix == ".csv":
        skip, wanted = 1, _HEADER
        tables.exists(path)
        with path.open(encoding="utf-8-sig", errors="replace") as text:
            header = text.readline().strip()
        if header != wanted:
            raise ValueError(
                f"{path}:1: expected the header '{wanted}', found '{header}'; add or fix the "
                "header."
            )
    rows = tables.interaction_table(path, _FIELDS, _FIELDS[2:], _FIELDS, separator, skip)
    users, items = beside(folder)
    return from_arrays(
        folder.name if name is None else name,
        rows["user_id"],
        rows["item_id"],
        times=rows["timestamp"],
        ratings=rows["rating"],
        user_features=users,
        item_features=items,
    )


def beside(folder: Path) -> tuple[pl.DataFrame | None, pl.DataFrame | None]:
    """What the files beside the ratings tell of users and of items."""
    return _users(folder), _items(folder)


def has_official_header(path: Path) -> bool:
    """Whether a file is one of `RATINGS`, and its first lines as GroupLens writes them: four
    numbers, in `ratings.csv` below a header. Others have files of this name and header too."""
    if path.name not in RATINGS:
        return False
    with path.open("rb") as file:
        first, second = (file.readline().decode("utf-8-sig", "replace").strip() for _ in range(2))
    if path.name == "ratings.csv":
        films = path.parent / "movies.csv"
        return first == _HEADER and _numbers(second.split(",")) and _official_films(films)
    return _numbers(first.split("\t" if path.name == "u.data" else "::"))


def _numbers(cells: list[str]) -> bool:
    return len(cells) == 4 and all(x.replace(".", "", 1).isdigit() for x in cells)


def _official_films(path: Path) -> bool:
    """Whether films are described as GroupLens does, or not at all."""
    if not path.is_file():
        return True
    with path.open("rb") as file:
        return file.readline().decode("utf-8-sig", "replace").strip() == "movieId,title,genres"


def title_and_year(title: str) -> tuple[str, str | None]:
    """Split 'Heat (1995)' into ('Heat', '1995'); the year is None where the title names none."""
    match = _YEAR.match(title)
    return (match[1], match[2]) if match else (title.strip(), None)


def tidy_atomic(interactions: Interactions) -> Interactions:
    """Item features of RecBole's ml-100k as in the official files: `class` is `genre`, two odd rows
    repaired.

    RecBole writes 'unkonwn' for the unnamed film 267 and takes the V (for video) of film 1412 for
    its year.
    """
    table = interactions.item_features
    if table is None or "class" not in table.columns:
        return interactions
    titles, years = [], []
    for title, year in table.select("movie_title", "release_year").iter_rows():
        if title == "unkonwn":
            title, year = "unknown", None
        elif year == "V":
            title, year = title_and_year(title)
        titles.append(title)
        years.append(year)
    table = table.rename({"class": "genre"}).with_columns(
        pl.Series("movie_title", titles, pl.String), pl.Series("release_year", years, pl.String)
    )
    return replace(interactions, item_features=table)


def _items(folder: Path) -> pl.DataFrame | None:
    rows: list[tuple[str | None, ...]] = []
    if (folder / "u.item").is_file():
        fields = ("item_id", "title", "release date", "video date", "url", *GENRES)
        for _, row in tables.feature_rows(folder / "u.item", fields, "|", skip=0):
            genres = " ".join(
                genre for genre, flag in zip(GENRES, row[5:], strict=True) if flag == "1"
            )
            rows.append((row[0], *title_and_year(row[1]), genres or None))
    else:
        csv = (folder / "movies.csv").is_file()
        path = folder / ("movies.csv" if csv else "movies.dat")
        if not path.is_file():
            return None
        fields = ("item_id", "title", "genres")
        for _, row in tables.feature_rows(
            path, fields, "," if csv else "::", skip=int(csv), quoted=csv
        ):
            genres = None if row[2].startswith("(no genres") else row[2].replace("|", " ")
            rows.append((row[0], *title_and_year(row[1]), genres or None))
    return pl.DataFrame(rows, schema=dict.fromkeys(_ITEM, pl.String), orient="row")


def _users(folder: Path) -> pl.DataFrame | None:
    if (folder / "u.user").is_file():
        rows = [row for _, row in tables.feature_rows(folder / "u.user", _USER, "|", skip=0)]
    elif (folder / "users.dat").is_file():
        fields = ("user_id", "gender", "age", "occupation", "zip_code")
        lines = tables.feature_rows(folder / "users.dat", fields, "::", skip=0)
        rows = [
            [user, age, gender, job, zip_code] for _, (user, gender, age, job, zip_code) in lines
        ]
    else:
        return None
    return pl.DataFrame(rows, schema=dict.fromkeys(_USER, pl.String), orient="row")
