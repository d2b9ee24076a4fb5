"""Where files that are not part of the package lie: data sets and pretrained weights."""

from __future__ import annotations

import os
from pathlib import Path


def roots() -> list[Path]:
    """Folders that are searched, in order: `$FEDJAX_REC_DATA` where it is set, and the cache."""
    given = os.environ.get("FEDJAX_REC_DATA")
    return [*([Path(given).expanduser()] if given else []), cache()]


def cache() -> Path:
    """The user's cache folder of this package (`$XDG_CACHE_HOME` moves it)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedjax_rec"
