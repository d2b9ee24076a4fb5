"""How much memory there is, how much a run may take, and how many clients fit by a rule of thumb.

A run may take what the device has, or less: `with memory_budget("2GiB")`, or FEDJAX_REC_MEMORY in
the environment. Chunks and refusals keep to it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

# A chunk whose local tables stay within this keeps them in the last-level cache of a CPU:
# a gathered row costs 15 to 25 ns there, and 120 to 200 ns from fresh memory.
CPU_CHUNK_BYTES = 4 * 2**20
CPU_CHUNK_CLIENTS = 16
# On an accelerator a chunk may take this share of memory; local tables, gradients and temporaries
# come to about four times the local tables.
ACCELERATOR_SHARE = 0.4
ACCELERATOR_FACTOR = 4
# The rest of a device is its runtime's and other programs'.
DEVICE_SHARE = 0.9

VARIABLE = "FEDJAX_REC_MEMORY"
_UNITS = {"": 1, "B": 1}
_UNITS |= {p + "B": 1000**i for i, p in enumerate("KMGT", 1)}
_UNITS |= {p + "IB": 1024**i for i, p in enumerate("KMGT", 1)}
_told: ContextVar[int | None] = ContextVar("memory budget", default=None)


def bytes_of(where: str, size: int | str) -> int:
    """The bytes of a size such as 4096, "512MiB" or "2 GB". Raises ValueError, naming `where`."""
    parts = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", str(size))
    unit = _UNITS.get(parts[2].upper()) if parts else None
    if parts is None or unit is None or not float(parts[1]) > 0:
        raise ValueError(f"{where}={size!r} is no size of memory; use one like 512MiB or 2GiB.")
    return int(float(parts[1]) * unit)


@contextmanager
def memory_budget(size: int | str | None) -> Iterator[None]:
    """Within it, runs may take `size` of the device's memory for everything that a call holds at
    its peak: the model, all state, the data and temporaries. Chunks of clients are chosen to fit,
    and what cannot fit is refused.

    Args:
        size: bytes, or a text such as "2GiB"; None changes nothing.

    Raises:
        ValueError: for what is no size.

    Example:
        >>> with strategies.memory_budget("2GiB"):
        ...     strategy = strategies.fedavg(model, data.pointwise(4))
    """
    before = _told.set(_told.get() if size is None else bytes_of("memory_budget", size))
    try:
        yield
    finally:
        _told.reset(before)


def budget_bytes() -> int | None:
    """The budget that was set, by `memory_budget` or else in the environment, or None."""
    if (told := _told.get()) is not None:
        return told
    size = os.environ.get(VARIABLE)
    return bytes_of(VARIABLE, size) if size else None


def device_bytes() -> int:
    """Memory of the first device, or of the host where the device is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def allowed_bytes() -> int:
    """What a run may take: its budget, or most of the device."""
    return budget_bytes() or int(DEVICE_SHARE * device_bytes())


def sharing(devices: int) -> int:
    """How many of so many devices, of all processes, have one memory between them: on a CPU those
    of a process, which is taken to have its host for itself."""
    return max(1, devices // jax.process_count()) if jax.default_backend() == "cpu" else 1


def clients_that_fit(bytes_per_client: int, cohort: int) -> int:
    """How many clients a chunk holds, for `bytes_per_client` bytes of local parameters."""
    per_client = max(1, bytes_per_client)
    if jax.default_backend() == "cpu":
        fit = min(CPU_CHUNK_CLIENTS, CPU_CHUNK_BYTES // per_client)
    else:
        fit = int(device_bytes() * ACCELERATOR_SHARE) // (ACCELERATOR_FACTOR * per_client)
    return max(1, min(fit, cohort))


def refuse_too_large(what: str, nbytes: int, num_clients: int, remedy: str) -> None:
    """Raises MemoryError where `nbytes` of state for all clients exceed what a run may take, of
    several processes each its part."""
    limit = allowed_bytes() * jax.process_count()
    if nbytes > limit:
        raise MemoryError(
            f"{what} of {num_clients} clients takes {size(nbytes)} and the run may take "
            f"{size(limit)}; {remedy}."
        )


def size(nbytes: float) -> str:
    """'1.5 GiB', '12 MiB' or '300 KiB'."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if nbytes >= scale:
            number = nbytes / scale
            return f"{number:.1f} {unit}" if number < 10 else f"{number:,.0f} {unit}"
    return f"{nbytes / 2**10:.0f} KiB" if nbytes >= 2**10 else f"{nbytes:.0f} B"
