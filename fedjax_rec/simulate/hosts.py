"""One run over several processes, on one machine or on many (`jax.distributed`).

Every process plays the same run with the same calls. The clients of a round are dealt over the
devices of all of them, and what is read of a round is the same in each: sums go over the network
inside the compiled call. Only the first process writes.

    FEDJAX_REC_HOSTS=10.0.0.5:9911,0/2 fedjax-rec run CONFIG --out RUN      # on the first machine
    FEDJAX_REC_HOSTS=10.0.0.5:9911,1/2 fedjax-rec run CONFIG --out RUN      # on the second
    FEDJAX_REC_HOSTS=slurm srun fedjax-rec run CONFIG --out RUN             # in a job of Slurm

A process that dies takes the others with it: after some time without it they end. The same commands
then go on from the last checkpoint.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ..types import PyTree

VARIABLE = "FEDJAX_REC_HOSTS"
SLURM, ONE = "slurm", re.compile(r"^(?P<address>[^,\s]+:\d+),(?P<index>\d+)/(?P<count>\d+)$")


def join(devices: int = 1) -> int:
    """Makes this process one of those that `FEDJAX_REC_HOSTS` names, where it is set.

    Call it before anything is computed.

    Args:
        devices: of all processes together; 1 for as many as each has, which of a CPU is one.

    Returns:
        How many of them are this process's own, for `configure`.

    Raises:
        ValueError: for a variable that is neither `slurm` nor `ADDRESS:PORT,INDEX/COUNT`, devices
            that cannot be shared evenly, and processes that do not meet.

    Example:
        >>> simulate.join(4)  # without the variable: this process alone
        4
    """
    told = os.environ.get(VARIABLE, "")
    if not told:
        return devices
    if told == SLURM:
        count, given = _whole("SLURM_NTASKS"), {}
    else:
        found = ONE.match(told)
        if found is None or not int(found["index"]) < int(found["count"]):
            raise ValueError(
                f"{VARIABLE}={told!r} is no process of several; use ADDRESS:PORT,INDEX/COUNT, such "
                "as 10.0.0.5:9911,0/2 for the first of two, or slurm."
            )
        count = int(found["count"])
        given = {
            "coordinator_address": found["address"],
            "num_processes": count,
            "process_id": int(found["index"]),
        }
    if devices > 1 and devices % count:
        raise ValueError(f"devices={devices} are not shared evenly by {count} processes.")
    if not jax.distributed.is_initialized():
        _print_apart()
        try:
            jax.distributed.initialize(**given)
        except (RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())[:120]
            raise ValueError(f"{VARIABLE}={told!r}: the processes did not meet: {said}") from error
    return max(1, devices // count)


def _print_apart() -> None:
    """What libraries print themselves, such as gloo's greetings, goes to standard error: standard
    output is for results."""
    results = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = os.fdopen(results, "w", buffering=1, encoding="utf-8")


def _whole(name: str) -> int:
    told = os.environ.get(name, "")
    if not told.isdigit() or not int(told):
        raise ValueError(f"{VARIABLE}=slurm outside a job of Slurm: {name} is not set; use srun.")
    return int(told)


def is_first() -> bool:
    """Whether this process writes: the first of several, or the only one.

    Example:
        >>> simulate.is_first()
        True
    """
    return jax.process_index() == 0


def from_first(make: Callable[[], Any]) -> Any:
    """What `make()` is in the first process, in all of them.

    Args:
        make: is called in the first process alone, and gives what can be pickled.

    Raises:
        Exception: what `make` raises there, in all of them.

    Example:
        >>> simulate.from_first(lambda: 7)
        7
    """
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    if is_first():
        try:
            value = make()
        except Exception as raised:
            error = raised
    said = pickle.dumps((value, error)) if is_first() else b""
    size = int(_broadcast(np.int64(len(said))))
    padded = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)  # few shapes to compile
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    value, error = pickle.loads(_broadcast(padded)[:size].tobytes())
    if error is not None:
        raise error
    return value


def _broadcast(x) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(x))


def gathered(tree: PyTree) -> PyTree:
    """`tree` with each array that lies with several processes as a whole one of the host; in one
    process as it is. All processes call it at once.

    Args:
        tree: such as the state after a round, whose private part lies with those that own it.

    Example:
        >>> int(simulate.gathered({"round": jnp.int32(3)})["round"])
        3
    """
    if jax.process_count() == 1:
        return tree

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def placed(tree: PyTree, shardings: PyTree) -> PyTree:
    """`tree` laid out by `shardings`, of which each process has the whole."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(x, sharding):
        if sharding is None:  # of what the program does not read
            return x
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            if x.sharding.is_equivalent_to(sharding, x.ndim):
                return x
            x = gathered(x)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(x), sharding), impl=jax.random.key_impl(x)
            )
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])

    return jax.tree.map(put, tree, shardings, is_leaf=lambda x: x is None)


@contextmanager
def folder_of_own(out: Path | str) -> Iterator[Path | str]:
    """The folder that this process plays its run in: `out` in the first one, in others a copy of
    what is there, which goes when the run ends. So all of them go on from the same checkpoint, and
    no disk needs to be seen by all.

    Args:
        out: the folder of the run; it need not be there.

    Example:
        >>> with simulate.folder_of_own("runs/mine") as own:
        ...     print(own)
        runs/mine
    """
    if jax.process_count() == 1:
        yield out
        return
    packed = from_first(lambda: _packed(Path(out)))
    if is_first():
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="fedjax_rec-") as scratch:
        own = Path(scratch) / (Path(out).name or "run")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(own, filter="data")
        yield own


def _packed(folder: Path) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        if folder.is_dir():
            archive.add(folder, arcname=".")
    return held.getvalue()
