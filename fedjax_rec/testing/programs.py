"""What a program says of itself before it runs: keys used twice, tables copied for each client."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import jax
from jax.extend import core

from .laws import expect


def keys_once(f: Callable, *args) -> None:
    """Raises AssertionError where `f` draws twice with one key, or splits it and draws with it.

    `fold_in` derives and consumes nothing. Seen are draws in one trace and those that a loop
    repeats; two folds of one key with one number are not.
    """
    # JAX offers this check only while a program runs: `jax.debug_key_reuse`, which compiles it.
    from jax.experimental.key_reuse import _core

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _core.check_key_reuse_jaxpr(jax.make_jaxpr(f)(*args).jaxpr)
        except jax.errors.KeyReuseError as error:
            told = str(error).splitlines()[0]
            raise AssertionError(f"a key is used twice; split it before ({told})") from error


def shapes(f: Callable, *args) -> set[tuple[int, ...]]:
    """The shapes of all that `f` computes anywhere inside."""
    return {
        tuple(v.aval.shape)
        for equation in _equations(jax.make_jaxpr(f)(*args).jaxpr)
        for v in equation.outvars
        if hasattr(v.aval, "shape")
    }


def no_copies(f: Callable, *args, clients: int, tables: set[tuple[int, ...]]) -> None:
    """Raises AssertionError where `f` makes a table [I, D] for each of `clients`: an array with a
    dimension of clients before those of a table."""
    for shape in shapes(f, *args):
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
