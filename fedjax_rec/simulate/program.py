"""The compiled calls of a run: blocks of rounds, with a measurement at the end of each.

    scan over evaluations { scan over rounds { draw, round };  measure }

A run is a function of its key and of its inputs: numbers, and what it is measured on. Both are
arguments of the compiled calls, so that runs which differ in them alone share a program, here and
in the compilation cache. A program compiles each length of block once, for values or for their
shapes alone, so that a run can be looked at (`forecast`) before it begins, and begins with what was
compiled for that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .. import keys, trees
from ..rounds.memory import allowed_bytes, sharing
from ..rounds.plan import Chunk, peak_bytes, plan
from ..types import Cohort, PyTree, State, Strategy
from . import unchanged
from .catalogue import refuse_other_catalogue
from .cohorts import Cohorts, full
from .hosts import from_first, placed
from .measure import Measure
from .padding import refuse_counted_padding
from .row_blocks import elsewhere, laid, places, refuse_undivided
from .spread import Filed, by_clients, lengths, long, nobodys, spread


@dataclass(frozen=True)
class Parts:
    """What a run is made of. cohorts: None for everybody; measure: None for nothing."""

    strategy: Strategy
    cohorts: Cohorts | None = None
    measure: Measure | None = None

    def draws(self) -> Cohorts:
        return self.cohorts or full()


@dataclass(frozen=True)
class Compiled:
    """call(state, store) -> (state, (seen, bytes_up, bytes_down, means, values)), state given up.
    chunk: the clients that train at once on each device. memory(): XLA's account of one of the
    devices. elsewhere: bytes of the model, of the server's state and of the base that a device does
    not have, see `row_blocks`. text(): the program as XLA prints it."""

    call: Callable[..., Any]
    chunk: Chunk
    memory: Callable[[], Any]
    devices: int
    elsewhere: tuple[int, int, int] = (0, 0, 0)
    text: Callable[[], str] = str


@dataclass(frozen=True)
class Calls:
    """Of one run. start(store) -> State, before its first round. compiled(state, store, times,
    rounds) -> Compiled: `times` measurements, each after `rounds` rounds. state: a State, or its
    outline. look(state, store): raises ValueError where the loss counts padding, see `padding`;
    once for all runs of the program."""

    start: Callable[..., State]
    compiled: Callable[..., Compiled]
    look: Callable[..., None]


@dataclass(frozen=True)
class Program:
    """of(key, inputs=()) -> Calls: of the run of that key and those inputs, a pytree whose leaves
    may be anything of the same shapes. Threads may share a program: one compiles, and others wait.
    """

    of: Callable[..., Calls]


def program(made: Callable[..., Parts], mesh: Mesh | None = None) -> Program:
    """The calls of all runs of what made(inputs) -> Parts makes.

    Args:
        made: is traced. Inputs may be numbers, such as learning rates, and the cases that a model
            is measured on; what changes shapes or the code that runs cannot be one of them.
        mesh: `clients_mesh`, over whose devices the clients of each round are dealt, and tables
            lie in blocks of rows, or a frozen base in pieces, where it has a second axis, see
            `rounds.chunks`; None for one device.

    Returns:
        A `Program`, whose runs share what is compiled.

    Raises:
        ValueError: from `compiled`, where the cohort is larger than the clients, a strategy that
            cannot be dealt out has a mesh, or the devices of a mesh cannot hold its tables
            together.

    Example:
        >>> def made(rate):
        ...     sgd = clients.sgd(rate)
        ...     return simulate.Parts(strategies.fedavg(model, data.pointwise(1), optimizer=sgd))
        >>> program = simulate.program(made)
        >>> slow, fast = program.of(key, 0.01), program.of(key, 0.1)  # compiled once
    """

    def block(key, inputs, state, store, times, rounds, chunk):
        return blocks(made(inputs), key, state, store, times, rounds, chunk, mesh)

    def beginning(key, inputs, num_clients: int) -> unchanged.Begun:
        of_shapes = num_clients, _shapes(inputs)
        with compiling:
            if of_shapes not in begins:
                init = lambda args: made(args[1]).strategy.init(args[0], num_clients)
                lies = partial(_lies, mesh=mesh, num_clients=num_clients)
                longer = lambda args: _longer(init(args), mesh, num_clients)
                begins[of_shapes] = unchanged.Begun(longer, (key, inputs), lies)
        return begins[of_shapes]

    begins: dict[Any, unchanged.Begun] = {}
    ready: dict[Any, tuple[Any, Any, Chunk]] = {}
    planned: dict[Any, Chunk] = {}
    looked: list[bool] = []
    compiling = threading.Lock()

    def called(key, inputs, state, store, times, rounds):
        """The call of these shapes, its executable, and the chunk, chosen before all is traced."""
        of_shapes = _shapes((inputs, state, store))
        with compiling:
            if of_shapes not in planned:
                plans = lambda: chunk_for(made(inputs), key, state, store, mesh)
                planned[of_shapes] = from_first(plans)
            chunk = planned[of_shapes]
            if (times, rounds, of_shapes) not in ready:
                args = key, inputs, state, store
                of_chunk = lambda c: _compiled(
                    mesh, block, args, (times, rounds, c.clients), beginning
                )
                ready[times, rounds, of_shapes] = _within(of_chunk, chunk, mesh)
                planned[of_shapes] = ready[times, rounds, of_shapes][-1]
        return ready[times, rounds, of_shapes]

    def of(key, inputs: PyTree = ()) -> Calls:
        def compiled(state, store, times: int, rounds: int) -> Compiled:
            call, program, chunk = called(key, inputs, state, store, times, rounds)
            devices = 1 if mesh is None else mesh.size
            others = elsewhere(state, mesh)
            call, text = partial(call, key, inputs), program.as_text
            return Compiled(call, chunk, program.memory_analysis, devices, others, text)

        def look(state, store) -> None:
            with compiling:
                if not looked:
                    strategy = made(inputs).strategy
                    state = _to_look_at(state, mesh)
                    refuse_other_catalogue(strategy, state, store)
                    refuse_counted_padding(strategy, state, store)
                    looked.append(True)

        def start(store) -> State:
            init, n = beginning(key, inputs, store.num_clients), store.num_clients
            state = init((keys.stream(key, "init"), inputs))
            kept = lambda x, size: x if size is None else spread(x, (n, *x.shape[1:]))
            return _by_leaf(kept, state, lengths(state, mesh, n))

        return Calls(start, compiled, look)

    return Program(of)


def _compiled(mesh: Mesh | None, block: Callable, args: tuple, sizes: tuple, beginning: Callable):
    """(call, executable) of block(*args, *sizes), which takes over what it changes of the state,
    its third argument, but for what `beginning` lends it."""
    # Traced for shapes that lie nowhere, since `jax.shard_map` may close over no others; where they
    # lie is then the compiler's choice.
    key, inputs, state, store = args if mesh is None else jax.tree.map(_outline, args)
    parts = lambda state, rest: block(*rest[:2], state, rest[2], *sizes)
    reads = key, inputs, store
    one = unchanged.call(parts, state, reads)
    # What is told of rounds is read by every process.
    told = None if mesh is None else NamedSharding(mesh, PartitionSpec())
    n = store.num_clients
    like = one.parted(state)
    lies, size = one.split(_lies(state, mesh, n)), one.split(lengths(state, mesh, n))
    longer = lambda leaves, which: list(map(long, leaves, size[which]))
    cut = lambda leaves, which: [
        x if k is None else x[:n] for x, k in zip(leaves, size[which], strict=True)
    ]
    here: dict[str, Any] = dict(in_shardings=(*lies, None), out_shardings=(lies[0], told))

    def called(moved, still, reads):
        moved, out = one.of(cut(moved, 0), cut(still, 1), reads)
        return longer(moved, 0), out

    called.__name__ = block.__name__  # what logs and profiles of a compiler say
    outlines = map(longer, like, (0, 1))
    made = jax.jit(called, donate_argnums=0, **here).lower(*outlines, reads).compile()
    read: list[Any] = []  # the last inputs and data, and where they lie

    def call(key, inputs, state, store):
        moved, still = one.parted(state)
        moved = beginning(key, inputs, store.num_clients).owned(moved)
        reads = key, inputs, store
        if mesh is not None:
            *of_state, of_reads = made.input_shardings[0]
            moved, still = map(placed, (moved, still), of_state, size)
            if not read or not _same(reads, read[0]):
                read[:] = reads, placed(reads, of_reads)
            reads = read[1]
        moved, out = made(moved, still, reads)
        if any(k is not None for k in (*size[0], *size[1])):
            apart = lambda x, was: spread(x, was.shape)
            moved, still = (list(map(apart, *x)) for x in ((moved, like[0]), (still, like[1])))
        return one.joined(moved, still), out

    return call, made


def _same(a: PyTree, b: PyTree) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(x is y for x, y in pairs)


def _within(of_chunk: Callable, chunk: Chunk, mesh: Mesh | None) -> tuple[Any, Any, Chunk]:
    """(call, executable, chunk): with fewer clients a chunk where those planned for prove too many,
    since a plan sees the round alone and a call measures as well; unless fewer do not help."""
    made: Any = (*of_chunk(chunk), chunk)
    allowed = from_first(allowed_bytes)
    allowed //= sharing(1 if mesh is None else mesh.size)
    for _ in range(2):
        taken, now = peak_bytes(made[1].memory_analysis()), made[-1]
        fewer = now.without(taken - allowed)
        if fewer == now:
            break
        less = (*of_chunk(fewer), fewer)
        if peak_bytes(less[1].memory_analysis()) >= taken:
            break
        made = less
    return made


def _lies(state: State, mesh: Mesh | None, num_clients: int) -> list[Any]:
    """For each leaf of a state, or of its outline, where it has to lie; None for anywhere."""
    both = zip(lengths(state, mesh, num_clients), places(state, mesh), strict=True)
    return [place if size is None or mesh is None else by_clients(mesh) for size, place in both]


def _to_look_at(state: State, mesh: Mesh | None) -> State:
    """A state whose model can be played, and in one process the state itself: of what clients keep
    and no process has whole, what nobody keeps."""
    if jax.process_count() == 1:
        return state
    there = lambda x, place: placed(x, place) if isinstance(x, Filed) else x
    shared = _by_leaf(there, state, places(state, mesh)).shared
    private = jax.tree.map(nobodys, state.private)
    return State(shared, private, (), jax.tree.map(_outline, state.server), state.round)


def _longer(state: State, mesh: Mesh | None, num_clients: int) -> State:
    return _by_leaf(long, state, lengths(state, mesh, num_clients))


def _by_leaf(each: Callable, state: State, by: list) -> State:
    leaves, structure = jax.tree.flatten(state)
    return jax.tree.unflatten(structure, map(each, leaves, by))


def _outline(x) -> Any:
    return jax.ShapeDtypeStruct(x.shape, x.dtype) if hasattr(x, "shape") else x


def blocks(parts: Parts, key, state, store, times: int, rounds: int, chunk: int, mesh=None):
    """`times` measurements, each after `rounds` rounds, as `Compiled.call` gives them.

    Args:
        parts: of the run.
        key: of the run, as given to `simulate`.
        state: before the first of these rounds.
        store: the clients' data.
        times: measurements.
        rounds: before each of them.
        chunk: c, clients that train at once; they are a `Compiled.chunk`.
        mesh: as of `program`.

    Example:
        >>> parts = simulate.Parts(strategies.fedavg(model, data.pointwise(1)))
        >>> state = parts.strategy.init(key, dataset.num_clients)
        >>> state, (seen, *_) = simulate.blocks(parts, key, state, dataset.store, 1, 2, 8)
        >>> int(state.round)
        2
    """
    one = lambda s: _measured(parts, key, s, store, rounds, chunk, mesh)
    return unchanged.scan(one, state, times)


def chunk_for(parts: Parts, key, state, store, mesh: Mesh | None = None) -> Chunk:
    """How many clients train at once, on each device, by the shapes of all these."""
    if mesh is not None and parts.strategy.chunk is None:
        raise ValueError(
            "the strategy plays its clients all at once and not in chunks, which could be dealt to "
            f"{mesh.size} devices; use devices=1."
        )
    refuse_undivided(state, mesh)
    ids = jax.ShapeDtypeStruct((parts.draws().size(store.num_clients),), jnp.int32)
    devices, others = 1 if mesh is None else mesh.size, elsewhere(state, mesh)
    of_round, cohort = keys.stream(key, "round"), Cohort(ids, store)
    return plan(parts.strategy, of_round, state, cohort, devices, sum(others))


def _one_round(parts: Parts, key, state, store, chunk, mesh):
    n = store.num_clients
    draw = jax.random.fold_in(keys.stream(key, "cohort"), state.round)
    ids = parts.draws().draw(draw, state.round, n)
    of_round = keys.stream(key, "round")
    cohort = Cohort(ids, store, mesh=mesh)
    state, info = parts.strategy.round(of_round, state, cohort, chunk)
    state = laid(state, mesh)
    refused = jnp.zeros(ids.shape) if info.rejected is None else info.rejected
    # Numbers of a client, by examples; where nobody counts, as when all are late, of all who
    # trained, and where nobody did, there is nothing to tell.
    asked = (ids < n) & (refused == 0) & (store.sizes(ids) > 0)
    counts = info.weight > 0
    weight = jnp.where(counts.any(), info.weight, asked.astype(jnp.float32))
    mean = lambda x: jnp.where(weight != 0, x * weight, 0).sum() / weight.sum()
    means = {name: mean(x) for name, x in info.metrics.items() if x.ndim == 1}
    told = {
        "clients": counts.sum(),
        "rejected": jnp.where(refused > 0, ids, -1),
        "repeated": jnp.zeros(n, jnp.int32).at[ids].add(1, mode="drop").max() > 1,
    }
    moved = counts
    if info.verdicts is not None:
        moved = counts & (info.verdicts > 0)
        told["rejected_by_rule"] = 1 - moved.sum() / jnp.maximum(counts.sum(), 1)
    # Where nobody counts, states are those of the round before, and so is what they tell.
    by_parts = trees.told(state.server)
    means |= {name: jnp.where(moved.any(), x, jnp.nan) for name, x in by_parts.items()}
    return state, (info, ids, means | told)


def _measured(parts: Parts, key, state, store, rounds, chunk, mesh):
    one = lambda s: _one_round(parts, key, s, store, chunk, mesh)
    state, (info, ids, seen) = unchanged.scan(one, state, rounds)
    last = jax.tree.map(lambda x: x[-1], info)
    measure = parts.measure
    values, means = ({}, {}) if measure is None else measure.values(state, last, ids[-1])
    finite = jnp.stack([jnp.isfinite(x).all() for x in _floats(state.shared)]).all()
    seen = {**seen, "finite": finite}
    return state, (seen, info.bytes_up, info.bytes_down, means, values)


def block_of(done: int, rounds: int, every: int, measures_per_call: int = 1) -> tuple[int, int]:
    """What the next call does: measured are the multiples of `every` and the last round, wherever
    the run goes on from.

    Args:
        done: rounds before it.
        rounds: of the whole run.
        every: rounds between measurements.
        measures_per_call: at most so many measurements.

    Returns:
        (measurements, rounds before each).

    Example:
        >>> simulate.block_of(0, 12, every=5), simulate.block_of(10, 12, every=5)
        ((1, 5), (1, 2))
    """
    aligned = done % every == 0
    times = min(measures_per_call, (rounds - done) // every) if aligned else 0
    step = every if times else min(every - done % every, rounds - done)
    return max(times, 1), step


def _shapes(tree) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    like = lambda x: (getattr(x, "shape", ()), getattr(x, "dtype", type(x)))
    return structure, tuple(map(like, leaves))


def _floats(tree):
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return leaves or [jnp.zeros(1)]
