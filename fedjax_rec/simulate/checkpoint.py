"""Checkpoints with orbax: a run that is killed resumes to the same bits.

A checkpoint holds every leaf of a `State` by its path, arrays of the caller's, and the fingerprint
of the configuration that made it. Orbax writes to a temporary folder and renames it, so a
checkpoint is whole or not there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ..trees import named
from ..types import State


def _named(state: State) -> dict:
    """The leaves by path, without the empty ones, which orbax does not save."""
    return {name: x for name, x in named(state).items() if x.size}


def _filled(like: State, leaves: dict) -> State:
    """`like` with its leaves by path; empty ones are made, since they are not saved."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        return jnp.asarray(leaves[name]) if x.size else jnp.zeros(x.shape, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, like)


def save_state(folder: Path | str, round: int, state: State) -> None:
    """Writes `state` alone as the only one in `folder`, whole or not at all."""
    folder = Path(folder).absolute()
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / str(round) / "state", jax.device_get(_named(state)), force=True)
    for other in folder.iterdir():
        if other.name != str(round):
            shutil.rmtree(other, ignore_errors=True)


def load_state(folder: Path | str, round: int, like: State) -> State:
    """The state after `round` rounds that lies in `folder`, of checkpoints or of `save_state`,
    structured as `like` (shapes suffice).

    Raises:
        FileNotFoundError: where it is not there.
    """
    place = Path(folder).absolute() / str(round) / "state"
    if not place.is_dir():
        raise FileNotFoundError(f"{folder}: holds no state of round {round}.")
    outline = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in _named(like).items()}
    with ocp.StandardCheckpointer() as reader:  # no manager, which would tidy up in the folder
        return _filled(like, reader.restore(place, outline))


class Parameters(NamedTuple):
    """What a run has learned, by key path. shared: the server's part of the model, frozen values
    too. private: what clients keep, [N, ...]."""

    shared: dict[str, np.ndarray]
    private: dict[str, np.ndarray]


def parameters(run: Path | str) -> Parameters:
    """The parameters at the last checkpoint of a run folder, whatever configuration made it, for
    `models.started` and `strategies.started`.

    Raises:
        FileNotFoundError: where there is no checkpoint.
    """
    folder = Path(run).absolute() / "checkpoints"
    step = last_saved(folder)
    if not step:
        raise FileNotFoundError(f"{run}: no run with a checkpoint; give the folder of a run.")
    with ocp.StandardCheckpointer() as reader:  # no manager, which would tidy up in the folder
        found = reader.restore(folder / str(step) / "state")
    of = lambda part: {
        name.removeprefix(part): np.asarray(x) for name, x in found.items() if name.startswith(part)
    }
    return Parameters(of(".shared"), of(".private"))


def last_saved(folder: Path | str) -> int:
    """The round of the latest checkpoint in `folder`, 0 without any; nothing is made or written."""
    folder = Path(folder)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    return max((int(name) for name in names if name.isdigit()), default=0)


class Checkpoints:
    """The checkpoints of one run folder. fingerprint: what the configuration boils down to."""

    def __init__(self, folder: Path | str, fingerprint: str, keep: int = 2):
        self.folder = Path(folder).absolute()
        self.fingerprint = fingerprint
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, enable_async_checkpointing=False
        )
        self.manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """The last saved round, or None."""
        return self.manager.latest_step()

    def save(self, round: int, state: State, extras: dict[str, np.ndarray] | None = None) -> None:
        """Saves `state` after `round` rounds; nothing happens where that is saved already."""
        if round in self.manager.all_steps():
            return
        about = {"fingerprint": self.fingerprint, "extras": sorted(extras or {})}
        items = {
            "state": ocp.args.StandardSave(jax.device_get(_named(state))),
            "about": ocp.args.JsonSave(about),
        }
        if extras:
            items["extras"] = ocp.args.StandardSave(dict(extras))
        self.manager.save(round, args=ocp.args.Composite(**items))

    def restore(self, like: State) -> tuple[int, State, dict[str, np.ndarray]]:
        """(round, state, extras) of the latest checkpoint, structured as `like` (shapes suffice).

        Raises ValueError where it was made by another configuration, FileNotFoundError where
        there is none.
        """
        step = self.manager.latest_step()
        if step is None:
            raise FileNotFoundError(f"{self.folder}: holds no checkpoint; save one first.")
        about = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = self.manager.restore(step, args=about)["about"]
        made_by = about["fingerprint"]
        if made_by != self.fingerprint:
            raise ValueError(
                f"{self.folder}: the checkpoint of round {step} is of another configuration "
                f"({made_by}, this one is {self.fingerprint}); use the configuration in "
                "config.yaml, another --out, or --overwrite true."
            )
        named = _named(like)
        outline = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in named.items()}
        items = {"state": ocp.args.StandardRestore(outline)}
        if about["extras"]:
            items["extras"] = ocp.args.StandardRestore()
        got = self.manager.restore(step, args=ocp.args.Composite(**items))

        state = _filled(like, got["state"])
        extras = got["extras"] if about["extras"] else {}
        return step, state, {k: np.asarray(v) for k, v in extras.items()}

    def close(self) -> None:
        self.manager.close()
