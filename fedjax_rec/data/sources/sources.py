"""Where data sets lie, and how to get them: a known name or a path in, `Interactions` out.

A name is looked for in `$FEDJAX_REC_DATA/<name>/`, then in the user's cache
`~/.cache/fedjax_rec/<name>/` (`$XDG_CACHE_HOME` moves it). Files and folders are read by `read`.
Only ml-100k can be fetched: by the official archive or, where only a package index is reached, from
the wheel of recbole 1.2.1; both give equal Interactions.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedjax_rec.data.interactions import Interactions
from fedjax_rec.data.sources.fetch import LICENCE, SITE, fetch_ml_100k
from fedjax_rec.data.sources.folders import benchmark, holds, inter, read_folder
from fedjax_rec.data.sources.movielens import RATINGS
from fedjax_rec.data.sources.named import NAMED
from fedjax_rec.data.sources.read import read
from fedjax_rec.data.sources.synthetic import synthetic
from fedjax_rec.storage import cache, roots


@dataclass(frozen=True)
class Source:
    """A data set known by name."""

    users: int
    items: int  # items with at least one rating
    interactions: int
    megabytes: float  # of the archive
    archive: str  # file under SITE
    unpacks_to: str  # the folder inside the archive


SOURCES = {
    "ml-100k": Source(943, 1_682, 100_000, 5, "ml-100k.zip", "ml-100k"),
    "ml-1m": Source(6_040, 3_706, 1_000_209, 6, "ml-1m.zip", "ml-1m"),
    "ml-10m": Source(69_878, 10_677, 10_000_054, 63, "ml-10m.zip", "ml-10M100K"),
    "ml-20m": Source(138_493, 26_744, 20_000_263, 190, "ml-20m.zip", "ml-20m"),
    "ml-25m": Source(162_541, 59_047, 25_000_095, 250, "ml-25m.zip", "ml-25m"),
}


def load(
    source: str | Path,
    folder: str | Path | None = None,
    fetch: bool = True,
    say: Callable[[str], Any] = print,
) -> Interactions:
    """Read a data set: a known name, a name under the searched folders, `synthetic`, or whatever
    `read` reads, whose columns have usual names.

    Args:
        source: such as "ml-100k"; a `Path`, or a text with a separator, is a path of a file or
            folder; a table, or a dict of columns.
        folder: where names are looked for, in place of the searched folders; nothing is then
            fetched.
        fetch: fetch a name that is absent and can be fetched, which is ml-100k.
        say: is told the licence of what is fetched, and which columns of a file are taken.

    Raises:
        FileNotFoundError: with the remedy for data that is not there.
        ValueError: for an unknown name or bad content.

    Example:
        >>> interactions = data.load("synthetic")
    """
    told = None if say is print else say
    text = str(source)
    tabular = not isinstance(source, str | Path)
    if tabular or isinstance(source, Path) or os.sep in text or text[:1] in (".", "~"):
        return read(source, say=told)
    if text == "synthetic":
        return synthetic()
    place = find(text, folder)
    if place is None and (holds(Path(text)) is not None or Path(text).is_file()):
        return read(Path(text), say=told)
    if place is None:
        if not fetch or text != "ml-100k" or folder is not None:
            raise _absent(text, folder)
        place = get(text, say)
    return _check_sizes(place) if text == "ml-100k" else read_folder(place, text)


def get(name: str, say: Callable[[str], Any] = print) -> Path:
    """The folder that holds the data set, fetched into the cache if need be (ml-100k alone can be).

    Shows the licence through `say`, checks checksums and leaves either the whole folder or nothing.
    Raises FileNotFoundError with the remedy when the data is not there and cannot be fetched.
    """
    place = find(name)
    if place is not None:
        say(f"{name} is in {place}.")
        return place
    if name != "ml-100k":
        raise _absent(name, None)
    target = cache() / name
    fetch_ml_100k(target, _check_sizes, say)
    return target


def known() -> list[dict[str, Any]]:
    """One row a data set: name, users, items, interactions, megabytes, licence, present, where,
    fetchable.

    Interactions are those that are here, where data are; users and items are None where these are
    not those that GroupLens published. After what can be made or fetched come the data sets that
    papers name (`named`), whose sizes are those that were published, and the other folders under
    `$FEDJAX_REC_DATA`, with unknown sizes None.
    """
    rows = []
    for name, source in SOURCES.items():
        sizes = (source.users, source.items, source.interactions, source.megabytes)
        place = find(name)
        here = source.interactions if place is None else _lines(place)
        if here != source.interactions:  # other rows under the name: what they hold is to be read
            sizes = (None, None, here, source.megabytes)
        rows.append(_row(name, sizes, LICENCE, place, name == "ml-100k"))
    rows.append(
        _row(
            "synthetic", (1_000, 1_000, 20_000, 0), "made here, free", Path("made in memory"), False
        )
    )
    for name, told in NAMED.items():
        sizes = (told.users, told.items, told.interactions, None)
        rows.append(_row(name, sizes, told.terms, find(name), False))
    for name in _named():
        if name not in SOURCES and name not in NAMED:
            rows.append(_row(name, (None,) * 4, "see its source", find(name), False))
    return rows


def find(name: str, folder: str | Path | None = None) -> Path | None:
    """The folder that holds data set `name`, or None. `folder` replaces the searched ones."""
    aliases = [name]
    if name in SOURCES and SOURCES[name].unpacks_to != name:
        aliases.append(SOURCES[name].unpacks_to)
    for root in roots() if folder is None else [Path(folder).expanduser()]:
        for alias in aliases:
            place = holds(root / alias)
            if place is not None:
                return place
    return None


def _lines(place: Path) -> int:
    """Interactions in a folder of data, by the lines of its file."""
    stem = inter(place)
    names = [f"{stem}.inter"] if stem else benchmark(place)
    names = names or [n for n in RATINGS if (place / n).is_file()][:1]
    return sum(map(_lines_of, (place / name for name in names)))


def _lines_of(path: Path) -> int:
    count, last = 0, b"\n"
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count, last = count + block.count(b"\n"), block[-1:]
    return count + (last != b"\n") - (path.suffix in (".inter", ".csv"))


def _named() -> list[str]:
    """Names of the folders with data among the searched ones."""
    found = {
        path.name for root in roots() if root.is_dir() for path in root.iterdir() if path.is_dir()
    }
    return sorted(name for name in found if not name.startswith(".") and find(name) is not None)


def _absent(name: str, folder: str | Path | None) -> Exception:
    searched = " or ".join(
        str(root / name) for root in (roots() if folder is None else [Path(folder)])
    )
    if name == "ml-100k":
        return FileNotFoundError(
            f"ml-100k is not in {searched}; run `fedjax-rec data get ml-100k`."
        )
    if name in SOURCES:
        return FileNotFoundError(
            f"{name} is not in {searched}; download {SITE}{SOURCES[name].archive} "
            f"({SOURCES[name].megabytes:g} MB) and unpack its files there."
        )
    if name in NAMED:
        told = NAMED[name]
        return FileNotFoundError(
            f"{name} is not in {searched}; get it from {told.home} and put {name}.inter there, or "
            f"name a file of it by its path (fedjax-rec data about {name})."
        )
    names = [*SOURCES, "synthetic", *NAMED, *_named()]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    hint = (
        f"did you mean '{near[0]}'?"
        if near
        else "see `fedjax-rec data list`, or name a file or a folder."
    )
    return ValueError(f"unknown data source '{name}' (not in {searched}); {hint}")


def _row(
    name: str, sizes: tuple[float | None, ...], licence: str, place: Path | None, fetchable: bool
) -> dict[str, Any]:
    keys = ("users", "items", "interactions", "megabytes")
    return {
        "name": name,
        **dict(zip(keys, sizes, strict=True)),
        "licence": licence,
        "present": place is not None,
        "where": "" if place is None else str(place),
        "fetchable": fetchable,
    }


def _check_sizes(place: Path) -> Interactions:
    """ml-100k as read from `place`; ValueError where it is not whole."""
    source, interactions = SOURCES["ml-100k"], read_folder(place, "ml-100k")
    found = (interactions.num_users, interactions.num_items, len(interactions))
    if found != (source.users, source.items, source.interactions):
        raise ValueError(
            f"{place} holds {found[0]} users, {found[1]} items and {found[2]} interactions where "
            "ml-100k has 943, 1682 and 100000; delete the folder and fetch it again."
        )
    return interactions
