"""A run folder: `config.yaml`, `metrics.jsonl`, `summary.json`, `per_user.npz`, `predictions.npz`
(of the labelled examples of a test whose users are known), `figures/`, `checkpoints/`, `best/` (the
state after the best round), and the `.lock` of the process that runs there.

One process at a time runs in it. Files are replaced whole (written beside, then renamed).
`metrics.jsonl` grows by whole lines, each forced to disk. A checkpoint has the checksums of those
up to it: on resuming they must be there, and what stands after them is cut off.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from ..report.reading import PER_USER, PREDICTIONS, RUNG, Run, read_run, without_later
from ..storage import read_yaml, whole

LOCK = ".lock"
# Keys that do not change what a run computes: a run may be resumed with others.
FREE = (
    "rounds", "checkpoint_every", "audit", "name", "threads", "devices",
    "row_devices", "base_devices", "base_by", "memory_budget", "keep_best", "most_rejected",
    "callbacks",
)  # fmt: skip


def free_of(plain: dict[str, Any]) -> tuple[str, ...]:
    """The free keys of a configuration. Where noise was found for so many rounds, no others."""
    told = plain.get("privacy") or {}
    found = any(told.get(key) is not None for key in ("epsilon", "correlated"))
    return tuple(key for key in FREE if not (found and key == "rounds"))


def fingerprint(plain: dict[str, Any]) -> str:
    """Twelve digits that tell configurations apart which give different numbers; a key that is
    None, at the top or of the data, is as if it was not there, and `correlated` of privacy, too,
    and what came later to other sections."""
    plain = without_later(plain)
    kept = {k: v for k, v in plain.items() if k not in free_of(plain) and v is not None}
    if isinstance(found := kept.get("data"), dict):
        kept["data"] = {k: v for k, v in found.items() if v is not None}
    if isinstance(found := kept.get("privacy"), dict) and found.get("correlated") is None:
        kept["privacy"] = {k: v for k, v in found.items() if k != "correlated"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


class RunFolder:
    """The folder of one run, checked for a configuration. Nothing is written before `begin`.

    of_all: the folder of a run of several processes, which all of them see, and where each writes
    and reads states; None where states are this process's alone.

    Raises ValueError where the folder holds another configuration's run, or something else.
    """

    def __init__(
        self,
        path: Path | str,
        plain: dict[str, Any],
        overwrite: bool = False,
        of_all: Path | None = None,
    ):
        if not str(path):
            raise ValueError("--out '' names no folder; give one, such as runs/mine.")
        self.path = Path(path)
        self.plain = plain
        self.fingerprint = fingerprint(plain)
        self.overwrite = overwrite
        self.of_all = of_all
        self.lock = FileLock(self.path / LOCK, blocking=False)
        self._check()

    def hold(self) -> None:
        """Makes the folder and holds it until `release`. Raises ValueError where another process
        does."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise ValueError(
                f"--out {self.path}: another process runs there; wait for it, or use another "
                "folder."
            ) from None
        try:
            self._check()  # another process may have run there since
        except ValueError:
            self.release()
            raise

    def keep_finished(self) -> None:
        """For a run that begins: raises ValueError where a finished one is here whose checkpoints
        are gone, and says which records of an unfinished one are made anew."""
        if self.overwrite or self._existing() is None:
            return
        if self.finished:
            raise ValueError(
                f"--out {self.path}: holds a finished run whose checkpoints are gone, so it cannot "
                "go on; use another folder, or --overwrite true to lose its records."
            )
        if (file := self.path / "metrics.jsonl").is_file() and file.stat().st_size:
            print(
                f"fedjax-rec: {self.path}: no checkpoint is left of what {file.name} tells; begins "
                "anew.",
                file=sys.stderr,
            )

    def begin(self, records: Sequence[dict] | None = None) -> None:
        """Writes `config.yaml`, and where `records` are given them alone to `metrics.jsonl`, in a
        folder that is cleared of an earlier run where `overwrite`. Holds it where that was not done
        before."""
        if not self.lock.is_locked:
            self.hold()
        if self.overwrite:
            for name in ("best", "checkpoints", "figures", "tensorboard"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            told = ("metrics.jsonl", RUNG, "summary.json", "trackers.json")
            for name in (*told, PER_USER, PREDICTIONS):
                (self.path / name).unlink(missing_ok=True)
        self._write("config.yaml", yaml.safe_dump(self.plain, sort_keys=False).encode())
        if records is not None:
            self._write("metrics.jsonl", "".join(_json(r) + "\n" for r in records).encode())

    def release(self) -> None:
        """Leaves the folder to others, as a process that dies does; nothing where it holds none."""
        self.lock.release()

    def _check(self) -> None:
        existing = self._existing()
        if existing is None or self.overwrite or fingerprint(existing) == self.fingerprint:
            return
        different = sorted(_differences(existing, self.plain))
        raise ValueError(
            f"--out {self.path}: holds a run of another configuration (different: "
            f"{', '.join(different)}); use another folder, or --overwrite true."
        )

    def _existing(self) -> dict | None:
        file = self.path / "config.yaml"
        if file.is_file():
            try:
                found = read_yaml(file.read_text())
            except yaml.YAMLError:
                found = None
            if isinstance(found, dict) or self.overwrite:
                return found
            raise ValueError(
                f"--out {self.path}: its config.yaml cannot be read; use another folder, or "
                "--overwrite true."
            )
        if self.path.exists() and (not self.path.is_dir() or _names(self.path) - {LOCK}):
            raise ValueError(
                f"--out {self.path}: exists and is no run folder; use another folder or empty it."
            )
        return None

    @property
    def checkpoints(self) -> Path:
        return (self.of_all or self.path) / "checkpoints"

    @property
    def best(self) -> Path:
        return (self.of_all or self.path) / "best"

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    def records(self, sums: Sequence[int] | np.ndarray) -> list[dict]:
        """The first records, of which `sums` are the checksums as `sums(records)` gave them,
        whatever stands after them.

        Raises:
            ValueError: One of them is damaged or missing; it names the line.
        """
        file = self.path / "metrics.jsonl"
        lines = file.read_bytes().split(b"\n") if file.is_file() else []
        kept = []
        for line, sum_ in enumerate(sums, start=1):
            text = lines[line - 1] if line <= len(lines) else b""
            if zlib.crc32(text) != sum_:
                what = "is not the record that was written" if text else "lacks the record"
                raise ValueError(
                    f"{file}:{line}: {what} there before the checkpoint; put the file back, or use "
                    "another --out, or --overwrite true."
                )
            record = json.loads(text)
            kept.append({k: math.nan if v is None else v for k, v in record.items()})
        return kept

    @staticmethod
    def sums(records: Sequence[dict]) -> np.ndarray:
        """uint32[n]: a checksum of each record's line."""
        return np.array([zlib.crc32(_json(record).encode()) for record in records], np.uint32)

    def append(self, record: dict) -> None:
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_summary(self, summary: dict) -> None:
        self._write("summary.json", (_json(summary, indent=2) + "\n").encode())

    def outcome(self, summary: dict) -> Run:
        """The run as it is read once `summary` is written."""
        return read_run(self.path, json.loads(_json(summary)))

    def write_per_user(self, **arrays: np.ndarray) -> None:
        self._write_arrays(PER_USER, arrays)

    def write_predictions(self, **arrays: np.ndarray) -> None:
        self._write_arrays(PREDICTIONS, arrays)

    def _write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        with whole(self.path / name) as beside, open(beside, "wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    def _write(self, name: str, data: bytes) -> None:
        with whole(self.path / name) as beside:
            beside.write_bytes(data)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def _json(value: Any, indent: int | None = None) -> str:
    """Strict JSON, in which what was not measured is null: NaN is no JSON."""

    def strict(x):
        if isinstance(x, dict):
            return {k: strict(v) for k, v in x.items()}
        return None if isinstance(x, float) and not math.isfinite(x) else x

    return json.dumps(strict(value), indent=indent, allow_nan=False)


def _differences(a: Any, b: Any, path: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        out = set()
        for key in a.keys() | b.keys():
            if path or key not in free_of(b):
                out |= _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        return out
    return set() if a == b else {path}
