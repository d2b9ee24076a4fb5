"""The command `fedjax-rec attack`: its words, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..simulate import configure
from .attack import attack, shown
from .ledger import run_ledger, saved
from .words import parser_of


def command(words: Sequence[str]) -> int:
    """The exit status."""
    parser = parser_of(
        "attack",
        "What the messages of clients give away. A configuration is trained first, with --key "
        "value overrides; of a run folder the last state is taken.",
    )
    parser.add_argument("source", nargs="?", help="a YAML file, or the folder of a finished run")
    parser.add_argument("--attacks", nargs="+", default=[], metavar="NAME", help="default all")
    parser.add_argument("--observe", type=int, default=2, help="rounds listened to; default 2")
    parser.add_argument("--clients", type=int, default=256, help="how many; default 256")
    parser.add_argument("--out", help="write what was found to this file, as JSON")
    parser.add_argument("--ledger", help="a YAML file of runs to attack, and of a page's section")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of the ledger")
    known, overrides = parser.parse_known_args(words)
    # An override with a space in it looks like one more name.
    overrides += [w for w in known.attacks if w.startswith("--")]
    names = [w for w in known.attacks if not w.startswith("--")]
    if (known.source is None) == (known.ledger is None):
        raise ValueError("attack takes a configuration, a run folder, or --ledger FILE; give one.")

    configure(1)
    if known.ledger is not None:
        for path in run_ledger(known.ledger, known.only):
            print(path)
        return 0
    told = attack(known.source, overrides, names, known.observe, known.clients)
    if known.out:
        saved(told, Path(known.out))
    table, lines = shown(told)
    Console().print(table)
    for line in lines:
        print(line)
    return 0
