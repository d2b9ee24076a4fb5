"""The seed of a split: that of the run, where the split has one and it is not set.

seed: 3
data: {split: ratio}        is        data: {split: {class_path: ratio, init_args: {seed: 3}}}
"""

from __future__ import annotations

import inspect
from typing import Any

from .factories import DEFAULTS, find, is_factory


def seed_splits(raw: dict) -> None:
    """Writes the seed of a configuration into its split, and into the one within that. A seed that
    is the default of both is left out, as it was when runs were made with it."""
    section, seed = raw.get("data"), _whole(raw.get("seed"))
    if seed is not None and isinstance(section, dict) and section.get("split") is not None:
        section["split"] = _seeded(section["split"], seed)


def _seeded(split: Any, seed: int) -> Any:
    section = {"class_path": split} if isinstance(split, str) else split
    if not isinstance(section, dict):
        return split
    path = section.get("class_path", DEFAULTS["data.split"])
    given = section.get("init_args") or {}
    if not is_factory(path) or not isinstance(given, dict):
        return split
    known, before = inspect.signature(find(path, "data.split")).parameters, given
    if given.get("split") is not None:
        given = {**given, "split": _seeded(given["split"], seed)}
    if "seed" in known and given.get("seed") is None and known["seed"].default != seed:
        given = {**given, "seed": seed}
    return split if given is before else {**section, "init_args": given}


def _whole(seed: Any) -> int | None:
    if isinstance(seed, str) and seed.isdigit():
        return int(seed)
    return seed if isinstance(seed, int) else None
