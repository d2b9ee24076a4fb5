"""What trackers have in common: a callback that opens a library's run at the first measured round,
hands it the numbers of each, and closes it with the run.

    open(progress) -> Tracking(write(round, metrics), close(failed))
"""

from __future__ import annotations

import importlib
import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..simulate import Progress
from ..storage import whole

REMEMBERED = "trackers.json"  # in a run's folder: what its trackers call it
_ONE = threading.RLock()  # runs of a sweep open and close one at a time: libraries are global


@dataclass(frozen=True)
class Tracking:
    """A run as a library has it open. write(round, metrics): finite numbers by name; close(failed):
    whether the run ended before its end, by an error or by Ctrl-C."""

    write: Callable[[int, dict[str, float]], Any]
    close: Callable[[bool], Any]


class Tracker:
    """A callback. name: for messages, and of the extra that installs what it needs. module: of the
    library. open(library, progress) -> Tracking: of the first round that it is told, for whose run
    it makes one in the library, or goes on with the one that it was.
    """

    def __init__(self, name: str, module: str, open: Callable[[Any, Progress], Tracking]):
        self.name, self.module, self.open = name, module, open
        self.tracking: Tracking | None = None

    def __call__(self, progress: Progress) -> None:
        if self.tracking is None:
            there = library(self.module, self.name)
            with _ONE:
                self.tracking = self.open(there, progress)
        self.tracking.write(progress.round, numbers(progress.metrics))

    def __enter__(self) -> Tracker:
        library(self.module, self.name)  # what is missing is said before the first round
        return self

    def __exit__(self, kind, *error) -> None:
        tracking, self.tracking = self.tracking, None
        if tracking is not None:
            with _ONE:
                tracking.close(kind is not None)


# What holds the library of an extra, where it is called otherwise.
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow-skinny"}


def library(module: str, extra: str) -> Any:
    """The module of a library. Raises ValueError, with what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"needs the library {module} ({error}); pip install {PACKAGES.get(extra, extra)}."
        ) from None


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of a record that are finite numbers, but the round."""
    found = {k: v for k, v in metrics.items() if k != "round" and isinstance(v, int | float)}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def spelled(name: str) -> str:
    """`hr_at_10` of hr@10, for libraries that know no `@` in names."""
    return name.replace("@", "_at_")


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """A configuration by dotted keys, as overrides of the command line name them; lists as text."""
    if not isinstance(config, Mapping):
        return {path: json.dumps(config) if isinstance(config, list) else config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, path if key == "init_args" else f"{path}.{key}".lstrip("."))
    return found


def folder_of(progress: Progress, given: str | None, what: str) -> Path:
    """`given`, or the folder of the run. Raises ValueError where there is neither."""
    if given is None and progress.folder is None:
        raise ValueError(f"{what}=None is the folder of the run, which has none; give one.")
    return Path(given) if given is not None else Path(str(progress.folder))


def remembered(progress: Progress, tracker: str, make: Callable[[], str]) -> tuple[str, bool]:
    """(what a tracker calls this run, whether it did before), of `trackers.json` in its folder."""
    if progress.folder is None:
        return make(), False
    file = Path(progress.folder) / REMEMBERED
    known = json.loads(file.read_text()) if file.is_file() else {}
    if tracker in known:
        return known[tracker], True
    known[tracker] = make()
    with whole(file) as beside:
        beside.write_text(json.dumps(known))
    return known[tracker], False
