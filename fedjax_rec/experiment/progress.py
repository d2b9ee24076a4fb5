"""The live progress of a run: round, loss, the chosen metric, bytes, rounds a second."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import simulate
from .config import Config


class Bar:
    """A callback of the run of which `records` are there already. Quiet where not `show`."""

    def __init__(self, config: Config, records: list[dict], chooser: str, show: bool):
        self.metric = chooser.removeprefix("validation_")
        self.sent, self.got = (sum(r[b] for r in records) for b in ("bytes_up", "bytes_down"))
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not show,
        )
        begun = records[-1]["round"] if records else 0
        self.task = self.progress.add_task(
            config.name, total=config.rounds, completed=begun, text="compiling"
        )

    def __enter__(self) -> Bar:
        self.progress.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.progress.__exit__(*error)

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self.progress.disable:
            self.progress.console.print(line, highlight=False, soft_wrap=True)

    def __call__(self, progress: simulate.Progress) -> None:
        record = progress.metrics
        if progress.rejected:
            self.say(_without(progress.rejected))
        self.sent += record["bytes_up"]
        self.got += record["bytes_down"]
        # The pace of the last rounds, so that compilation does not count for long.
        recent = progress.records[-10:]
        rounds = recent[-1]["round"] - recent[0]["round"]
        seconds = recent[-1]["seconds"] - recent[0]["seconds"]
        pace = f"{rounds / seconds:.1f} rounds/s" if rounds and seconds > 0 else ""
        text = (
            f"loss {record['loss']:.4f}  {self.metric} {record[self.metric]:.4f}  "
            f"up {decimal(self.sent)} ({decimal(round(record['bytes_up_per_client']))} each)  "
            f"down {decimal(self.got)}  {pace}"
        )
        self.progress.update(self.task, completed=record["round"], text=text)


def _without(rejected: dict[int, list[int]]) -> str:
    """Who was left out of which rounds, in one line."""
    rounds = (f"round {at}: {', '.join(map(str, ids))}" for at, ids in rejected.items())
    return (
        f"left out clients whose round was not finite ({'; '.join(rounds)}); lower the learning "
        "rates where there are many."
    )
