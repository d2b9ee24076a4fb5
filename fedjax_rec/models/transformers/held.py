"""The tensors of an encoder's folder, each of which is taken, or a head, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .assembled import FLOATS, QUANTISED


class Held:
    """found: tensors by their names. before: what may stand before names; where any has it, those
    without are heads. heads: beginnings of the names of what takes no part."""

    def __init__(
        self, place: Path, found: Mapping[str, np.ndarray], before: str, heads: tuple[str, ...]
    ):
        if before and any(name.startswith(before) for name in found):
            inside = {n: x for n, x in found.items() if n.startswith(before)}
            found = {name.removeprefix(before): x for name, x in inside.items()}
        self.place = place
        self.left = {name: x for name, x in found.items() if not name.startswith(heads)}

    def get(self, name: str, *shape: int) -> jax.Array:
        """The tensor `name`, in float32.

        Raises ValueError where it is not there, of another shape, or of integers.
        """
        if name not in self.left:
            raise ValueError(f"{self.place}: model.safetensors has no {name}; fetch it again.")
        x = self.left.pop(name)
        if name.endswith(QUANTISED) or x.dtype.name not in FLOATS:
            raise ValueError(
                f"{self.place}: {name} is {x.dtype}, of quantised weights; give floats."
            )
        if x.shape != shape:
            raise ValueError(
                f"{self.place}: {name} has shape {x.shape}, and config.json asks for {shape}; "
                "fetch it again."
            )
        return jnp.asarray(x, jnp.float32)

    def each(self, names: Iterable[str], *shape: int) -> jax.Array:
        """[L, *shape]: the tensors `names`, one a layer."""
        return jnp.stack([self.get(name, *shape) for name in names])

    def done(self) -> None:
        """Raises ValueError for a tensor that nothing took."""
        if self.left:
            raise ValueError(
                f"{self.place}: {sorted(self.left)[0]} is a part that this model, by its "
                "config.json, does not have; use a checkpoint whose config.json says it."
            )
