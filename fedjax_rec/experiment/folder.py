"""A run folder: `config.yaml`, `metrics.jsonl`, `summary.json`, `per_user.npz`, `figures/`,
`checkpoints/`, `best/` (the state after the best round), and the `.lock` of the process that runs
there.

One process at a time runs in it. Files are replaced whole (written beside, then renamed).
`metrics.jsonl` grows by whole lines, each forced to disk; what a kill left half-written is cut off
on resuming.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock, Timeout

from ..storage import whole

LOCK = ".lock"
# Keys that do not change what a run computes: a run may be resumed with others.
FREE = ("rounds", "checkpoint_every", "audit", "name", "threads", "memory_budget", "keep_best")


def fingerprint(plain: dict[str, Any]) -> str:
    """Twelve digits that tell configurations apart which give different numbers; a key that is None
    is as if it was not there."""
    kept = {k: v for k, v in plain.items() if k not in FREE and v is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


class RunFolder:
    """The folder of one run, checked for a configuration. Nothing is written before `begin`.

    Raises ValueError where the folder holds another configuration's run, or something else.
    """

    def __init__(self, path: Path | str, plain: dict[str, Any], overwrite: bool = False):
        self.path = Path(path)
        self.plain = plain
        self.fingerprint = fingerprint(plain)
        self.overwrite = overwrite
        self.lock = FileLock(self.path / LOCK, blocking=False)
        self._check()

    def begin(self) -> None:
        """Makes the folder, cleared of an earlier run where `overwrite`, with its `config.yaml`,
        and holds it until `release`. Raises ValueError where another process does."""
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
        if self.overwrite:
            for name in ("best", "checkpoints", "figures"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            for name in ("metrics.jsonl", "summary.json", "per_user.npz"):
                (self.path / name).unlink(missing_ok=True)
        self._write("config.yaml", yaml.safe_dump(self.plain, sort_keys=False).encode())

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
                found = yaml.safe_load(file.read_text())
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
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def finished(self) -> bool:
        return (self.path / "summary.json").is_file()

    def records(self, until: int) -> list[dict]:
        """The records of the first `until` rounds; later and half-written lines are cut off."""
        file = self.path / "metrics.jsonl"
        kept = []
        if file.is_file():
            for line in file.read_text().splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:
                    break
                if record["round"] <= until:
                    kept.append({k: math.nan if v is None else v for k, v in record.items()})
        self._write("metrics.jsonl", "".join(_json(r) + "\n" for r in kept).encode())
        return kept

    def append(self, record: dict) -> None:
        with open(self.path / "metrics.jsonl", "a") as file:
            file.write(_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_summary(self, summary: dict) -> None:
        self._write("summary.json", (_json(summary, indent=2) + "\n").encode())

    def write_per_user(self, **arrays: np.ndarray) -> None:
        with whole(self.path / "per_user.npz") as beside, open(beside, "wb") as file:
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
            if path or key not in FREE:
                out |= _differences(a.get(key), b.get(key), f"{path}.{key}" if path else key)
        return out
    return set() if a == b else {path}
