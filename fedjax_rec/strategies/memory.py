"""How many clients fit: chunks from a budget, and a refusal where per-client state cannot fit."""

from __future__ import annotations

import os

import jax

# A chunk whose local tables stay within this keeps them in the last-level cache of a CPU:
# a gathered row costs 15 to 25 ns there, and 120 to 200 ns from fresh memory.
CPU_CHUNK_BYTES = 4 * 2**20
CPU_CHUNK_CLIENTS = 16
# On an accelerator a chunk may take this share of memory; local tables, gradients and temporaries
# come to about four times the local tables.
ACCELERATOR_SHARE = 0.4
ACCELERATOR_FACTOR = 4


def device_bytes() -> int:
    """Memory of the first device, or of the host where the device is a CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def clients_that_fit(bytes_per_client: int, cohort: int) -> int:
    """How many clients a chunk holds, for `bytes_per_client` bytes of local parameters."""
    per_client = max(1, bytes_per_client)
    if jax.default_backend() == "cpu":
        fit = min(CPU_CHUNK_CLIENTS, CPU_CHUNK_BYTES // per_client)
    else:
        fit = int(device_bytes() * ACCELERATOR_SHARE) // (ACCELERATOR_FACTOR * per_client)
    return max(1, min(fit, cohort))


def refuse_too_large(what: str, nbytes: int, num_clients: int, remedy: str) -> None:
    """Raises MemoryError where `nbytes` of state for all clients exceed the device's memory."""
    limit = device_bytes()
    if nbytes > 0.9 * limit:
        raise MemoryError(
            f"{what} of {num_clients} clients takes {nbytes / 2**30:.1f} GiB and the device has "
            f"{limit / 2**30:.1f} GiB; {remedy}."
        )
