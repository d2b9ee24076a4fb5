"""Where a frozen base lies on a mesh whose devices hold it together: a piece of each large array.

What `pieces.cuts` says of the frozen arrays of the model decides; all else of a state is on every
device. Like blocks of rows it is a matter of memory, and of no number.
"""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from .. import pieces, trees
from ..types import State


def refuse_whole(state: State, mesh: Mesh | None) -> None:
    """Raises ValueError where the devices of a mesh are to hold a base together and there is none
    that they could cut, or it is of four bits."""
    count = pieces.count(mesh)
    narrow = {str(x.dtype) for x in pieces.leaves(state.shared) if str(x.dtype).endswith("int4")}
    if count > 1 and narrow:
        raise ValueError(
            f"base_devices={count}: the base is of {narrow.pop()}, whose half bytes jax does not "
            f"lay out on several devices; use int8 or bfloat16, or {pieces.ALONE.split()[1]}."
        )
    if count == 1 or any(how is not None for how in pieces.cuts(state.shared, mesh)):
        return
    names = ", ".join(pieces.CUT)
    raise ValueError(
        f"base_devices={count}: the model has no frozen array named {names} with an axis that "
        f"{count} divides, which could lie on several devices; {pieces.ALONE}."
    )


def base_places(state: State, mesh: Mesh | None) -> list[NamedSharding | None]:
    """For each leaf of a state, or of its outline, where it has to lie; None for anywhere."""
    found = {id(x): (x, how) for x, how in _cut(state, mesh)}

    def place(x) -> NamedSharding | None:
        if mesh is None or id(x) not in found:
            return None
        return NamedSharding(mesh, pieces.spec(*found[id(x)]))

    return [place(x) for x in jax.tree.leaves(state)]


def base_elsewhere(state: State, mesh: Mesh | None) -> int:
    """Bytes of the base that a device does not have, since others hold them."""
    count = pieces.count(mesh)
    return trees.nbytes([x for x, _ in _cut(state, mesh)]) * (count - 1) // count


def _cut(state: State, mesh: Mesh | None) -> list[tuple[Any, pieces.Cut]]:
    """(array, how it is cut) of those that are."""
    both = zip(pieces.leaves(state.shared), pieces.cuts(state.shared, mesh), strict=True)
    return [(x, how) for x, how in both if how is not None]
