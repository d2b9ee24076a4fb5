"""Whether a program has devices wait for what others may never send.

Where devices collect what they hold together (`pieces`), all of them have to come. In a loop that
one device turns more often than another, or a branch that one takes alone, some never do, and the
run would stand still. A number is uneven where it comes from what devices have of their own: its
clients, its place. What all devices agree on (`psum`, `pmax`, what is collected) is even again:

    uneven(f(x, y)) = uneven(x) or uneven(y);   uneven(pmax(x)) = no

A program may collect wherever the conditions of all loops and branches around are even.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from .. import pieces

AGREED = ("psum", "pmax", "pmin", "all_gather", "psum_invariant", "all_gather_invariant")


def refuse_alone(step: Callable, *args: Any) -> None:
    """Raises ValueError where step(*args), what a device does in one chunk for arguments of its
    own, collects a piece of the base in a loop, or a branch, that others may not take."""
    program = jax.make_jaxpr(step)(*args)
    if _walk(program.jaxpr, [True] * len(program.jaxpr.invars), False)[1]:
        raise ValueError(
            "clients read the base in a loop that takes each of them as long as its own data say, "
            f"and the base lies on several devices, which would wait for each other; "
            f"{pieces.ALONE}."
        )


def _walk(jaxpr: Any, given: Sequence[bool], alone: bool) -> tuple[list[bool], bool]:
    """(whether each result is uneven, whether it waits), of arguments that are, and alone where
    others may not come."""
    known = dict(zip(jaxpr.invars, given, strict=True))
    uneven = lambda v: isinstance(v, core.Var) and known.get(v, False)
    waits = False
    for equation in jaxpr.eqns:
        ins = [uneven(v) for v in equation.invars]
        outs, here = _one(equation, ins, alone)
        waits |= here
        known.update(zip(equation.outvars, outs, strict=True))
    return [uneven(v) for v in jaxpr.outvars], waits


def _one(equation, ins: list[bool], alone: bool) -> tuple[list[bool], bool]:
    """`_walk` of an equation."""
    name, params, n = equation.primitive.name, equation.params, len(equation.outvars)
    axes = params.get("axes", params.get("axis_name", ()))
    over = axes if isinstance(axes, tuple) else (axes,)
    if name != "axis_index" and any(axis in pieces.LAYOUTS for axis in over):
        return [name not in AGREED] * n, alone
    if name == "while":
        return _while(params, ins, alone)
    if name == "scan":
        return _scan(params, ins, alone)
    if name == "cond":
        apart = ins[0]
        found = [_walk(b.jaxpr, ins[1:], alone or apart) for b in params["branches"]]
        outs = [apart or any(each) for each in zip(*(f[0] for f in found), strict=True)]
        return outs, any(f[1] for f in found)
    inner = list(core.jaxprs_in_params(params))
    if len(inner) == 1 and len(inner[0].invars) == len(ins):
        outs, waits = _walk(inner[0], ins, alone)
        return (outs if len(outs) == n else [any(outs)] * n), waits
    some = any(ins) or name == "axis_index"
    waits = any(_walk(one, [some] * len(one.invars), alone)[1] for one in inner)
    return [some] * n, waits


def _while(params, ins: list[bool], alone: bool) -> tuple[list[bool], bool]:
    first, second = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    of_test, of_body, carry = ins[:first], ins[first:second], ins[second:]
    test, body = params["cond_jaxpr"].jaxpr, params["body_jaxpr"].jaxpr
    carry, waits, apart = _fixed(carry, lambda c, apart: _walk(body, of_body + c, apart), alone,
                                 lambda c: _walk(test, of_test + c, alone)[0][0])  # fmt: skip
    return carry, waits or _walk(test, of_test + carry, alone or apart)[1]


def _scan(params, ins: list[bool], alone: bool) -> tuple[list[bool], bool]:
    first, count = params["num_consts"], params["num_carry"]
    consts, carry, each = ins[:first], ins[first : first + count], ins[first + count :]
    body = params["jaxpr"].jaxpr
    turn = lambda c, apart: _walk(body, consts + c + each, apart)
    carry, waits, _ = _fixed(carry, turn, alone, lambda c: False)
    return carry + turn(carry, alone)[0][count:], waits


def _fixed(carry: list[bool], turn: Callable, alone: bool, test: Callable):
    """(carry, waits, whether devices turn unlike), once no turn makes more of it uneven."""
    while True:
        apart = test(carry)
        outs, waits = turn(carry, alone or apart)
        more = [apart or a or b for a, b in zip(carry, outs, strict=False)]
        if more == carry:
            return carry, waits, apart
        carry = more
