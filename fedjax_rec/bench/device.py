"""`fedjax-rec bench device --out DIR [--tiny] [NAME ...]`: what an accelerator does, in one go.

For a machine that is lent for minutes: it needs no network, no data and no weights, ends in under
eight minutes, and loses nothing that was measured. Parts (`device_parts`) are played by a process
of their own; where one raises, ends that process or outlasts its seconds, another process plays
those that are left. After every row DIR/device.json and DIR/device.md are written anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..check import nearest
from ..storage import whole
from .row import Row

# Seconds that a part may take, compilation included, in the order in which they are played.
SECONDS = {
    "ceilings": 60, "ml-100k": 60, "ml-1m": 90, "cohort-10240": 60, "cohort-65536": 90,
    "sweep": 90, "adapters-64": 75, "adapters-256": 75, "language": 90, "compress": 120,
}  # fmt: skip
START = 60.0  # until a process has its device
LIMIT = 450.0


@dataclass
class Part:
    """What came of a part. state: waiting, playing, done, failed or left out; why: of the last
    two."""

    name: str
    state: str = "waiting"
    why: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


@dataclass
class Report:
    """All that is known so far; `write` puts it on the disk."""

    out: Path
    command: str
    parts: list[Part]
    tiny: bool = False
    machine: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        found = {"machine": self.machine, "command": self.command, "tiny": self.tiny}
        parts = [{**asdict(p), "rows": [r._asdict() for r in p.rows]} for p in self.parts]
        _write(self.out / "device.json", json.dumps({**found, "parts": parts}, indent=2) + "\n")
        _write(self.out / "device.md", self.page())

    def page(self) -> str:
        """The same for readers."""
        name = self.machine.get("device", "a device that did not start")
        lines = [f"# {name}", "", f"Written by `{self.command}`, never by hand.", ""]
        if self.tiny:
            lines += ["Toy sizes, which say that every part runs, and nothing of speed.", ""]
        lines += [f"- {key}: {value}" for key, value in self.machine.items()]
        lines += ["", "| part | what | measured | goal |", "|---|---|---|---|"]
        lines += [
            f"| {p.name} | {r.what} | {r.shown()} | {r.goal} |" for p in self.parts for r in p.rows
        ]
        lines += ["", "| part | state | seconds |", "|---|---|---|"]
        for p in self.parts:
            why = f": {p.why}" if p.why else ""
            lines.append(f"| {p.name} | {p.state}{why.replace('|', '/')} | {p.seconds:.0f} |")
        return "\n".join(lines) + "\n"


def main(words: Sequence[str]) -> int:
    """Measures; returns 0 where all parts were done, else 1."""
    parser = argparse.ArgumentParser(
        prog="fedjax-rec bench device", description=f"Parts: {', '.join(SECONDS)}. Default: all."
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", required=True, metavar="DIR", help="for device.json and device.md")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to see that all parts run")
    known = parser.parse_args(words)
    for name in known.names:
        if name not in SECONDS:
            raise ValueError(
                f"part {name!r} is unknown{nearest(name, SECONDS)}; use {', '.join(SECONDS)}."
            )
    budgets = {name: SECONDS[name] for name in known.names or SECONDS}
    command = " ".join(["fedjax-rec bench device", *words])
    found = measure(budgets, Path(known.out), command, known.tiny)
    print(found.page(), end="")
    return 0 if all(part.state == "done" for part in found.parts) else 1


def measure(
    budgets: Mapping[str, float],
    out: Path,
    command: str,
    tiny: bool = False,
    limit: float = LIMIT,
    module: str = "fedjax_rec.bench.device_parts",
) -> Report:
    """What came of the parts of `module` that `budgets` names, with the seconds of each, of which
    all together take no more than `limit`."""
    out.mkdir(parents=True, exist_ok=True)
    report = Report(out, command, [Part(name) for name in budgets], tiny)
    report.write()  # what stood there is of another time
    begin = time.monotonic()
    while waiting := [p for p in report.parts if p.state == "waiting"]:
        left = limit - (time.monotonic() - begin)
        if left <= 0:
            for part in waiting:
                part.state, part.why = "left out", f"no time left of {limit:g} s"
            break
        options = [f"--parts={module}", *["--tiny"] * tiny]
        _play(report, [p.name for p in waiting], options, budgets, begin + limit)
    report.write()
    return report


def _play(report: Report, names, options, budgets: Mapping[str, float], end: float) -> None:
    """Has one process play the parts `names` for as long as all goes well; at least one of them is
    no longer waiting then."""
    worker, rest = _Worker([*options, *names]), iter(names)
    now, since, budget = _named(report, next(rest)), time.monotonic(), START
    try:
        while (said := worker.next(min(since + budget, end))) is not None:
            match said:
                case {"machine": machine}:
                    report.machine = machine
                    now.state, since, budget = "playing", time.monotonic(), budgets[now.name]
                case {"row": row}:
                    now.rows.append(Row(**row))
                    _tell(f"  {now.rows[-1].what}: {now.rows[-1].shown()}")
                case {"failed": why}:
                    now.why = why
                case {"end": _}:
                    _close(now, since, "done", "")
                    name = next(rest, None)
                    if name is None:
                        return
                    now, since, budget = _named(report, name), time.monotonic(), budgets[name]
                    now.state = "playing"
            report.write()
        status = worker.status()
        _close(now, since, "failed", now.why or f"the process ended with status {status}")
    except TimeoutError:
        late = f"it took longer than {budget:g} s"
        _close(now, since, "failed", late if time.monotonic() < end else "there was no time left")
    finally:
        worker.kill()


def _named(report: Report, name: str) -> Part:
    return next(part for part in report.parts if part.name == name)


def _close(part: Part, since: float, state: str, why: str) -> None:
    part.state, part.why, part.seconds = state, why, time.monotonic() - since
    _tell(f"{part.name}: {state} in {part.seconds:.0f} s{' (' * bool(why)}{why}{')' * bool(why)}")


class _Worker:
    """The process, and what it says."""

    def __init__(self, words: Sequence[str]):
        command = [sys.executable, "-m", "fedjax_rec.bench.device_worker", *words]
        # A group of its own: what it has started ends with it.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        self.lines: queue.Queue[dict | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for said in _messages(self.process.stdout):
            self.lines.put(said)
        self.lines.put(None)

    def next(self, until: float) -> dict | None:
        """What it says next; None where it has ended. Raises TimeoutError at `until`."""
        try:
            return self.lines.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None

    def status(self) -> int:
        return self.process.wait(timeout=10)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _messages(lines) -> Iterator[dict]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # half a line of a process that was killed
            return


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    with whole(path) as beside:
        beside.write_text(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
