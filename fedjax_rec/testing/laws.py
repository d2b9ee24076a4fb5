"""What a law is, and how all laws of a kind are held against one part.

A law is a function of a bench: one part, with what its laws share of it compiled once. It returns
nothing where it holds and raises where it does not; its first line says what must be true. So one
line of a user's tests runs all of them, and another runs each as a test of its own::

    def test_eight_bits():
        testing.check_compressor(eight_bits(), unbiased=True)

    @pytest.mark.parametrize("law", testing.laws("compressor"))
    def test_each(law):
        law(eight_bits(), unbiased=True)
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from ..types import Now, PyTree

KEY = jax.random.key(3)
LONGEST = 300  # characters of what came


@dataclass(frozen=True)
class Kind:
    """The laws of one kind of part.

    bench(part, **claims) -> what its laws are given. laws: functions of the bench.
    """

    name: str
    bench: Callable[..., Any]
    laws: tuple[Callable[[Any], None], ...]


def check(kind: Kind, part: Any, **claims) -> None:
    """Holds all laws of `kind` against `part`. Raises AssertionError, in one line, for the first
    that is broken."""
    bench = _held(kind, kind.bench, part, **claims)
    for law in kind.laws:
        _held(kind, law, bench)


def apart(kind: Kind) -> tuple[Callable[..., None], ...]:
    """Each law of `kind` as law(part, **claims), under its name, in their order."""
    latest: list = [None, None]  # a bench serves the laws that follow one another on one part

    def one(law: Callable) -> Callable[..., None]:
        @functools.wraps(law)
        def run(part, **claims):
            asked = (part, claims)
            if latest[0] is None or not _same(latest[0], asked):
                latest[:] = asked, _held(kind, kind.bench, part, **claims)
            _held(kind, law, latest[1])

        del run.__wrapped__  # its signature is that of `run`
        return run

    return tuple(map(one, kind.laws))


def _same(a: tuple, b: tuple) -> bool:
    alike = a[0] is b[0] and a[1].keys() == b[1].keys()
    return alike and all(a[1][name] is b[1][name] for name in a[1])


def _held(kind: Kind, law: Callable, *args, **claims) -> Any:
    try:
        return law(*args, **claims)
    except Exception as error:
        name = law.__name__.strip("_").replace("_", " ") if law in kind.laws else "its set-up"
        said = (inspect.getdoc(law) or "").split("\n\n")[0] if law in kind.laws else ""
        came = " ".join(str(error).split()).replace("[Chex] Assertion ", "")[:LONGEST]
        if not isinstance(error, AssertionError):
            came = f"{type(error).__name__}: {came}"
        line = f"The {kind.name} breaks the law '{name}'. " + " ".join(said.split())
        raise AssertionError(f"{line} But: {came}") from error


def expect(holds: Any, came: str) -> None:
    """Raises AssertionError(came) unless `holds`."""
    if not bool(holds):
        raise AssertionError(came)


def compiled(f: Callable) -> Callable:
    """`f` compiled fast rather than well: laws compile for longer than they run."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def without_jit(f: Callable, *args) -> Any:
    """f(*args) one operation after another, of arrays of NumPy: what `chex.variants` calls without
    jit and without device."""
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    of_host = lambda x: np.asarray(x) if isinstance(x, jax.Array) and not is_key(x) else x
    return f(*jax.tree.map(of_host, args))


def traced_once(f: Callable) -> Callable:
    """`f` compiled, which raises AssertionError where a second trace is needed."""
    traces = []

    def counted(*args):
        traces.append(1)
        expect(len(traces) == 1, "a call of the same shapes was traced anew; give arrays of one "
               "shape and dtype, and no Python numbers that change")  # fmt: skip
        return f(*args)

    return compiled(counted)


def now_of(round=0, shared: PyTree = (), client=None, cohort=None) -> Now:
    """What everybody knows in a round."""
    return Now(jnp.asarray(round, jnp.int32), shared, client, cohort)


def same_bits(a: PyTree, b: PyTree) -> None:
    """Raises AssertionError unless both trees are equal to the bit, NaN to NaN."""
    chex.assert_trees_all_equal(_plain(a), _plain(b))


def close(a: PyTree, b: PyTree, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    """Raises AssertionError unless both trees are nearly equal, of one structure and dtypes."""
    a, b = _plain(a), _plain(b)
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b)
    chex.assert_trees_all_close(a, b, rtol=rtol, atol=atol)


def finite(tree: PyTree) -> None:
    """Raises AssertionError for NaN or infinity in a tree."""
    chex.assert_tree_all_finite(_plain(tree))


def _plain(tree: PyTree) -> PyTree:
    """Keys as their numbers."""
    is_key = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree)
