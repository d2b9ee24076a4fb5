"""What a program leaves as it is, such as a frozen base, is held once.

    f(x) -> y, some of whose leaves are leaves of x, or arrays that f closes over, as they are

Returned by a compiled call such a leaf would be copied; given up to it, it would be lost to the
model that it came from; carried by a scan, it would be held by each run of a `vmap`; as a constant,
by what is compiled as well. So a program is looked at once it is traced: its calls read these
leaves, and neither give them up nor return them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend import core

from ..types import PyTree


@dataclass(frozen=True)
class Traced:
    """A function of a pytree. origins: for each leaf of what it returns, the number of the leaf of
    its argument that it is, or -1 - the number of the constant, or None where it is computed."""

    program: core.ClosedJaxpr
    outline: PyTree
    origins: tuple[int | None, ...]

    def __call__(self, leaves: Sequence[Any], consts: Sequence[Any] | None = None) -> list[Any]:
        """All leaves of what it returns. consts: in place of what it closes over."""
        consts = self.program.consts if consts is None else consts
        return eval_jaxpr(self.program.jaxpr, consts, *leaves)

    def lent(self) -> list[Any]:
        """For each leaf of what it returns the array that it closes over and returns as it is, or
        None."""
        consts = self.program.consts
        return [None if k is None or k >= 0 else jnp.asarray(consts[-1 - k]) for k in self.origins]


def traced(f: Callable[[Any], Any], x: PyTree) -> Traced:
    """f(x), of values or their outlines."""
    program, outline = jax.make_jaxpr(f, return_shape=True)(x)
    jaxpr = program.jaxpr
    place = {v: i for i, v in enumerate(jaxpr.invars)}
    place |= {v: -1 - i for i, v in enumerate(jaxpr.constvars)}
    return Traced(program, outline, tuple(v and place[v] for v in _origins(jaxpr)))


def scan(step: Callable[[Any], tuple[Any, Any]], state: PyTree, length: int) -> tuple[Any, Any]:
    """`length` times step(state) -> (state, out): the last state and all out, [length, ...]. What
    no step changes of the state is no part of what is carried."""
    leaves, structure = jax.tree.flatten(state)
    one = traced(step, state)
    moved = _moved(one, len(leaves))

    def body(carried, _):
        out = one(_replaced(leaves, moved, carried))
        after, told = out[: len(leaves)], out[len(leaves) :]
        return [after[i] for i in moved], jax.tree.unflatten(told_of, told)

    told_of = jax.tree.structure(one.outline[1])
    carried, told = jax.lax.scan(body, [leaves[i] for i in moved], None, length=length)
    return jax.tree.unflatten(structure, _replaced(leaves, moved, carried)), told


@dataclass(frozen=True)
class Call:
    """block(state, inputs) -> (state, out) as of(moved, still, inputs) -> (moved, out): leaves of
    the state that the block changes, which it may take over, and those that it reads."""

    of: Callable[..., tuple[list[Any], Any]]
    structure: Any
    moves: tuple[bool, ...]

    def parted(self, state: PyTree) -> tuple[list[Any], list[Any]]:
        """(moved, still) leaves of a state."""
        return self.split(jax.tree.leaves(state))

    def split(self, leaves: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        """(moved, still) of what there is one of for each leaf."""
        both = list(zip(self.moves, leaves, strict=True))
        return [x for m, x in both if m], [x for m, x in both if not m]

    def joined(self, moved: Sequence[Any], still: Sequence[Any]) -> PyTree:
        """The state of these leaves."""
        a, b = iter(moved), iter(still)
        return jax.tree.unflatten(self.structure, [next(a if m else b) for m in self.moves])


def call(block: Callable[[Any, Any], tuple[Any, Any]], state: PyTree, inputs: PyTree) -> Call:
    """The `Call` of a block, for values or their outlines."""
    structure = jax.tree.structure(state)
    n, whole = structure.num_leaves, traced(lambda args: block(*args), (state, inputs))
    moved = set(_moved(whole, n))
    moves = tuple(i in moved for i in range(n))
    told_of = jax.tree.structure(whole.outline[1])

    def of(moved, still, inputs):
        out = whole(jax.tree.leaves((made.joined(moved, still), inputs)))
        return made.parted(out[:n])[0], jax.tree.unflatten(told_of, out[n:])

    made = Call(of, structure, moves)
    return made


class Begun:
    """first(inputs), compiled for inputs of these shapes. What `first` closes over and returns as
    it is comes out as the very array, or laid out anew once, which is lent: not to be given up.
    What it computes with is an argument of what is compiled. lies(outline) -> for each leaf of the
    result where it has to lie, None for anywhere."""

    def __init__(
        self,
        first: Callable[[Any], PyTree],
        inputs: PyTree,
        lies: Callable[[PyTree], list[Any]] | None = None,
    ):
        one = traced(first, inputs)
        self._structure, self._consts = jax.tree.structure(one.outline), one.program.consts
        self._lent = one.lent()
        places = lies(one.outline) if lies else [None] * len(self._lent)
        laid = lambda x, place: x if x is None or place is None else jax.device_put(x, place)
        self._lent = list(map(laid, self._lent, places))
        self._not_to_give = {id(x) for x in self._lent if x is not None}
        asked = self._asked = [i for i, x in enumerate(self._lent) if x is None]
        run = lambda consts, leaves: [one(leaves, consts)[i] for i in asked]
        self._run = jax.jit(run, out_shardings=[places[i] for i in asked])

    def __call__(self, inputs: PyTree) -> PyTree:
        made = self._run(self._consts, jax.tree.leaves(inputs))
        return jax.tree.unflatten(self._structure, _replaced(self._lent, self._asked, made))

    def owned(self, leaves: Sequence[Any]) -> list[Any]:
        """`leaves`, of which those that are lent are copied."""
        return [x.copy() if id(x) in self._not_to_give else x for x in leaves]


def outline(first: Callable[[], PyTree]) -> PyTree:
    """What a function makes, as shapes, without making it.

    Args:
        first: first() -> pytree, such as the `init` of a strategy for some key.

    Returns:
        The pytree, with a `jax.ShapeDtypeStruct` for each array, and in the place of one that
        `first` closes over and returns as it is, such as a frozen base, the very array.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(1))
        >>> like = simulate.outline(lambda: strategy.init(key, dataset.num_clients))
        >>> like.round.shape
        ()
    """
    one = traced(lambda _: first(), ())
    leaves, structure = jax.tree.flatten(one.outline)
    both = zip(one.lent(), leaves, strict=True)
    return jax.tree.unflatten(structure, [x if own is None else own for own, x in both])


def _moved(program: Traced, n: int) -> list[int]:
    """The leaves of a state of n leaves, the first of argument and result, that are not what they
    were."""
    return [i for i in range(n) if program.origins[i] != i]


def _replaced(leaves: Sequence[Any], places: Sequence[int], by: Sequence[Any]) -> list[Any]:
    new = list(leaves)
    for i, x in zip(places, by, strict=True):
        new[i] = x
    return new


def _origins(jaxpr: core.Jaxpr) -> list[Any]:
    """For each result the argument or constant that it is, through calls within, or None."""
    found: dict[Any, Any] = {v: v for v in (*jaxpr.constvars, *jaxpr.invars)}
    for equation in jaxpr.eqns:
        if equation.primitive.name not in ("jit", "pjit"):
            continue
        inner = equation.params["jaxpr"].jaxpr
        outer = dict(zip(inner.invars, equation.invars, strict=True))
        for out, origin in zip(equation.outvars, _origins(inner), strict=True):
            if origin in outer and isinstance(outer[origin], core.Var):
                found[out] = found.get(outer[origin])
    return [found.get(v) if isinstance(v, core.Var) else None for v in jaxpr.outvars]
