"""Numbers may be traced: each float argument of a factory, under `jit`, is a number like another.

A sweep compiles once for all values then. Factories are found by their annotations, and those that
this page does not know how to build fail the test; those whose number sets a shape say so.
"""

import importlib
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import now
from worlds import compiled as fast

from fedjax_rec import compress, rows, servers
from fedjax_rec.clients import optimizers
from fedjax_rec.rows import LocalTable, RowsGradient, RowsUpdate, Table
from fedjax_rec.testing.updates import update
from fedjax_rec.types import Compressor, Server

KEY = jax.random.key(5)
# The room has the recipe of that name.
fedrap = importlib.import_module("fedjax_rec.strategies.fedrap")
ROOMS = (compress, optimizers, fedrap, servers)

# Float arguments of each factory, with two values; `others` are what it takes beside them.
TRACED = {
    "annealed_sgd": dict(learning_rate=(0.1, 0.7), batch_decay=(0.9, 1.0), round_decay=(0.5, 1.0)),
    "diana": dict(rate=(0.1, 1.0)),
    "fed_adagrad": dict(learning_rate=(0.1, 1.0), beta1=(0.0, 0.5), tau=(1e-3, 0.1)),
    "fed_adam": dict(learning_rate=(0.1, 1.0), beta1=(0.0, 0.5), beta2=(0.9, 1.0), tau=(1e-3, 0.1)),
    "fed_avg_m": dict(learning_rate=(0.1, 1.0), momentum=(0.0, 0.9)),
    "fed_lion": dict(learning_rate=(0.1, 1.0), beta1=(0.0, 0.5), beta2=(0.9, 1.0)),
    "fed_yogi": dict(learning_rate=(0.1, 1.0), beta1=(0.0, 0.5), beta2=(0.9, 1.0), tau=(1e-3, 0.1)),
    "momentum_correction": dict(momentum=(0.0, 0.9)),
    "random_mask": dict(fraction=(0.25, 1.0)),
    "sgd": dict(learning_rate=(0.1, 0.7)),
    "step": dict(learning_rate=(0.5, 1.0)),
    "stochastic_step": dict(learning_rate=(0.5, 1.0)),
    "terngrad": dict(clip=(1.0, 2.5)),
    "threshold": dict(tau=(0.0, 0.5)),
    "top_k": dict(keep=(0.1, 0.5)),
    "warm_up_top_k": dict(end=(0.01, 0.5)),
}
OTHERS = {
    "diana": dict(compressor=compress.natural()),
    "momentum_correction": dict(compressor=compress.top_k(0.3)),
    "top_k": dict(fraction=0.5),
    "warm_up_top_k": dict(start=0.5),
}
# Whose number says how much room a packet has.
STATIC = {
    ("columns", "fraction"), ("global_top_k", "fraction"), ("random_k", "fraction"),
    ("sparse_ternary", "fraction"), ("threshold", "at_most"), ("top_k", "fraction"),
    ("warm_up_top_k", "start"),
}  # fmt: skip


def floats(factory) -> set[str]:
    """The arguments of a factory that are floats, or floats or None."""
    given = inspect.signature(factory).parameters.values()
    return {p.name for p in given if "float" in str(p.annotation).replace(" ", "").split("|")}


def factories() -> dict:
    """The public functions of the rooms that take a float, by name."""
    found = {}
    for room in ROOMS:
        for name in getattr(room, "__all__", vars(room)):
            value = getattr(room, name)
            own = inspect.isfunction(value) and value.__module__.startswith(room.__name__)
            if own and not name.startswith("_") and floats(value):
                found[name] = value
    return found


FACTORIES = {name: f for name, f in factories().items() if name != "fedrap"}


def test_every_float_argument_is_traced_or_said_to_set_a_shape():
    mine = {(name, argument) for name, f in FACTORIES.items() for argument in floats(f)}
    traced = {(name, argument) for name, arguments in TRACED.items() for argument in arguments}
    assert mine == traced | STATIC and not traced & STATIC


MODEL = {"item": jnp.linspace(-1, 1, 37 * 5).reshape(37, 5), "kernel": jnp.ones((5, 70))}


def table(ids) -> RowsUpdate:
    """An update of the table at three rows."""
    return RowsUpdate(jnp.arange(15.0).reshape(3, 5), ids, jnp.ones(3, bool), None, 37)


def trained(local):
    """Parameters after two batches of a client in round 2."""
    start = {
        "item": LocalTable(MODEL["item"][:4], jnp.arange(4), jnp.ones(4, bool)),
        "kernel": MODEL["kernel"],
    }
    slopes = {
        "item": RowsGradient(jnp.int32([0, 2, 0]), jnp.ones((3, 5))),
        "kernel": jnp.cos(jnp.arange(350.0)).reshape(5, 70),
    }
    state, params = local.init(start, now(2)), start
    for _ in range(2):
        state, params = local.apply(state, params, slopes, jnp.bool_(True), now(2))
    return params


def served(server: Server):
    """The model after two rounds, of which one table is stored narrow."""
    shared = {"item": Table(MODEL["item"]), "narrow": Table(MODEL["item"].astype(jnp.bfloat16))}
    shared["kernel"] = MODEL["kernel"]
    state = server.init(shared)
    for ids in ([1, 2, 3], [3, 8, 9]):
        change = {"item": table(jnp.int32(ids)), "narrow": table(jnp.int32(ids))}
        state, shared = server.apply(state, shared, {**change, "kernel": MODEL["kernel"] / 3})
    return rows.dense(shared)


def sent(compressor: Compressor):
    """What arrives in rounds 0 and 1 of a client with memory."""
    memory, found = compressor.init(update()), []
    for t in range(2):
        key = jax.random.fold_in(KEY, t)
        memory, packet = compressor.encode(key, memory, update(), now(t))
        found.append(compressor.decode(packet, update(), now(t)))
    return found


def outcome(made):
    """Numbers that a part leads to, whatever its kind."""
    if isinstance(made, Server):
        return served(made)
    return sent(made) if isinstance(made, Compressor) else trained(made)


@pytest.mark.parametrize("name", TRACED)
def test_traced_numbers_are_numbers_and_compile_once(name):
    values, others = TRACED[name], OTHERS.get(name, {})

    @chex.assert_max_traces(n=1)
    def run(arguments):
        return outcome(FACTORIES[name](**others, **arguments))

    chex.clear_trace_counter()
    traced, outcomes = fast(run), []
    for i in range(2):
        arguments = {argument: pair[i] for argument, pair in values.items()}
        outcomes.append(traced({k: jnp.float32(v) for k, v in arguments.items()}))
        plain = fast(lambda arguments=arguments: outcome(FACTORIES[name](**others, **arguments)))()
        chex.assert_trees_all_equal_shapes_and_dtypes(outcomes[-1], plain)
        # What is computed in bfloat16 with a number that is known is computed in float32 with a
        # traced one, and rounded once.
        for a, b in zip(jax.tree.leaves(outcomes[-1]), jax.tree.leaves(plain), strict=True):
            near = (
                dict(rtol=0.02, atol=0.05)
                if a.dtype == jnp.bfloat16
                else dict(rtol=2e-5, atol=1e-6)
            )
            chex.assert_trees_all_close(a, b, **near)
    first, second = (np.concatenate([np.ravel(x) for x in jax.tree.leaves(o)]) for o in outcomes)
    assert np.abs(first.astype(np.float64) - second.astype(np.float64)).max() > 1e-3


@pytest.mark.parametrize(("name", "argument"), sorted(STATIC))
def test_numbers_that_set_a_shape_say_so(name, argument):
    others = dict(tau=0.1) if name == "threshold" else {}
    make = lambda value: FACTORIES[name](**others, **{argument: value})
    what = "top_k" if name == "sparse_ternary" else name
    with pytest.raises(ValueError, match=rf"{what}\({argument}=.* cannot be traced; give a number"):
        jax.eval_shape(lambda value: make(value) and value, jnp.float32(0.1))
