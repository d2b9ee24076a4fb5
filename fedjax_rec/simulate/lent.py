"""Frozen arrays of a state that are the model's own: a checkpoint says which they are, no more.

A run that trains 56 KiB of adapters beside a base of 80 MiB would write the base with every
checkpoint, though whoever reads it makes the model first, and with it the base. What rounds change
(some rules merge adapters into the base) is written like all else, and so is what is small: it
costs nothing, and a checkpoint that says it can be read by a model that has it otherwise.

An array is told by its checksum, and by some of its numbers: what a model computes from its texts
when it is made differs in the last bits between machines. Then the model's own is taken, with a
warning, since the run no longer goes on to the bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from .. import trees
from ..types import PyTree
from .seal import crc32

LENT = "#lent"  # ends the name of a mark in the place of an array
SMALL = 2**17  # bytes of an array that is written whatever it is
SAMPLED = 64  # numbers of an array in its mark
NEAR = 1e-3  # of the largest of them: what may be rounding


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
        self._marks: dict[str, np.ndarray] = {}

    def mark_of(self, name: str) -> np.ndarray | None:
        """uint32[1 + SAMPLED] of the model's own array of this name, None where it has none."""
        if name in self._own and name not in self._marks:
            self._marks[name] = _mark(self._own[name])
        return self._marks.get(name)

    def refuse_other(self, marks: Mapping[str, np.ndarray], what: str) -> None:
        """Raises OtherBase where the model has another array by a name of `marks`; where it has
        none it takes no part."""
        names = {trees.plain_name(name): name for name in self._own}
        for name, was in marks.items():
            mine = names.get(trees.plain_name(name))
            if mine is not None:
                self._check(mine, was, what)

    def without(self, leaves: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays by name, with a mark for each that is the model's own."""
        out = {}
        for name, x in leaves.items():
            own = self.mark_of(name)
            if own is not None and (x is self._own[name] or crc32(jax.device_get(x)) == own[0]):
                out[name + LENT] = own
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
            if name.endswith(LENT):
                name = name.removesuffix(LENT)
                self._check(name, np.asarray(x), what)
                x = self._own[name]
            out[name] = x
        return out

    def _check(self, name: str, was: np.ndarray, what: str) -> None:
        now = self.mark_of(name)
        if now is not None and now[0] == was[0]:
            return
        told = f"{what} is of a frozen {name} with the checksum {was[0]:08x}, and the model has "
        if now is None:
            raise OtherBase(f"{told}none that is known; {_REMEDY}.")
        a, b = (x[1:].view(np.float32) for x in (was, now))
        if not np.allclose(a, b, rtol=0, atol=NEAR * np.abs(a).max(initial=0), equal_nan=True):
            raise OtherBase(f"{told}{now[0]:08x}; {_REMEDY}.")
        warnings.warn(
            f"{told}one that differs from it by rounding ({now[0]:08x}), as on another machine: "
            "what goes on is not the same to the bit.",
            stacklevel=3,
        )


_REMEDY = "use the weights and texts that it was made with"


def _mark(x: jax.Array) -> np.ndarray:
    """uint32[1 + SAMPLED]: the checksum, and the bits of numbers from the first to the last."""
    here = jax.device_get(x)
    some = here.flat[np.linspace(0, here.size - 1, SAMPLED).astype(int)].astype(np.float32)
    return np.concatenate([np.array([crc32(here)], np.uint32), some.view(np.uint32)])
