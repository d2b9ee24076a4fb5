"""How the process uses this machine: threads of the CPU and the persistent compilation cache."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import jax
from jax.sharding import Mesh

from .. import pieces, rows
from ..check import at_least, one_of
from ..data.sources import sources


def configure(threads: int = 1, cache: str | Path | None = "", devices: int = 1) -> None:
    """Call before the first computation; later calls change the cache only.

    Args:
        threads: that XLA's CPU backend spreads each operation over, 0 for one a core. The
            operations of a round are small, and one thread does a round in the same wall time as
            two and half the CPU time; large dense models gain from more. `NPROC` in the environment
            wins.
        cache: folder for compiled programs, which makes the next start faster; "" for
            `$XDG_CACHE_HOME/fedjax_rec/xla` (or `~/.cache`), None for no cache.
        devices: how many a CPU is for programs on a mesh, see `clients_mesh`: one for each of its
            cores at most. What is an accelerator has those that it has.

    Raises:
        ValueError: for threads below 0 or devices below 1.

    Example:
        >>> simulate.configure(threads=1, cache=None)
    """
    if threads < 0:
        raise ValueError(f"configure(threads={threads}) must not be negative; 0 is one a core.")
    if devices != 1:
        at_least("configure", "devices", devices, 1)
        with contextlib.suppress(RuntimeError):  # too late; whoever asks for a mesh is told
            if getattr(jax.config, "jax_num_cpu_devices", 0) < devices:
                jax.config.update("jax_num_cpu_devices", devices)
    if threads:
        os.environ.setdefault("NPROC", str(threads))
    _refuse_absent_platform()
    if cache is None:
        return
    if cache == "":
        cache = sources.cache() / "xla"
    jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _refuse_absent_platform() -> None:
    """Raises ValueError where JAX_PLATFORMS names what this installation of jax cannot use, of
    which jax says something else, and later."""
    wanted = os.environ.get("JAX_PLATFORMS")
    if not wanted or wanted == "cpu":
        return
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        told = str(error).split(".")[0] or "none"
        raise ValueError(
            f"JAX_PLATFORMS={wanted}: jax finds no such device ({told}); "
            "install jax for it, pip install 'jax[cuda13]', or unset JAX_PLATFORMS."
        ) from error


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# How devices hold a base together, and the axis of the mesh that says so.
BASES = {"layers": pieces.AXIS, "heads": pieces.HEADS}


def clients_mesh(
    devices: int, row_devices: int = 1, base_devices: int = 1, base_by: str = "layers"
) -> Mesh | None:
    """The mesh over which the clients of a round are dealt.

    Args:
        devices: how many. 1 or more. Of several processes (`join`) all, for 1 too.
        row_devices: R, of them, which hold each table together, a block of its rows each; 1 where
            each of them has the whole.
        base_devices: K, of them, which hold a frozen base together, a piece of each large array
            each; 1 where each of them has the whole. Not beside R > 1.
        base_by: "layers": a layer is collected where it is used (FSDP, Zhao et al., VLDB 2023);
            "heads": it stays where it lies, and what goes into it travels (Megatron-LM, Shoeybi et
            al. 2019), which is less where clients have few tokens.

    Returns:
        A mesh of one axis, `clients`, or, for R > 1 or K > 1, of two, `clients` and `rows` or
        `base`, or `heads` for a base by heads; None for one device.

    Raises:
        ValueError: There are fewer devices, or more in several processes, or R or K does not divide
            them, K is more than 1 in several processes, or both are, or for another `base_by`.

    Example:
        >>> simulate.configure(devices=2, cache=None)  # the cores of a CPU as devices
        >>> simulate.clients_mesh(1) is None
        True
    """
    at_least("clients_mesh", "devices", devices, 1)
    at_least("clients_mesh", "row_devices", row_devices, 1)
    at_least("clients_mesh", "base_devices", base_devices, 1)
    one_of("clients_mesh", "base_by", base_by, BASES)
    if row_devices > 1 and base_devices > 1:
        raise ValueError(
            f"row_devices={row_devices} and base_devices={base_devices}: devices hold tables "
            f"together, or a frozen base, and not both; {rows.ALONE} or {pieces.ALONE}."
        )
    held = {"row_devices": (row_devices, rows.AXIS), "base_devices": (base_devices, BASES[base_by])}
    second = {name: x for name, x in held.items() if x[0] > 1}
    there = jax.devices()
    if jax.process_count() > 1:
        if devices not in (1, len(there)):
            raise ValueError(
                f"devices={devices}, and {jax.process_count()} processes have {len(there)}, of "
                f"which none can stay away; use devices={len(there)}, or leave it out."
            )
        if base_devices > 1:
            raise ValueError(
                f"base_devices={base_devices}: each of {jax.process_count()} processes holds a "
                f"whole base, whose pieces lie on the devices of one process alone; {pieces.ALONE}."
            )
        devices = len(there)
    if devices > len(there):
        raise ValueError(
            f"devices={devices}, and there are {len(there)} ({there[0].platform}); use at most "
            f"{len(there)}, or on a CPU simulate.configure(devices={devices}) before anything else "
            "of jax."
        )
    for name, (count, _) in second.items():
        if devices % count:
            raise ValueError(
                f"{name}={count} does not divide devices={devices}, by which clients are dealt; "
                f"use devices={-(-devices // count) * count}."
            )
    if devices == 1:
        return None
    axes = {"clients": devices // (row_devices * base_devices)}
    axes |= {axis: count for count, axis in second.values()}
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return jax.make_mesh((*axes.values(),), (*axes,), kinds, devices=there[:devices])
