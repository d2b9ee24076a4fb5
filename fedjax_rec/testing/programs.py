"""What a program says of itself before it runs: keys used twice, tables copied for each client."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import jax
from jax.extend import core
from jax.interpreters import partial_eval

from .laws import expect


def keys_once(f: Callable, *args) -> None:
    """Raises AssertionError where `f` draws twice with one key, or splits it and draws with it.

    `fold_in` derives and consumes nothing. Seen are draws in one trace and those that a loop
    repeats; two folds of one key with one number are not.
    """
    drawn_once(jax.make_jaxpr(f)(*args).jaxpr)


def drawn_once(program: core.Jaxpr) -> None:
    """`keys_once` of a program that is traced already."""
    # JAX offers this check only while a program runs: `jax.debug_key_reuse`, which compiles it.
    from jax.experimental.key_reuse import _core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _core.check_key_reuse_jaxpr(program)
        except jax.errors.KeyReuseError as error:
            told = str(error).splitlines()[0]
            raise AssertionError(f"a key is used twice; split it before ({told})") from error


def no_copies(program: core.Jaxpr, clients: int, tables: set[tuple[int, ...]]) -> None:
    """Raises AssertionError where a program makes a table [I, D] for each of `clients`: an array
    with a dimension of clients before those of a table."""
    # A draw of a whole model of which one part is used copies nothing.
    used, _ = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    made = {tuple(getattr(v.aval, "shape", ())) for e in _equations(used) for v in e.outvars}
    for shape in made:
        for table in tables:
            found = len(shape) > len(table) and shape[-len(table) :] == table
            expect(
                not (found and clients in shape[: -len(table)]),
                f"the table {list(table)} is copied for each of {clients} clients, "
                f"{list(shape)}; index it and update the rows that a client touches",
            )


def _equations(jaxpr) -> Iterator:
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, (core.ClosedJaxpr, core.Jaxpr)),
        ):
            if isinstance(value, core.ClosedJaxpr):
                yield from _equations(value.jaxpr)
            elif isinstance(value, core.Jaxpr):
                yield from _equations(value)
