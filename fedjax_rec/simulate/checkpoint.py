"""Checkpoints with orbax: a run that is killed resumes to the same bits.

A checkpoint holds every leaf of a `State` by its path (of a large frozen one that is the model's
own its checksum, see `lent`), arrays of the caller's, what the run is made of (the fingerprint of
its configuration, the digest of its data), and checksums of all of it.
Orbax writes to a temporary folder and renames it, so a checkpoint is whole or not there, until a
disk or a hand damages it: then the run goes on from the one before. Of several processes each
writes the rows that it has, see `block_files`, and the first all else.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..trees import named
from ..types import State
from .block_files import held, joined, tidied, written
from .hosts import from_first, in_step, is_first
from .lent import LENT, Lent, OtherBase
from .seal import Damaged, opened, opened_text, sealed, sealed_text
from .spread import Filed

_ALONE = threading.RLock()


def _named(state: State) -> dict:
    """The leaves by path, without the empty ones, which orbax does not save."""
    return {name: x for name, x in named(state).items() if x.size}


def _filled(like: State, leaves: Mapping[str, Any], what: str) -> State:
    """`like` with its leaves by path; empty ones are made, since they are not saved."""
    leaves = Lent(like).filled(leaves, what)
    wanted = _named(like)
    other = sorted(leaves.keys() ^ wanted.keys()) or [
        name for name, x in wanted.items()
        if (leaves[name].shape, leaves[name].dtype) != (x.shape, x.dtype)
    ]  # fmt: skip
    if other:
        raise Damaged(f"the state is of another structure at {other[0]}")

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        if isinstance(leaves.get(name), Filed):
            return leaves[name]
        return jnp.asarray(leaves[name]) if x.size else jnp.zeros(x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Damage is told in one way, whichever of orbax's layers meets it."""
    with _quiet():
        try:
            yield
        except (MemoryError, PermissionError):
            raise
        except OtherBase:
            raise
        except Damaged as error:
            raise Damaged(f"{what} is damaged: {error}") from error
        except Exception as error:  # of tensorstore, JSON, zstd and file systems: no narrower base
            told = " ".join(str(error).split())[:80] or type(error).__name__
            raise Damaged(f"{what} is damaged, or of another version: {told}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Orbax logs the traceback of each of its tasks beside what it raises; that is enough. One
    thread at a time: it tells its operations apart by a count of the whole process, and two saves
    wait for each other's signals."""
    with _ALONE:
        yield from _quieted()


def _quieted() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Of several processes each reads for itself, and the first alone writes: orbax tells the saves
    of all of them apart by a count of each, so that two would wait for one another."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(me, {me}, f"process_{me}")


def save_state(folder: Path | str, round: int, state: State, like: State | None = None) -> None:
    """Writes `state` alone as the only one in `folder`, whole or not at all; of several processes
    the first does, and each of them its blocks, and all of them call it at once.

    Args:
        folder: is made where it is not there; other states in it are removed.
        round: rounds that are done.
        state: after them, or what `held` gave of it.
        like: what the run begins with, whose large frozen arrays are the model's own; of these
            their checksums are written. None writes all of the state.

    Example:
        >>> state = strategies.fedavg(model, data.pointwise(1)).init(key, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     simulate.save_state(folder, 7, state)
        ...     simulate.last_saved(folder)
        7
    """
    folder = Path(folder).absolute()

    def write(leaves: dict) -> None:
        with ocp.StandardCheckpointer(multiprocessing_options=_alone()) as writer:
            whole = sealed(jax.device_get(Lent(like).without(leaves)))
            writer.save(folder / str(round) / "state", whole, force=True)
        for other in folder.iterdir():
            if other.name.isdigit() and other.name != str(round):
                shutil.rmtree(other, ignore_errors=True)
        tidied(folder)

    with _quiet():
        leaves = written(folder, round, _named(held(state)))
        from_first(lambda: write(leaves))


def load_state(folder: Path | str, round: int, like: State) -> State:
    """A state that lies in a folder, of checkpoints or of `save_state`.

    Args:
        folder: such as `runs/quickstart/checkpoints`.
        round: rounds that were done.
        like: what the state is structured as; shapes suffice, but of what was left to the model.

    Returns:
        The state.

    Raises:
        FileNotFoundError: where it is not there.
        Damaged: where it is not what was saved; a ValueError.
        OtherBase: where it is of a base that `like` does not have; a ValueError.

    Example:
        >>> state = strategies.fedavg(model, data.pointwise(1)).init(key, 3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     simulate.save_state(folder, 7, state)
        ...     again = simulate.load_state(folder, 7, like=state)
        >>> bool((again.shared["item"].values == state.shared["item"].values).all())
        True
    """
    place = Path(folder).absolute() / str(round) / "state"
    if not place.is_dir():
        raise FileNotFoundError(f"{folder}: holds no state of round {round}.")
    # No manager, which would tidy up in the folder.
    what = f"{folder}: the state of round {round}"
    with _reading(what), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
        leaves = opened(reader.restore(place), "the state")
        return _filled(like, joined(place.parents[1], round, leaves), what)


class Parameters(NamedTuple):
    """What a run has learned, by key path. shared: the server's part of the model, frozen values
    too. private: what clients keep, [N, ...]. lent: what tells the frozen values that are the
    model's own, which no run folder holds, see `lent`."""

    shared: dict[str, np.ndarray]
    private: dict[str, np.ndarray]
    lent: dict[str, np.ndarray]


def parameters(run: Path | str) -> Parameters:
    """The parameters after the best round of a run, of its folder `best/`, or where there is none
    at the last checkpoint, whatever configuration made it, for `models.started` and
    `strategies.started`.

    Args:
        run: its folder.

    Returns:
        The `Parameters`, by key path.

    Raises:
        FileNotFoundError: where there is no checkpoint.
        Damaged: where it is not what was saved; a ValueError.

    Example:
        >>> begun = models.started(model, simulate.parameters("runs/quickstart"))  # doctest: +SKIP
    """
    place, what = _best(run) or _last(run)
    with _reading(what), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
        leaves = opened(reader.restore(place / "state"), "the state")
        found = joined(place.parent, int(place.name), leaves)
    whole = {name: np.asarray(x) for name, x in found.items() if not name.endswith(LENT)}
    marks = {n.removesuffix(LENT): np.asarray(x) for n, x in found.items() if n.endswith(LENT)}
    of = lambda part, values: {
        name.removeprefix(part): x for name, x in values.items() if name.startswith(part)
    }
    return Parameters(of(".shared", whole), of(".private", whole), of(".shared", marks))


def made_of(run: Path | str) -> dict[str, str]:
    """What the last checkpoint of a run folder says of its `configuration` and its data, as
    `Checkpoints` was told.

    Args:
        run: its folder.

    Raises:
        FileNotFoundError: where there is no checkpoint.
        Damaged: where it is not what was saved; a ValueError.

    Example:
        >>> simulate.made_of("runs/quickstart")["configuration"]  # doctest: +SKIP
    """
    place, what = _last(run)
    with _reading(what), ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
        return opened_text(reader.restore(place / "about"), "what it says of itself")


def _best(run: Path | str) -> tuple[Path, str] | None:
    """The folder of the state after the best round of a run, and what messages call it."""
    folder = Path(run).absolute() / "best"
    step = last_saved(folder)
    return (folder / str(step), f"{run}: the best state, of round {step}") if step else None


def _last(run: Path | str) -> tuple[Path, str]:
    """The folder of the last checkpoint of a run, and what messages call it."""
    folder = Path(run).absolute() / "checkpoints"
    step = last_saved(folder)
    if not step:
        raise FileNotFoundError(f"{run}: no run with a checkpoint; give the folder of a run.")
    return folder / str(step), f"{run}: the checkpoint of round {step}"


def last_saved(folder: Path | str) -> int:
    """The round of the latest checkpoint in `folder`, 0 without any; nothing is made or written.

    Args:
        folder: of checkpoints; it need not be there.

    Example:
        >>> simulate.last_saved("runs/nowhere/checkpoints")
        0
    """
    folder = Path(folder)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


class Checkpoints:
    """The checkpoints of one run folder.

    fingerprint: what the configuration boils down to. about: more of what the run is made of, by
    name, such as the digest of its data; text that must be the same when the run goes on. like: as
    of `save_state`.
    """

    def __init__(
        self,
        folder: Path | str,
        fingerprint: str,
        keep: int = 2,
        about: Mapping[str, str] | None = None,
        like: State | None = None,
    ):
        self.lent = Lent(like)
        self.folder = Path(folder).absolute()
        self.about = {"configuration": fingerprint, **(about or {})}
        self.manager = None
        if is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep, create=False, enable_async_checkpointing=False,
                multiprocessing_options=_alone(),
            )  # fmt: skip
            with _quiet():
                self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The last saved round, or None."""
        return last_saved(self.folder) or None

    def save(self, round: int, state: State, extras: dict[str, np.ndarray] | None = None) -> None:
        """Saves `state` after `round` rounds; nothing happens where that is saved already. Of
        several processes each writes its blocks, the first all else, and all of them call it at
        once. state: or what `held` gave of it."""
        if from_first(lambda: round in self._steps()):
            return

        def write(leaves: dict) -> None:
            items = {
                "state": ocp.args.StandardSave(sealed(jax.device_get(self.lent.without(leaves)))),
                "about": ocp.args.JsonSave(sealed_text(self.about)),
                "extras": ocp.args.StandardSave(sealed(extras or {})),
            }
            assert self.manager is not None
            self.manager.save(round, args=ocp.args.Composite(**items))
            tidied(self.folder)

        with _quiet():
            leaves = written(self.folder, round, _named(held(state)))
            from_first(lambda: write(leaves))

    def _steps(self) -> list[int]:
        """The rounds that are saved, the last first."""
        names = [p.name for p in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted((int(name) for name in names if name.isdigit()), reverse=True)

    def restore(self, like: State) -> tuple[int, State, dict[str, np.ndarray]]:
        """(round, state, extras) of the latest checkpoint that is whole, structured as `like`
        (shapes suffice). Damaged ones after it are deleted. All processes call it at once.

        Raises:
            ValueError: It was made by another configuration or of other data, or each of them is
                damaged (`Damaged`, which leaves them as they are).
            OtherBase: It is of a base that `like` does not have; a ValueError.
            FileNotFoundError: There is none.
        """
        steps = from_first(self._steps)
        if not steps:
            raise FileNotFoundError(f"{self.folder}: holds no checkpoint; save one first.")
        first = None
        for step in steps:
            try:
                found = in_step(lambda step=step: self._read(step, like))
            except Damaged as error:
                first = first or error
                continue
            from_first(lambda later=steps[: steps.index(step)]: self._without(later))
            return found
        raise Damaged(
            f"{first}, and no other is whole; put the files back, or use another --out, or "
            "--overwrite true."
        ) from first

    def _without(self, steps: list[int]) -> None:
        for step in steps:
            shutil.rmtree(self.folder / str(step))
        if steps and self.manager is not None:
            tidied(self.folder)
            self.manager.reload()

    def _read(self, step: int, like: State) -> tuple[int, State, dict[str, np.ndarray]]:
        what, place = f"{self.folder}: the checkpoint of round {step}", self.folder / str(step)
        json = ocp.Checkpointer(ocp.JsonCheckpointHandler(), multiprocessing_options=_alone())
        with _reading(what), json as reader:
            about = opened_text(reader.restore(place / "about"), "what it says of itself")
        for name, mine in self.about.items():
            if about.get(name) != mine:
                raise ValueError(
                    f"{what} is of another {name} ({about.get(name)}, this one is {mine}); use "
                    f"the {name} that it was made with, another --out, or --overwrite true."
                )
        with _reading(what), ocp.StandardCheckpointer(multiprocessing_options=_alone()) as reader:
            leaves = opened(reader.restore(place / "state"), "the state")
            state = _filled(like, joined(self.folder, step, leaves), what)
            extras = opened(reader.restore(place / "extras"), "what goes with the state")
        return step, state, {name: np.asarray(x) for name, x in extras.items()}

    def close(self) -> None:
        if self.manager is not None:
            with _quiet():
                self.manager.close()
