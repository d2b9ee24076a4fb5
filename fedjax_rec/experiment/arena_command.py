"""The command `fedjax-rec arena`: its words, and what it prints."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from ..check import at_least
from ..simulate import configure
from .arena import bouts, fight, read_arena, write_arena
from .sweep import threads_of_sweep
from .words import HELP, one_name, split

USAGE = """usage: fedjax-rec arena FILE [--attacks NAME,...] [--defences NAME,...] [--key value ...]

Attacks against defences, each pair a run, and a table and a heat map of all; FILE is one such as
configs/arena/ml100k.yaml. --key value overrides the configuration of all runs.
  --attacks A,B    these and nobody's alone; then no page is written without --page
  --defences A,B   these and the first alone; likewise
  --page           write it, where the file names one, whatever was left out or overridden
  --out DIR        folder of the runs, of arena.csv, arena.md and arena.png; default that of FILE
  --workers N      runs at a time; default one a core
  --processes N    that take runs which share a program; default 1, whose threads take all
  --dry-run        what would run, and what is refused
  --quiet          no line a run and no table
  --json           the table on standard output"""


def command(words: Sequence[str]) -> int:
    """The exit status."""
    if any(word in HELP for word in words):
        print(USAGE)
        return 0
    valued = ("out", "workers", "processes", "attacks", "defences")
    given = split("arena", words, valued, ("dry-run", "page", "quiet", "json"))
    options = given.options
    quiet = bool(options.get("quiet") or options.get("json"))
    names = lambda kind: [x for x in str(options.get(kind, "")).split(",") if x]
    whole = read_arena(one_name("arena", "file, a YAML file", given))
    arena = whole.only(names("attacks"), names("defences"))
    if "out" in options:
        arena = replace(arena, out=str(options["out"]))
    workers = _whole(options, "workers")
    processes = _whole(options, "processes") or 1
    fights = bouts(arena, given.overrides)
    first = next(bout.trial for bout in fights if bout.trial is not None)
    if options.get("dry-run"):
        for bout in fights:
            which = f"refused: {bout.refused}" if bout.trial is None else str(bout.trial.out)
            print(f"{bout.attack} / {bout.defence}: {which}")
        return 0
    configure(threads_of_sweep(first.config.threads, workers))
    total, done = len({str(bout.trial.out) for bout in fights if bout.trial is not None}), 0

    def told(ended) -> None:
        nonlocal done
        done += 1
        if not quiet:
            line = f"{ended.status}{': ' + ended.error if ended.error else ''}"
            print(f"[{done}/{total}] {ended.out}: {line}", file=sys.stderr, flush=True)

    found = fight(arena, fights, workers, processes, told)
    of_the_file = arena.name == whole.name and not given.overrides
    files = write_arena(arena, found, page=bool(options.get("page", of_the_file)))
    if options.get("json"):
        import json

        print(json.dumps({"pairs": found.table().to_dicts(), "files": list(map(str, files))}))
    elif not quiet:
        for path in files:
            print(path)
    return 1 if any(word == "failed" for score in found.scores for word, _ in score.ends) else 0


def _whole(options: dict, name: str) -> int | None:
    value = options.get(name)
    if value is None:
        return None
    try:
        number = int(value)
    except ValueError:
        raise ValueError(f"arena: --{name}={value} is no whole number.") from None
    at_least("arena", f"--{name}", number, 1)
    return number
