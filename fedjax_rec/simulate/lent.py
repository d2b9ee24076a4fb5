"""Frozen arrays of a state that are the model's own: a checkpoint holds their checksums.

A run that trains 56 KiB of adapters beside a base of 80 MiB would write the base with every
checkpoint, though whoever reads it makes the model first, and with it the base. What rounds change
(some rules merge adapters into the base) is written like all else, and so is what is small: it
costs nothing, and a checkpoint that says it can be read by a model that has it otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .. import trees
from ..types import PyTree
from .seal import crc32

LENT = "#lent"  # ends the name of a checksum in the place of an array
SMALL = 2**17  # bytes of an array that is written whatever it is


class OtherBase(ValueError):
    """What was saved leaves an array to the model that this model does not have."""


class Lent:
    """The large frozen arrays of what a run begins with.

    like: a state, or its outline with the arrays that are known, as `unchanged.outline` gives it.
    """

    def __init__(self, like: PyTree):
        trained = trees.named(trees.trainable(like))
        self._own = {
            name: x
            for name, x in trees.named(like).items()
            if name not in trained and isinstance(x, jax.Array) and x.nbytes >= SMALL
        }
        self._sums: dict[str, int] = {}

    def sum_of(self, name: str) -> int | None:
        """The checksum of the model's own array of this name, None where it has none."""
        if name in self._own and name not in self._sums:
            self._sums[name] = crc32(jax.device_get(self._own[name]))
        return self._sums.get(name)

    def refuse_other(self, sums: Mapping[str, int], what: str) -> None:
        """Raises OtherBase where the model has another array by a name of `sums`; where it has none
        it takes no part."""
        names = {trees.plain_name(name): name for name in self._own}
        for name, was in sums.items():
            mine = names.get(trees.plain_name(name))
            if mine is not None and self.sum_of(mine) != was:
                raise OtherBase(_other(what, mine, was, self.sum_of(mine)))

    def without(self, leaves: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by name, with a checksum uint32[1] for each that is the model's own."""
        out = {}
        for name, x in leaves.items():
            own = self.sum_of(name)
            if own is not None and (x is self._own[name] or crc32(jax.device_get(x)) == own):
                out[name + LENT] = np.array([own], np.uint32)
            else:
                out[name] = x
        return out

    def filled(self, leaves: Mapping[str, Any], what: str) -> dict[str, Any]:
        """What `without` gave, with the model's own arrays in it.

        Raises:
            OtherBase: The model has another one, or none that is known.
        """
        out = {}
        for name, x in leaves.items():
            if not name.endswith(LENT):
                out[name] = x
                continue
            name, was = name.removesuffix(LENT), int(x[0])
            if self.sum_of(name) != was:
                raise OtherBase(_other(what, name, was, self.sum_of(name)))
            out[name] = self._own[name]
        return out


def _other(what: str, name: str, was: int, now: int | None) -> str:
    mine = "none that is known" if now is None else f"{now:08x}"
    return (
        f"{what} is of a frozen {name} with the checksum {was:08x}, and the model has {mine}; use "
        "the weights and texts that it was made with."
    )
