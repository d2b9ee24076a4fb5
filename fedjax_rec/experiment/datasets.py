"""What `fedjax-rec data` shows: the known data sets and weights, and what was read of one."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table

from .. import data, weights
from ..check import nearest
from ..data.sources.fetch import LICENCE, SITE
from ..data.sources.named import NAMED, Named
from ..data.sources.sources import SOURCES, find, get, known
from ..storage import roots


def catalogue() -> Group:
    """The known data sets, where they are on this machine, and their licences below."""
    table = Table("name", "users", "items", "interactions", "MB", "here")
    licences: dict[str, list[str]] = {}
    for row in known():
        numbers = [row[k] for k in ("users", "items", "interactions", "megabytes")]
        here = row["where"] if row["present"] else ("fetch it" if row["fetchable"] else "no")
        shown = [f"{n:,}" if n is not None else "" for n in numbers]
        table.add_row(row["name"], *shown, str(here))
        licences.setdefault(row["licence"] or "licence unknown", []).append(row["name"])
    models = Table("weights", "what", "MB", "here")
    for row in weights.known():
        models.add_row(row["name"], row["about"], f"{row['megabytes']}", row["where"] or "fetch it")
        licences.setdefault(row["licence"], []).append(row["name"])
    lines = [f"{', '.join(names)}: {text}" for text, names in licences.items()]
    return Group(table, models, *lines)


def cards() -> dict[str, Named]:
    """Data sets by name, MovieLens first."""
    terms, _, cite = LICENCE.partition(" Cite: ")
    films = {
        name: Named("film ratings", x.users, x.items, x.interactions, SITE, terms, cite)
        for name, x in SOURCES.items()
    }
    return films | NAMED


def about(name: str) -> str:
    """A page on a data set in Markdown: what it is, how large, whose, on which terms.

    Raises:
        ValueError: For a name that is not known.
    """
    known_ = cards()
    if name not in known_:
        raise ValueError(
            f"data about {name}: no such data set{nearest(name, known_)}; see `fedjax-rec data "
            "list`, or describe a file with `fedjax-rec data check`."
        )
    told = known_[name]
    density = told.interactions / (told.users * told.items)
    place = find(name)
    here = roots()[0] / name
    lines = [
        f"# {name}", "", f"{told.about[0].upper()}{told.about[1:]}.", "",
        f"- {told.users:,} users, {told.items:,} items, {told.interactions:,} interactions "
        f"({100 * density:.2g}% of all pairs), before filters",
        f"- from: {told.home}",
        f"- terms: {told.terms}",
        f"- cite: {told.cite}",
        f"- here: {place}" if place is not None else
        "- here: no; `fedjax-rec data get ml-100k` fetches it" if name == "ml-100k" else
        f"- here: no; put {name}.inter (RecBole's atomic file) or the official files into {here}",
        f"- use: `data: {{source: {name}}}`, or `fr.data.load({name!r})`",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def described(name: str) -> Table:
    """Fetches `name`, of data or weights, where it is missing and can be, reads it, and describes
    what was read."""
    if name in weights.KNOWN:
        return _weights(name)
    present = {row["name"]: row["present"] for row in known()}
    if not Path(name).is_dir() and not present.get(name, False):
        get(name)
    table = Table("", name)
    for key, value in data.describe(data.load(name)).items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    return table


def _weights(name: str) -> Table:
    known, table = weights.KNOWN[name], Table("", name)
    place = weights.get(name)
    weights.find(name)  # checks the files of a place that was there already
    for key, value in (("what", known.about), ("licence", known.licence), ("folder", str(place))):
        table.add_row(key, value)
    return table
