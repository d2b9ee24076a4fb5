"""Commands that answer a question or write a file, and run nothing: `init`, `list`, `explain`,
`recommend`, `similar`, `export`, `lists`, `reliability`,
`compare` and `watch`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress

import polars as pl
import yaml
from rich.console import Console
from rich.table import Table

from ..report import comparison
from . import watch as watching
from .explain import explain
from .first import write_first
from .listing import kinds, listed
from .loaded import WHICH, load_run
from .words import HELP, parser_of


def init(words: Sequence[str]) -> int:
    parser = parser_of("init", "Writes a first configuration, with comments.")
    parser.add_argument("file", nargs="?", default="first.yaml", help="default first.yaml")
    path = write_first(parser.parse_args(words).file)
    print(f"{path}: a first configuration; fedjax-rec run {path}")
    return 0


def list_(words: Sequence[str]) -> int:
    parser = parser_of("list", f"What there is to name: {', '.join(kinds())}.")
    parser.add_argument("kind", nargs="?", help="one of them")
    parser.add_argument("--json", action="store_true", help="for scripts")
    known = parser.parse_args(words)
    if known.kind is None:
        print(f"fedjax-rec list KIND, with KIND one of {', '.join(kinds())}")
        return 0
    rows = listed(known.kind)
    if known.json:
        print(json.dumps(rows, indent=2))
        return 0
    _print(["name", "what it is"], [[row["name"], row["about"]] for row in rows])
    return 0


def explain_(words: Sequence[str]) -> int:
    parser = parser_of(
        "explain",
        "What a key of a configuration means, its default and its source. Overrides say of which "
        "part: explain strategy.mu --strategy fedprox.",
    )
    parser.add_argument("key", help="such as strategy.uplink or evaluation.every")
    parser.add_argument("--json", action="store_true", help="for scripts")
    if words and words[0] not in HELP:  # a key is often copied with its dashes
        words = [words[0].removeprefix("--"), *words[1:]]
    known, overrides = parser.parse_known_args(words)
    told = explain(known.key, overrides)
    if known.json:
        print(json.dumps(told._asdict(), indent=2, default=str))
        return 0
    default = yaml.safe_dump(told.default, default_flow_style=True, width=1000)
    print(f"{told.key}: {told.text}")
    print(f"default: {default.replace(chr(10) + '...', '').strip()}")
    print(f"source: {told.source}")
    for row in told.arguments:
        print(f"  {told.key}.{row['name']}  (default {row['default']})  {row['help']}".rstrip())
    return 0


def recommend(words: Sequence[str]) -> int:
    parser = parser_of("recommend", "What a finished run ranks highest for a user.")
    _of_run(parser)
    parser.add_argument("--user", required=True, help="the user's id, as the data have it")
    known = parser.parse_args(words)
    _show(load_run(known.run).recommend(known.user, known.k, known.which), known.json)
    return 0


def similar(words: Sequence[str]) -> int:
    parser = parser_of("similar", "The items whose rows are nearest to an item's, by their angle.")
    _of_run(parser)
    parser.add_argument("--item", required=True, help="the item's id, as the data have it")
    known = parser.parse_args(words)
    _show(load_run(known.run).similar_items(known.item, known.k, known.which), known.json)
    return 0


def export(words: Sequence[str]) -> int:
    parser = parser_of(
        "export", "Scores of the items that each user is recommended, and weights, as files."
    )
    _of_run(parser, many="items a user")
    parser.add_argument("--out", required=True, help="folder for them")
    parser.add_argument("--format", default="parquet", choices=("parquet", "csv"), help="of scores")
    parser.add_argument(
        "--scorer", action="store_true", help="the program that scores items too, as StableHLO"
    )
    known = parser.parse_args(words)
    done = load_run(known.run)
    written = done.export(known.out, known.k, known.which, known.format, known.scorer)
    if known.json:
        print(json.dumps([str(path) for path in written]))
        return 0
    for path in written:
        print(path)
    return 0


def lists(words: Sequence[str]) -> int:
    parser = parser_of(
        "lists",
        "What the lists of all users are like: coverage, Gini, novelty, share of the tail, and how "
        "far their categories and their popularity are from those of what the users chose.",
    )
    _of_run(parser, many="items a list")
    parser.add_argument("--categories", metavar="COLUMN", help="item feature, such as genre")
    known = parser.parse_args(words)
    found = load_run(known.run).beyond_accuracy(known.k, known.which, known.categories)
    if known.json:
        print(json.dumps(found, indent=2))
    else:
        _print(["of all lists", ""], [[name, _cell(value)] for name, value in found.items()])
    return 0


def reliability(words: Sequence[str]) -> int:
    parser = parser_of(
        "reliability", "Of labelled examples, how often they are positive by what was predicted."
    )
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--bins", type=int, default=15, help="of probabilities; default 15")
    parser.add_argument("--part", default="test", choices=("test", "validation"))
    parser.add_argument("--which", default="best", choices=WHICH, help="state; default best")
    parser.add_argument("--json", action="store_true", help="for scripts")
    known = parser.parse_args(words)
    _show(load_run(known.run).reliability(known.part, known.which, known.bins), known.json)
    return 0


def compare(words: Sequence[str]) -> int:
    parser = parser_of(
        "compare",
        "Finished runs against one of them, user by user: paired bootstrap and Wilcoxon tests.",
    )
    parser.add_argument("folders", nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help="e.g. ndcg@10")
    parser.add_argument("--against", metavar="RUN", help="the run to compare with")
    parser.add_argument("--format", default="text", choices=("text", *comparison.FORMATS))
    parser.add_argument("--json", action="store_true", help="for scripts")
    known = parser.parse_args(words)
    found = comparison.compare(known.folders, known.metrics, known.against)
    if known.json:
        print(json.dumps(found.to_dicts(), indent=2))
    elif known.format == "text":
        _print(*comparison.cells(found), narrow=True)
    else:
        print(comparison.text_of(found, known.format), end="")
    return 0


def watch(words: Sequence[str]) -> int:
    parser = parser_of("watch", "Runs as they go: rounds, pace, time left and the best so far.")
    parser.add_argument("folders", nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between looks; default 2")
    parser.add_argument("--once", action="store_true", help="look once")
    parser.add_argument("--json", action="store_true", help="look once, for scripts")
    known = parser.parse_args(words)
    if known.json:
        print(watching.as_json(watching.looked(known.folders)))
        return 0
    with suppress(KeyboardInterrupt):  # the only way to end it, and nothing is stopped by it
        watching.watch(known.folders, known.every, 1 if known.once else None)
    return 0


def _of_run(parser, many: str = "items") -> None:
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("-k", type=int, default=10, help=f"how many {many}; default 10")
    parser.add_argument("--which", default="best", choices=WHICH, help="state; default best")
    parser.add_argument("--json", action="store_true", help="for scripts")


def _show(found: pl.DataFrame, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_dicts(), indent=2))
        return
    _print(found.columns, [[_cell(value) for value in row] for row in found.iter_rows()])


def _print(titles: Sequence[str], rows: Sequence[Sequence[str]], narrow: bool = False) -> None:
    """A table. narrow: where it is wider than the terminal, a line a cell, row below row."""
    table, console = Table(*titles, box=None, padding=(0, 2, 0, 0)), Console(highlight=False)
    for row in rows:
        table.add_row(*row)
    free = console.options.update(width=10_000)
    if narrow and console.measure(table, options=free).maximum > console.width:
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for place, row in enumerate(rows):
            for title, cell in zip(titles, row, strict=True):
                table.add_row(title, cell)
            if place < len(rows) - 1:
                table.add_row()
    console.print(table)


def _cell(value) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "init": init, "list": list_, "explain": explain_, "recommend": recommend, "similar": similar,
    "export": export, "lists": lists, "reliability": reliability, "compare": compare,
    "watch": watch,
}  # fmt: skip
