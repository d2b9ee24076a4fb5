"""`fedjax-rec bench [NAME ...] [--json FILE] [--markdown FILE]`: a table of figures and goals.

`--profile DIR` traces rounds of the benches named in place of that, and says what they cost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from .. import simulate
from ..check import nearest
from ..storage import whole
from .adapters import adapters
from .base_pieces import base_pieces
from .clicks import clicks
from .cohort import cohort
from .compress import compress_all
from .decoders import decoders
from .device import main as device
from .files import files
from .machine import machine
from .memory import memory
from .peers.command import main as peers
from .profile import PROFILED, under_profiler
from .robust import robust
from .rounds import first_round, rounds
from .row import Row, table
from .row_blocks import row_blocks
from .scale import devices, sweep
from .sharing import sharing
from .strategies import strategies_100k
from .tables import tables
from .versus_fedjax import versus_fedjax

BENCHES: dict[str, Callable[[], Iterator[Row]]] = {
    "rounds-100k": partial(rounds, "ml-100k"),
    "rounds-1m": partial(rounds, "ml-1m"),
    "first": first_round,
    "tables": tables,
    "clicks": clicks,
    "files": files,
    "cohort": cohort,
    "compress": compress_all,
    "robust": robust,
    "strategies": strategies_100k,
    "adapters": adapters,
    "sharing": sharing,
    "decoders": decoders,
    "devices": devices,
    "row-blocks": row_blocks,
    "base-pieces": base_pieces,
    "memory": memory,
    "sweep": sweep,
    "fedjax-100k": partial(versus_fedjax, "ml-100k"),
    "fedjax-1m": partial(versus_fedjax, "ml-1m"),
}


def main(words: Sequence[str]) -> int:
    """Runs the benches named (default all), prints the table, writes what was asked for."""
    with contextlib.suppress(ValueError):  # of a thread that is not the main one
        signal.signal(signal.SIGTERM, ended)
    if words and words[0] == "device":  # of what is not here: its own process, page and limits
        return device(words[1:])
    if words and words[0] == "peers":  # of other libraries: its own page, with a picture
        return peers(words[1:])
    parser = argparse.ArgumentParser(
        prog="fedjax-rec bench",
        description=f"Benches: {', '.join(BENCHES)}. Default: all. "
        "`bench device --out DIR` measures an accelerator, `bench peers` other libraries.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--json", help="also write the figures to FILE", metavar="FILE")
    parser.add_argument("--markdown", help="also write a page to FILE", metavar="FILE")
    parser.add_argument(
        "--profile",
        metavar="DIR",
        help="trace rounds into DIR/NAME for Perfetto and TensorBoard, and print FLOPs and bytes "
        f"beside their time and the device's ceilings: {', '.join(PROFILED)}; default rounds-100k",
    )
    known = parser.parse_args(words)
    benches: Mapping[str, Callable[[], Iterator[Row]]] = BENCHES
    names = known.names or list(BENCHES)
    if known.profile is not None:
        names = known.names or ["rounds-100k"]
        benches = under_profiler(names, known.profile)
    for name in known.names:
        if name not in benches:
            raise ValueError(
                f"bench {name!r} is unknown{nearest(name, BENCHES)}; use {', '.join(BENCHES)}."
            )
    simulate.configure(1, cache=None)
    console = Console(stderr=True)
    rows, left_out = [], []
    for name in names:
        console.print(f"{name} ...")
        try:
            for row in benches[name]():
                rows.append(row)
                console.print(f"  {row.what}: {row.shown()}")
        except (FileNotFoundError, RuntimeError) as error:
            left_out.append(f"{name}: {' '.join(str(error).split())}")
            console.print(f"  left out: {left_out[-1]}")
    Console().print(table(rows))
    if known.json:
        whole = {"machine": machine(), "rows": [r._asdict() for r in rows], "left_out": left_out}
        _write(Path(known.json), json.dumps(whole, indent=2) + "\n")
    if known.markdown:
        _write(Path(known.markdown), _page(rows, left_out))
    return 0


def _page(rows: Sequence[Row], left_out: Sequence[str]) -> str:
    command = "fedjax-rec bench " + " ".join(w for w in sys.argv[2:])
    lines = ["# Benchmarks", "", f"Written by `{command.strip()}`, never by hand.", ""]
    lines += [f"- {key}: {value}" for key, value in machine().items()]
    lines += ["", "| bench | what | measured | goal |", "|---|---|---|---|"]
    lines += [f"| {r.bench} | {r.what} | {r.shown()} | {r.goal} |" for r in rows]
    if left_out:
        lines += ["", "Left out on this machine:", ""] + [f"- {x}" for x in left_out]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    with whole(path) as beside:
        beside.write_text(text)


def ended(*_) -> None:
    """SIGTERM ends a bench as Ctrl-C does, and what it has started with it."""
    raise SystemExit(130)
