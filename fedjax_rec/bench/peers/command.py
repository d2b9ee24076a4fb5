"""`fedjax-rec bench peers [PEER ...] [--clients N] [--json FILE] [--markdown FILE]`: the same
rounds by other libraries, beside ours. A page has its picture in `images/peers.png` beside it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rich.console import Console

from ...check import at_least, nearest
from ...report.figures import save
from ...simulate.device import cores
from ...storage import whole
from ..machine import machine
from ..row import table
from . import workloads
from .compared import GOALS, PEERS, Compared, Line, turns
from .page import figure, page
from .played import Script, answer_of
from .workloads import Workload

WORK = {"item table": partial(workloads.items, "ml-100k"), "dense network": workloads.dense}
PICTURE = "images/peers.png"


def main(words: Sequence[str]) -> int:
    """Measures, writes what was asked for after each turn, prints the rows."""
    names = {peer.name: peer for peer in PEERS}
    parser = argparse.ArgumentParser(
        prog="fedjax-rec bench peers", description=f"Peers: {', '.join(names)}. Default: all."
    )
    parser.add_argument("names", nargs="*", metavar="PEER")
    parser.add_argument("--clients", type=int, help="the first N of each workload", metavar="N")
    parser.add_argument("--json", help="also write the figures to FILE", metavar="FILE")
    parser.add_argument(
        "--go-on", action="store_true", help="keep workloads that FILE of --json has all of"
    )
    parser.add_argument("--markdown", help="also write a page to FILE", metavar="FILE")
    known = parser.parse_args(words)
    for name in known.names:
        if name not in names:
            raise ValueError(
                f"peer {name!r} is unknown{nearest(name, names)}; use {', '.join(names)}."
            )
    if known.clients is not None:
        at_least("bench peers", "clients", known.clients, 1)
    chosen = [peer for peer in PEERS if not known.names or peer.name in known.names]
    if known.go_on and not (known.json and Path(known.json).is_file()):
        raise ValueError(
            f"bench peers --go-on: --json {known.json} is no file; name an earlier one."
        )
    kept = json.loads(Path(known.json).read_text())["answers"] if known.go_on else []
    console, began = Console(stderr=True), _load()
    done, left_out = [], []

    def write(found: list[Compared]) -> None:
        there = {
            **machine(),
            "threads": f"ours one; {cores()} of the cores for all",
            "load": f"{began} when it began, {_load()} when it ended",
        }
        if known.json:
            _write_json(Path(known.json), found, left_out, there)
        if known.markdown:
            command = " ".join(["fedjax-rec bench peers", *words])
            _write_page(Path(known.markdown), found, left_out, there, command)

    for name, make in WORK.items():
        console.print(f"{name} ...")
        say = lambda told: console.print(f"  {told}", markup=False, highlight=False)
        latest = []
        try:
            work = make().first(known.clients)
            before = [_read(r, work) for r in kept if _same(r, work, chosen)]
            for one in before or turns(work, chosen, say):
                latest = [one]
                write([*done, one])
        except (OSError, RuntimeError) as error:
            left_out.append(f"{name}: {' '.join(str(error).split())}")
            say(f"left out: {left_out[-1]}")
        done += latest
    write(done)
    Console().print(table(row for one in done for row in one.rows()))
    return 0


def _write_json(path: Path, found: list[Compared], left_out: list[str], there: dict) -> None:
    told = {"machine": there, "left_out": left_out, "answers": [_record(one) for one in found]}
    told["rows"] = [row._asdict() for one in found for row in one.rows()]
    with whole(path) as beside:
        beside.write_text(json.dumps(told, indent=2) + "\n")


def _write_page(
    path: Path, found: list[Compared], left_out: list[str], there: dict, command: str
) -> None:
    if found:
        save(figure(found), path.parent / PICTURE)
    with whole(path) as beside:
        beside.write_text(page(found, left_out, there, command, PICTURE if found else ""))


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def _same(record: dict, work: Workload, chosen: Sequence[Script]) -> bool:
    """Whether a record of `_record` has this work by all of these peers."""
    done = [line["peer"] for line in record["peers"]] == [peer.name for peer in chosen]
    return done and (record["workload"], record["clients"]) == (work.name, work.clients)


def _read(record: dict, work: Workload) -> Compared:
    """What `_record` wrote."""
    ours = tuple(answer_of(answer) for answer in record["ours"])
    scripts, goals = {peer.name: peer for peer in PEERS}, GOALS.get(work.name, {})
    lines = [
        Line(
            scripts[line["peer"]], line["answer"] and answer_of(line["answer"]), line["why"],
            goals.get(line["peer"]),
        )
        for line in record["peers"]
    ]  # fmt: skip
    return Compared(work, ours, tuple(lines))


def _record(one: Compared) -> dict:
    lines = [
        {
            "peer": line.script.name, "why": line.why, "lines": line.script.lines(),
            "answer": line.answer and asdict(line.answer),
        }
        for line in one.lines
    ]  # fmt: skip
    ours = [asdict(answer) for answer in one.ours]
    return {"workload": one.work.name, "clients": one.work.clients, "ours": ours, "peers": lines}
