"""The live progress of a run: rounds, pace, time, and then the metric, loss and bytes.

On a terminal a bar, of which a narrow one loses the bytes first; elsewhere, as in a log, a plain
line every `EVERY` seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from .. import simulate
from ..rounds.memory import size
from .config import Config

EVERY = 10.0  # seconds between plain lines


class Bar:
    """A callback of the run of which `records` are there already. Quiet where not `show`.

    console: where a terminal is; None for standard error. clock: seconds.
    """

    def __init__(
        self, config: Config, records: list[dict], chooser: str, show: bool,
        console: Console | None = None, clock: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.metric = chooser.removeprefix("validation_")
        self.sent, self.got = (sum(r[b] for r in records) for b in ("bytes_up", "bytes_down"))
        console = console or Console(stderr=True)
        self.show, self.plain = show, show and not console.is_terminal
        self.name, self.rounds, self.clock = config.name, config.rounds, clock
        self.begun, self.told = clock(), -EVERY + clock()
        fixed = lambda: Column(no_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True, max_width=20)),
            BarColumn(bar_width=8, table_column=Column(no_wrap=True, min_width=8)),
            MofNCompleteColumn(table_column=fixed()),
            TextColumn("{task.fields[pace]}", table_column=fixed()),
            TimeElapsedColumn(table_column=fixed()),
            TextColumn("left", table_column=fixed()),
            TimeRemainingColumn(table_column=fixed()),
            TextColumn(
                "{task.fields[text]}",
                table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
            ),
            console=console,
            disable=not show or self.plain,
            expand=True,
        )
        begun = records[-1]["round"] if records else 0
        self.task = self.progress.add_task(
            config.name, total=config.rounds, completed=begun, pace="", text=""
        )

    def __enter__(self) -> Bar:
        self.progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.progress.__exit__(*error)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if self.plain:
            print(line, file=sys.stderr, flush=True)
        elif self.show:
            self.progress.console.print(line, highlight=False, soft_wrap=True)

    def __call__(self, progress: simulate.Progress) -> None:
        record = progress.metrics
        if progress.rejected:
            self.say(_without(progress.rejected))
        self.sent += record["bytes_up"]
        self.got += record["bytes_down"]
        each = size(round(record["bytes_up_per_client"]))
        text = (
            f"{self.metric} {record[self.metric]:.4f}  loss {record['loss']:.4f}  "
            f"up {size(self.sent)} ({each} each)  down {size(self.got)}"
        )
        seconds = _a_round(progress.records)
        done = record["round"]
        self.progress.update(self.task, completed=done, pace=_pace(seconds), text=text)
        if self.plain and (done >= self.rounds or self.clock() - self.told >= EVERY):
            self.told = self.clock()
            left = "" if seconds is None else f"  {_time(seconds * (self.rounds - done))} left"
            self.say(
                f"{self.name}: {done}/{self.rounds}  {_pace(seconds)}  "
                f"{_time(self.clock() - self.begun)} so far{left}  {text}"
            )


def _a_round(records) -> float | None:
    """Seconds a round, of the last ones, so that compilation does not count for long."""
    recent = records[-10:]
    rounds = recent[-1]["round"] - recent[0]["round"]
    seconds = recent[-1]["seconds"] - recent[0]["seconds"]
    return seconds / rounds if rounds and seconds > 0 else None


def _pace(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{1 / seconds:.1f}/s" if seconds <= 1 else f"{seconds:.1f} s each"


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _without(rejected: dict[int, list[int]]) -> str:
    """Who was left out of which rounds, in one line."""
    rounds = (f"round {at}: {', '.join(map(str, ids))}" for at, ids in rejected.items())
    return (
        f"left out clients whose round was not finite ({'; '.join(rounds)}); lower the learning "
        "rates where there are many."
    )
