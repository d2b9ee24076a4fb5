"""States that several processes write together: each the rows that it holds, on a disk of all.

    FOLDER/blocks/ROUND/PROCESS/ARRAY-ROW.npy      what a process holds, rows from ROW on
    FOLDER/ROUND/state                             all else; spans int64[K, 4] by "name#blocks"

Blocks are written first, by all processes, and the state after them by the first process alone,
whole or not at all: a state that is there has its blocks, and blocks without one are nobody's.
Spans hold a checksum of each block. Whoever reads the state needs no mesh: one process has the
whole of it, and of several each reads the rows that its devices ask for.

Orbax writes the state. For blocks it does not serve: arrays of the host it writes in the first
process alone, without a word, arrays of one device it refuses where there are several processes,
and those of all devices have rows that nobody is.

Dimensions: `K` blocks of an array; of each the process that wrote it, its first row, the row after
its last, and its CRC-32.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from .. import trees
from ..types import State
from .hosts import gathered, in_step, is_first
from .seal import Damaged, crc32
from .spread import Blocks, Filed, Spread, blocks_of

BLOCKS = "#blocks"  # ends the name of what says where the rows of an array are
ROW = "#row"  # and that of a row of zeros, which says what they are
ENDS = (BLOCKS, ROW)
PLACE = "blocks"  # the folder of all blocks, beside those of the states


def held(state: State) -> State:
    """What this process has to write of a state: `Blocks` of arrays whose rows lie with several
    processes, and all else whole. All processes call it at once; in one process it is the state.

    Args:
        state: after a round. Blocks are the memory of its arrays, which the next round takes over.

    Example:
        >>> state = strategies.fedavg(model, data.pointwise(1)).init(key, 3)
        >>> simulate.held(state) is state
        True
    """
    if jax.process_count() == 1:
        return state
    trained = {id(x) for x in jax.tree.leaves(trees.trainable(state))}

    def part(x):
        lies_apart = isinstance(x, Spread) or (
            isinstance(x, jax.Array)
            and not (x.is_fully_addressable or x.is_fully_replicated)
            and id(x) in trained
        )
        found = blocks_of(x) if lies_apart else None
        return gathered(x) if found is None else found

    return jax.tree.map(part, state)


def written(folder: Path, round: int, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the blocks of this process, and gives the leaves that the first process writes, with
    spans for those that are in blocks. All processes call it at once. leaves: of `held`."""
    apart = {name: x for name, x in sorted(leaves.items()) if isinstance(x, Blocks)}
    if not apart:
        return dict(leaves)
    place = folder / PLACE / str(round)
    # What is there is of a run that was killed.
    in_step(lambda: shutil.rmtree(place, ignore_errors=True) if is_first() else None)
    in_step(lambda: _write(place / str(jax.process_index()), [x.own for x in apart.values()]))
    of_own = [crc32(x.own[b]) if b in x.own else 0 for x in apart.values() for b in x.spans[:, 1]]
    # Each block has one writer. All are of 32 bits, which jax gathers as they are.
    found = np.asarray(multihost_utils.process_allgather(np.array(of_own, np.uint32)))
    sums = iter(found.sum(0, dtype=np.int64))
    whole = {name: x for name, x in leaves.items() if name not in apart}
    for name, x in apart.items():
        of_array = np.array([next(sums) for _ in x.spans], np.int64)
        whole[name + BLOCKS] = np.concatenate([x.spans, of_array[:, None]], 1)
        whole[name + ROW] = np.zeros((1, *x.shape[1:]), x.dtype)
    return whole


def _write(place: Path, arrays: Sequence[Mapping[int, np.ndarray]]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for i, blocks in enumerate(arrays):
        for begin, block in blocks.items():
            with open(place / f"{i}-{begin}.npy", "wb") as file:
                np.save(file, block, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())


def tidied(folder: Path) -> None:
    """Removes blocks whose state is not there any more."""
    if (folder / PLACE).is_dir():
        for of_round in (folder / PLACE).iterdir():
            if not (folder / of_round.name).is_dir():
                shutil.rmtree(of_round, ignore_errors=True)
        with suppress(OSError):  # where others are left
            (folder / PLACE).rmdir()


def joined(folder: Path, round: int, leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a state as the first process wrote them, with those that are in blocks: whole
    ones in one process, and `Filed` in several, of which each checks some blocks.

    Raises:
        Damaged: Blocks are missing, or are not what was written.
    """
    names = sorted(name.removesuffix(BLOCKS) for name in leaves if name.endswith(BLOCKS))
    files = {
        name: _Files(folder / PLACE / str(round), i, name, *(leaves[name + end] for end in ENDS))
        for i, name in enumerate(names)
    }
    marks = {name + end for name in names for end in ENDS}
    for of_array in files.values():
        of_array.check()
    found = {name: x.filed() if jax.process_count() > 1 else x.whole() for name, x in files.items()}
    return {name: x for name, x in leaves.items() if name not in marks} | found


class _Files:
    """The blocks of one array. place: of those of its state. number: among the arrays of it."""

    def __init__(self, place: Path, number: int, name: str, spans: Any, row: Any):
        self.place, self.number, self.name = place, number, name
        self.spans = np.asarray(spans).tolist()
        self.dtype = np.dtype(row.dtype)
        self.shape = (max(end for *_, end, _ in self.spans), *row.shape[1:])

    def block(self, process: int, begin: int, end: int) -> np.ndarray:
        """A block, which is read where it is looked at. Raises Damaged."""
        path = self.place / str(process) / f"{self.number}-{begin}.npy"
        try:
            found = np.load(path, mmap_mode="r").view(self.dtype)
        except (OSError, ValueError) as error:
            raise Damaged(f"what process {process} wrote of {self.name} is not there") from error
        if found.shape != (end - begin, *self.shape[1:]):
            raise Damaged(f"what process {process} wrote of {self.name} has another shape")
        return found

    def check(self) -> None:
        """Reads what this process wrote, and of fewer or more processes its share. Raises
        Damaged."""
        for process, begin, end, sum_ in self.spans:
            mine = process % jax.process_count() == jax.process_index()
            if mine and crc32(self.block(process, begin, end)) != sum_:
                raise Damaged(f"what process {process} wrote of {self.name} has another checksum")

    def rows(self, begin: int, end: int) -> np.ndarray:
        """float[end - begin, ...], in memory of its own."""
        found = np.empty((end - begin, *self.shape[1:]), self.dtype)
        for process, first, last, _ in self.spans:
            a, b = max(begin, first), min(end, last)
            if a < b:
                found[a - begin : b - begin] = self.block(process, first, last)[
                    a - first : b - first
                ]
        return found

    def whole(self) -> np.ndarray:
        return self.rows(0, self.shape[0])

    def filed(self) -> Filed:
        return Filed(self.shape, self.dtype, self.rows)
