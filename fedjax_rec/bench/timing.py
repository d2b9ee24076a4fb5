"""Timing of compiled functions: medians of CPU and wall seconds after warm-up."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Timing:
    """Medians a call, in seconds; first: wall seconds of the first call, compilation included."""

    cpu: float
    wall: float
    first: float


def repeat(call: Callable[[], object], times: int) -> Timing:
    """Calls `call` once, then `times` times, waiting for its result each time."""
    begin = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - begin
    cpu, wall = [], []
    for _ in range(times):
        c, w = time.process_time(), time.perf_counter()
        jax.block_until_ready(call())
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    return Timing(statistics.median(cpu), statistics.median(wall), first)
