"""How the process uses this machine: threads of the CPU and the persistent compilation cache."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from ..data.sources import sources


def configure(threads: int = 1, cache: str | Path | None = "") -> None:
    """Call before the first computation; later calls change the cache only.

    Args:
        threads: that XLA's CPU backend spreads each operation over, 0 for one a core. The
            operations of a round are small, and one thread does a round in the same wall time as
            two and half the CPU time; large dense models gain from more. `NPROC` in the environment
            wins.
        cache: folder for compiled programs, which makes the next start faster; "" for
            `$XDG_CACHE_HOME/fedjax_rec/xla` (or `~/.cache`), None for no cache.
    """
    if threads < 0:
        raise ValueError(f"configure(threads={threads}) must not be negative; 0 is one a core.")
    if threads:
        os.environ.setdefault("NPROC", str(threads))
    if cache is None:
        return
    if cache == "":
        cache = sources.cache() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
