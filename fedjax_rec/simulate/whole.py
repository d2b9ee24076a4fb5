"""A whole run as a pure function of its key and its numbers, and many of them in one call.

    run(key, inputs, store) -> (State, curves)

It may be jitted, vmapped, mapped and sharded like any function of jax. How the runs of a sweep
share a device is the device's: a CPU plays one on each core, since in a `vmap` of four each takes
nearly twice its time alone (every loop carries all runs to the end of the longest); an accelerator
takes as many in one `vmap` as its memory holds.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..check import at_least
from ..rounds.memory import allowed_bytes
from ..rounds.plan import peak_bytes
from ..types import PyTree, State
from .device import cores
from .loop import TOLD
from .program import Parts, blocks, chunk_for

Run = Callable[..., tuple[State, dict[str, jax.Array]]]


def whole_run(
    made: Callable[..., Parts], store, rounds: int, every: int = 1, inputs: PyTree = ()
) -> Run:
    """The run that `simulate` plays of made(inputs), as a pure function.

    What it returns gives, of run(key, inputs, store): the state after the last round, and the
    curves, float32[T] each, of the T measurements: the names of `Progress.metrics` but `seconds`,
    `round` as int32[T], and `finite`, whether loss and model are. A run that diverges goes on;
    from there its curves mean nothing. Bytes are exact up to 2^24.

    Args:
        made: made(inputs) -> `Parts`, which is traced; see `program`.
        store: The clients' data, of which only the shapes count here.
        rounds: How many there are.
        every: Rounds between measurements; the last round is measured as well.
        inputs: Some, by which the clients of a chunk are chosen before anything is traced.

    Raises:
        ValueError: `rounds` or `every` is below 1.

    Example:
        >>> def made(rate):
        ...     sgd = clients.sgd(rate)
        ...     return simulate.Parts(strategies.fedavg(model, data.pointwise(1), optimizer=sgd))
        >>> run = simulate.whole_run(made, dataset.store, rounds=3, inputs=0.1)
        >>> state, curves = jax.jit(run)(key, 0.3, dataset.store)
        >>> curves["loss"].shape
        (3,)
    """
    at_least("whole_run", "rounds", rounds, 1)
    at_least("whole_run", "every", every, 1)
    whole, rest = divmod(rounds, every)
    planned = made(inputs)
    key = jax.random.key(0)
    like = jax.eval_shape(lambda: planned.strategy.init(key, store.num_clients))
    chunk = chunk_for(planned, key, like, store).clients

    def run(key, inputs, store):
        parts = made(inputs)
        state = parts.strategy.init(keys.stream(key, "init"), store.num_clients)
        curves = []
        for times, step in ((whole, every), (1, rest)):
            if times and step:
                state, out = blocks(parts, key, state, store, times, step, chunk)
                curves.append(_curves(parts, out))
        joined = jax.tree.map(lambda *x: jnp.concatenate(x), *curves)
        marks = [*range(every, whole * every + 1, every), *([rounds] if rest else [])]
        return state, {"round": jnp.asarray(marks, jnp.int32), **joined}

    return run


def _curves(parts: Parts, out) -> dict[str, jax.Array]:
    """float32[T] of every number that `simulate` puts into its metrics."""
    seen, up, down, means, _ = out
    told = {name: seen[name][:, -1] for name in ("loss", *sorted(seen.keys() - TOLD))}
    took_part = seen["clients"]
    finite = (jnp.isfinite(seen["loss"]) | (took_part == 0)).all(1) & seen["finite"]
    rejected = (seen["rejected"] >= 0).sum((1, 2))
    told |= {
        "clients": jnp.round(took_part.mean(1)),
        "rejected": rejected,
        "rejected_share": rejected / jnp.maximum(1, rejected + took_part.sum(1)),
    }
    for name, nbytes in (("bytes_up", up), ("bytes_down", down)):
        total = nbytes.astype(jnp.float32).sum((1, 2))
        told |= {
            name: total,
            f"{name}_per_client": total / jnp.maximum(1, (nbytes > 0).sum((1, 2))),
        }
    names = parts.measure.protocol.summary_names if parts.measure else ()
    for part, values in means.items():
        prefix = "" if part == "test" else f"{part}_"
        told |= {prefix + name: values[:, i] for i, name in enumerate(names)}
    return {**{name: jnp.asarray(x, jnp.float32) for name, x in told.items()}, "finite": finite}


def sweep(
    made: Callable[..., Parts],
    store,
    rounds: int,
    keys: jax.Array,
    inputs: PyTree = (),
    every: int = 1,
    last: Callable[[State], PyTree] = lambda state: (),
    workers: int | None = None,
) -> tuple[dict[str, np.ndarray], PyTree]:
    """R whole runs: the curves of all, [R, T] each, and what `last` keeps of their states.

    Args:
        made: See `whole_run`.
        store: The clients' data, the same in all runs.
        rounds: How many there are in each run.
        keys: One a run, [R].
        inputs: Leaves [R, ...], one slice a run.
        every: Rounds between measurements.
        last: last(state) of a run's state after its last round, which else is given up.
        workers: Runs at a time on a CPU; None for one a core.

    Returns:
        Curves as of `whole_run`, in the order of the runs, and last(state), leaves [R, ...].

    Raises:
        ValueError: There is no key, an input has no slice for each, or a number is below 1.
        MemoryError: Not even one run fits.

    Example:
        >>> def made(rate):
        ...     sgd = clients.sgd(rate)
        ...     return simulate.Parts(strategies.fedavg(model, data.pointwise(1), optimizer=sgd))
        >>> rates, seeds = jnp.array([0.1, 1.0]), jax.vmap(jax.random.key)(jnp.arange(2))
        >>> curves, _ = simulate.sweep(made, dataset.store, 4, seeds, rates, every=2)
        >>> curves["loss"].shape
        (2, 2)
    """
    if workers is not None:
        at_least("sweep", "workers", workers, 1)
    total = _runs(keys, inputs)
    keys, inputs = jax.tree.map(jnp.asarray, (keys, inputs))
    of_run = lambda i: jax.tree.map(lambda x: x[i], (keys, inputs))
    run = whole_run(made, store, rounds, every, of_run(0)[1])

    def kept(key, inputs, store):
        state, curves = run(key, inputs, store)
        return curves, last(state)

    play = _on_cores if jax.default_backend() == "cpu" else _in_groups
    return play(kept, of_run, total, store, workers)


def _runs(keys: jax.Array, inputs: PyTree) -> int:
    """How many runs there are. Raises ValueError where that cannot be told."""
    typed = jnp.issubdtype(jnp.asarray(keys).dtype, jax.dtypes.prng_key)
    shape = jnp.shape(keys) if typed else jnp.shape(keys)[:-1]
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"sweep(keys) of shape {jnp.shape(keys)} is no list of keys, one a run; use "
            "jax.random.split(key, runs)."
        )
    for x in jax.tree.leaves(inputs):
        if jnp.shape(x)[:1] != shape:
            raise ValueError(
                f"sweep(inputs) has a leaf of shape {jnp.shape(x)} for {shape[0]} runs; give each "
                "leaf a slice for each run."
            )
    return shape[0]


def _on_cores(kept: Callable, of_run: Callable, total: int, store, workers: int | None):
    """One run on each core, of one compiled program."""
    call = jax.jit(kept).lower(*of_run(0), store).compile()
    fit = _that_fit(peak_bytes(call.memory_analysis()))
    workers = max(1, min(fit, workers or cores(), total))

    def one(i: int):
        return jax.device_get(call(*of_run(i), store))

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, range(total)))
    return jax.tree.map(lambda *x: np.stack(x), *found)


def _in_groups(kept: Callable, of_run: Callable, total: int, store, workers: int | None):
    """Groups of as many runs as fit, each in one `vmap`."""
    outline: Any = jax.eval_shape(of_run, jax.ShapeDtypeStruct((), jnp.int32))
    alone = jax.jit(kept).lower(*outline, store).compile()
    size = min(_that_fit(peak_bytes(alone.memory_analysis())), total)
    together = jax.jit(jax.vmap(kept, (0, 0, None)))
    found = []
    for begin in range(0, total, size):
        # The last group is filled up, so that all are of one program.
        ids = jnp.minimum(begin + jnp.arange(size), total - 1)
        group = jax.device_get(together(*of_run(ids), store))
        found.append(jax.tree.map(lambda x, n=total - begin: x[:n], group))
    return jax.tree.map(lambda *x: np.concatenate(x), *found)


def _that_fit(peak: int) -> int:
    fit = allowed_bytes() // max(peak, 1)
    if not fit:
        raise MemoryError(
            f"sweep: a run takes {peak / 2**20:.0f} MiB and may take "
            f"{allowed_bytes() / 2**20:.0f}; allow it more, or use fewer clients."
        )
    return fit
