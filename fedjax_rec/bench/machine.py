"""What figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path

import jax

from .. import __version__


def machine() -> dict[str, str]:
    """Device, processor, cores, threads, versions and date. Starts the device."""
    device = jax.devices()[0]
    return {
        "device": f"{device.platform}: {device.device_kind}",
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "threads": os.environ.get("NPROC", "one a core"),
        "versions": f"fedjax_rec {__version__}, jax {jax.__version__}, "
        f"Python {platform.python_version()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "unknown")
