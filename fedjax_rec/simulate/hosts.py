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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from ..types import PyTree
from .spread import Filed, Spread, long_rows

VARIABLE = "FEDJAX_REC_HOSTS"
STATES = ("checkpoints", "best")  # of the folder of a run, what holds states
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
    value, error = _from(0, (value, error))
    if error is not None:
        raise error
    return value


def in_step(make: Callable[[], Any]) -> Any:
    """What `make()` is in each process. All processes call it at once, and go on once all did.

    Args:
        make: may raise in some of them alone, such as for a disk that is full.

    Raises:
        Exception: what `make` raised in the first process where it did, in all of them.

    Example:
        >>> simulate.in_step(lambda: 7)
        7
    """
    if jax.process_count() == 1:
        return make()
    value, error = None, None
    try:
        value = make()
    except Exception as raised:
        error = raised
    failed = np.asarray(multihost_utils.process_allgather(np.int32(error is not None)))
    if failed.any():
        raise _from(int(failed.argmax()), error)
    return value


def _from(index: int, value: Any) -> Any:
    """What `value` is in the process of this index."""
    source = jax.process_index() == index
    said = pickle.dumps(value) if source else b""
    size = int(_broadcast(np.int64(len(said)), source))
    padded = np.zeros(1 << max(size - 1, 1).bit_length(), np.uint8)  # few shapes to compile
    padded[: len(said)] = np.frombuffer(said, np.uint8)
    return pickle.loads(_broadcast(padded, source)[:size].tobytes())


def _broadcast(x, source: bool) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(x, source))


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
        if isinstance(x, Spread):
            return whole(x.array)[: x.shape[0]]
        if isinstance(x, Filed):
            return np.asarray(x)
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        if x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def placed(tree: PyTree, shardings: PyTree, sizes: Sequence[int | None] = ()) -> PyTree:
    """`tree` laid out by `shardings`, of which each process has the whole, or reads what it needs.
    sizes: of its leaves, the rows that they are filled up to, see `spread`; () for none."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)

    def put(x, sharding, size=None):
        if sharding is None:  # of what the program does not read
            return x
        if isinstance(x, Spread):
            return x.array
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            same = size is None or size == x.shape[0]
            if same and x.sharding.is_equivalent_to(sharding, x.ndim):
                return x
            x = gathered(x)
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                put(jax.random.key_data(x), sharding, size), impl=jax.random.key_impl(x)
            )
        host: Any = x if isinstance(x, Filed) else np.asarray(x)
        if size is None:
            return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])
        rows: Any = partial(long_rows, host, size=size)
        return jax.make_array_from_callback((size, *host.shape[1:]), sharding, rows)

    nothing = lambda x: x is None
    if not sizes:
        return jax.tree.map(put, tree, shardings, is_leaf=nothing)
    leaves, structure = jax.tree.flatten(tree)
    lies = jax.tree.leaves(shardings, is_leaf=nothing)
    return jax.tree.unflatten(structure, map(put, leaves, lies, sizes))


@contextmanager
def folder_of_own(out: Path | str) -> Iterator[tuple[Path | str, Path | None]]:
    """(the folder that this process plays its run in, the folder of all processes). The first is
    `out` in the first process, and in others a copy of what is there, which goes when the run ends.
    The second is that of the first process where all of them see it, and each writes there what it
    holds of a state; None where they do not, or there is one process.

    Args:
        out: the folder of the run; it need not be there.

    Example:
        >>> with simulate.folder_of_own("runs/mine") as (own, of_all):
        ...     print(own, of_all)
        runs/mine None
    """
    if jax.process_count() == 1:
        yield out, None
        return
    of_all = _seen_by_all(Path(out).absolute())
    packed = from_first(lambda: _packed(Path(out), () if of_all is None else STATES))
    if is_first():
        yield out, of_all
        return
    with tempfile.TemporaryDirectory(prefix="fedjax_rec-") as scratch:
        own = Path(scratch) / (Path(out).name or "run")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(own, filter="data")
        yield own, of_all


def _seen_by_all(folder: Path) -> Path | None:
    """The folder of the first process, where the others see what is written to the disk that it is
    on; or None. All of it that is there is left as it is."""

    def written():
        there = next(x for x in (folder, *folder.parents) if x.is_dir())
        try:
            return folder, tempfile.NamedTemporaryFile(prefix=".fedjax_rec-", dir=there)
        except OSError:  # what is to be written there says so
            return folder, None

    folder, token = written() if is_first() else (folder, None)
    folder, name = from_first(lambda: (folder, token and token.name))
    try:
        sees = np.int32(name is not None and os.path.exists(name))
        return folder if np.asarray(multihost_utils.process_allgather(sees)).all() else None
    finally:
        if token is not None:
            token.close()


def _packed(folder: Path, without: Sequence[str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in without:
                archive.add(path, arcname=path.name)
    return held.getvalue()
