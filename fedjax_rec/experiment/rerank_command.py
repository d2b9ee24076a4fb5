"""The command `fedjax-rec rerank`: its words, and what it prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..report.reranked import between, chosen, read_reranked, section, table
from ..report.sections import with_section
from ..report.tables import title, write_text
from ..simulate import configure
from .overrides import pairs
from .rerank import rerank, written
from .rerank_file import read_reranking
from .words import HELP, one_name, split

USAGE = """usage: fedjax-rec rerank FILE [--key value ...]

Lists of finished runs, put together and ranked anew by a decoder on this machine; FILE is one such
as configs/rerank/ml100k.yaml. --key value overrides a key of it: --k 10, --judge.most 64,
--runs.texts runs/mine. What the decoder said lies in the folder, and is asked once.
  --out DIR        folder of what came of it; default that of FILE
  --page           write the section that FILE names, whatever was overridden
  --quiet          no lines as it goes and no table
  --json           the table on standard output"""


def command(words: Sequence[str]) -> int:
    """The exit status."""
    if any(word in HELP for word in words):
        print(USAGE)
        return 0
    given = split("rerank", words, ("out",), ("page", "quiet", "json"))
    options, changes = given.options, dict(pairs(given.overrides))
    file = one_name("rerank", "file, a YAML file", given)
    plan = read_reranking(file, changes | ({"out": options["out"]} if "out" in options else {}))
    quiet = bool(options.get("quiet") or options.get("json"))
    configure(1)
    said = (lambda line: None) if quiet else lambda line: print(line, file=sys.stderr, flush=True)
    files = written(plan, rerank(plan, said))
    told = read_reranked(plan.out)
    if plan.section and plan.page and options.get("page", not changes):
        page = Path(plan.page)
        files.append(write_text(page, with_section(page, plan.section, section(told, file))))
    if options.get("json"):
        print(json.dumps({"rows": table(told), "files": [str(path) for path in files]}, indent=2))
    elif not quiet:
        Console().print(_shown(told))
        print(chosen(told))
        for path in files:
            print(path)
    return 0


def _shown(told) -> Table:
    made = Table("list", *map(title, told.metrics), "below", box=None, padding=(0, 2, 0, 0))
    for row in table(told):
        cells = [between(row[metric]) for metric in told.metrics]
        made.add_row(row["list"], *cells, ", ".join(row["below"]))
    return made
