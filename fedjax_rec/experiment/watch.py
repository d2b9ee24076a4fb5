"""Experiments as they run, in the terminal: `fedjax-rec watch DIR`.

A run folder says all of it: `config.yaml` how many rounds are asked for, `metrics.jsonl` what was
measured and when, `summary.json` that it is finished. Nothing is locked and nothing written, so it
may look on from another terminal, or another machine with the same disk.

    pace = seconds between the last two records / rounds between them;  left = pace (rounds - round)

A run that has no new record for long, by its own pace, is called silent: it was stopped, or it
compiles.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..evaluate.direction import lower_is_better
from ..report.reading import natural, number
from ..storage import read_yaml

STATES = ("running", "silent", "finished")
QUIET = 60.0  # seconds in which a run need not speak, however fast it is


@dataclass(frozen=True)
class Seen:
    """What a run folder says at a moment; None is what it does not say yet.

    pace: seconds a round; left: seconds until the last; since: seconds since the last record; best:
    the best validation value of `metric`, at `best_round`.
    """

    run: str
    state: str
    round: int
    rounds: int
    pace: float | None
    left: float | None
    since: float
    metric: str | None
    best: float | None
    best_round: int | None


def looked(folders: Iterable[Path | str], clock: Callable[[], float] = time.time) -> list[Seen]:
    """What all run folders at or under `folders` say: those that run first, then by their path.

    Args:
        folders: run folders, or folders that hold some; none need to be there yet.
        clock: seconds, of the time by which files are stamped.

    Raises:
        ValueError: for a folder that does not exist.
    """
    found: dict[Path, Seen] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"watch: {str(folder)!r} is no folder; name one with runs in it.")
        for file in folder.rglob("config.yaml"):
            seen = _of(file.parent, clock())
            if seen is not None:
                found.setdefault(file.parent.resolve(), seen)
    return sorted(found.values(), key=lambda x: (STATES.index(x.state), natural(x.run)))


def watch(
    folders: Sequence[Path | str], every: float = 2.0, looks: int | None = None,
    console: Console | None = None,
) -> None:  # fmt: skip
    """Shows what `looked` finds, anew every so many seconds, until Ctrl-C.

    Args:
        folders: as in `looked`.
        every: seconds between two looks. Positive.
        looks: how many, for one that ends.
        console: where; None for the terminal.

    Raises:
        ValueError: for a folder that does not exist, and every that is not positive.
    """
    if not every > 0:
        raise ValueError(f"watch(--every {every}) is no time; use a number of seconds above 0.")
    console = console or Console(highlight=False)
    page = lambda: picture(looked(folders), console.width, console.height)
    with Live(page(), console=console, auto_refresh=False) as live:
        for _ in islice(iter(int, None), None if looks is None else looks - 1):
            time.sleep(every)
            live.update(page(), refresh=True)


def picture(seen: Sequence[Seen], width: int, height: int) -> Group:
    """A line of counts, and a table of as many runs as the height takes."""
    room = max(1, height - 5)
    shown, more = seen[:room], len(seen) - room
    names = ("round", "pace", "left", "last", "best")
    cells = [_cells(one) for one in shown]
    takes = sum(2 + max(map(len, column)) for column in zip(names, *cells, strict=True))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("run", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for one, row in zip(shown, cells, strict=True):
        style = {"running": "", "silent": "yellow", "finished": "dim"}[one.state]
        table.add_row(_end(one.run, max(8, width - takes - 2)), *row, style=style)
    parts = [Text(_counted(seen)), table]
    return Group(*parts, *([Text(f"and {more} more", style="dim")] if more > 0 else []))


def _end(name: str, room: int) -> str:
    """What tells runs apart stands at the end of their paths."""
    return name if len(name) <= room else "…" + name[1 - room :]


def as_json(seen: Iterable[Seen]) -> str:
    """What was seen, for scripts: one object a run."""
    return json.dumps([asdict(one) for one in seen], indent=2)


def _cells(one: Seen) -> list[str]:
    best = "" if one.best is None else f"{one.metric} {one.best:.4f} in {one.best_round}"
    return [
        f"{one.round}/{one.rounds}",
        "" if one.pace is None else f"{one.pace:.3g} s",
        "done" if one.state == "finished" else "" if one.left is None else duration(one.left),
        f"{duration(one.since)} ago" + (", silent" if one.state == "silent" else ""),
        best,
    ]


def duration(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _counted(seen: Sequence[Seen]) -> str:
    if not seen:
        return "no run has begun here yet"
    found = Counter(one.state for one in seen)
    told = ", ".join(f"{found[state]} {state}" for state in STATES if found[state])
    left = [one.left for one in seen if one.state == "running" and one.left is not None]
    return told + (f"; the longest has {duration(max(left))} to go" if left else "")


def _of(folder: Path, now: float) -> Seen | None:
    """None where the folder is not one of a run, or is just being written."""
    try:
        config = read_yaml((folder / "config.yaml").read_text(encoding="utf-8"))
        begun = (folder / "config.yaml").stat().st_mtime
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(config, dict) or not isinstance(config.get("rounds"), int):
        return None
    records, at = _records(folder / "metrics.jsonl")
    since = max(0.0, now - (at or begun))
    done = (folder / "summary.json").is_file()
    rounds, last = config["rounds"], records[-1]["round"] if records else 0
    pace = _pace(records)
    lull = max(QUIET, 5 * pace * (last - records[-2]["round"])) if pace else 5 * QUIET
    state = "finished" if done else "running" if since <= lull else "silent"
    goes_on = pace is not None and state == "running"
    left = max(0.0, pace * (rounds - last) - since) if goes_on else None
    metric, best, at_round = _best(records)
    return Seen(str(folder), state, last, rounds, pace, left, since, metric, best, at_round)


def _records(file: Path) -> tuple[list[dict[str, Any]], float | None]:
    """(records, when the last was written); a line that is not whole yet is left out."""
    try:
        lines, at = file.read_text(encoding="utf-8").splitlines(), file.stat().st_mtime
    except OSError:
        return [], None
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            break
        if isinstance(record, dict) and isinstance(record.get("round"), int):
            found.append(record)
    return found, at


def _pace(records: Sequence[dict[str, Any]]) -> float | None:
    if len(records) < 2:
        return None
    before, last = records[-2:]
    seconds = number(last.get("seconds")) - number(before.get("seconds"))
    rounds = last["round"] - before["round"]
    return seconds / rounds if rounds > 0 and seconds > 0 else None


def _best(records: Sequence[dict[str, Any]]) -> tuple[str | None, float | None, int | None]:
    names = [key for record in records[-1:] for key in record if key.startswith("validation_")]
    known = [r for r in records for key in names[:1] if r.get(key) is not None]
    if not known:
        return None, None, None
    metric = names[0].removeprefix("validation_")
    choose = min if lower_is_better(metric) else max
    best = choose(known, key=lambda record: record[names[0]])
    return metric, float(best[names[0]]), best["round"]
