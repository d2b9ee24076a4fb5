"""`fedjax-rec data`: the known data sets and weights, one of them fetched, or a file of one's own
described before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..data.sources.checked import described as checked
from .datasets import about, catalogue, described
from .words import parser_of

COLUMNS = ("user", "item", "rating", "time", "split")


def command(words: Sequence[str]) -> int:
    """Runs `fedjax-rec data`; the exit status."""
    parser = parser_of("data", "Data sets and pretrained weights: list, fetch or describe them.")
    parser.add_argument("action", choices=("list", "get", "about", "check"))
    parser.add_argument(
        "name",
        nargs="?",
        help="for get and about: a name of the list; for check: a file, a folder or a name",
    )
    for column in COLUMNS:
        parser.add_argument(f"--{column}", metavar="NAME", help=f"check: the column of {column}s")
    parser.add_argument("--separator", help="check: of the text, such as ';'")
    parser.add_argument("--header", choices=("true", "false"), help="check: whether there is one")
    parser.add_argument(
        "--time_format", metavar="FORM", help="check: of dates, such as %%d/%%m/%%Y"
    )
    parser.add_argument("--json", action="store_true", help="check: for scripts")
    known = parser.parse_args(words)
    if known.action == "list":
        Console().print(catalogue())
        return 0
    if not known.name:
        raise ValueError(f"data {known.action} needs a name; see `fedjax-rec data list`.")
    if known.action == "get":
        Console().print(described(known.name))
        return 0
    if known.action == "about":
        print(about(known.name), end="")
        return 0
    told = checked(
        known.name,
        {column: getattr(known, column) for column in COLUMNS},
        known.separator,
        None if known.header is None else known.header == "true",
        known.time_format,
    )
    if known.json:
        print(json.dumps(told, indent=2))
        return 0
    table = Table("", str(known.name), box=None, padding=(0, 2, 0, 0))
    for key, value in told.items():
        table.add_row(key.replace("_", " "), _shown(value))
    Console(highlight=False).print(table)
    return 0


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value in (None, "") else str(value)
