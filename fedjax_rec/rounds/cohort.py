"""The clients of a round at work: the one place that plays them, for every engine.

What a client does is written for one; `over_clients` is the one `vmap`, of the clients of
a chunk (`chunks`).

Dimensions: `N` clients, `C` cohort, `c` clients a chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from .. import keys, pieces, rows, trees, wire
from ..check import is_traced
from ..types import Client, Cohort, Now, Packet, PyTree, State
from .chunks import at
from .memory import clients_that_fit, refuse_too_large

SMALLER = "use fewer clients, a smaller width, or group users into clients (data.by_hash)"


def beginning(
    fresh: Callable[..., State], held: Callable[[State], Mapping[str, tuple[PyTree, str]]]
) -> Callable[..., State]:
    """`Strategy.init` of fresh(key, num_clients) -> State, in one compiled call.

    held(outline of the state) -> {what: (what all clients hold of it, remedy)}. Raises MemoryError,
    before anything runs, where that cannot fit.
    """

    def init(key, num_clients: int) -> State:
        made = jax.make_jaxpr(lambda k: fresh(k, num_clients), return_shape=True)
        program, outline = made(key)
        for what, (tree, remedy) in held(outline).items():
            refuse_too_large(what, trees.nbytes(tree), num_clients, remedy)
        if not program.consts:
            return jax.jit(fresh, static_argnums=1)(key, num_clients)
        # What it closes over, such as a pretrained base, is an argument: as a constant it would be
        # held once more by what is compiled.
        call = jax.jit(lambda constants, key: eval_jaxpr(program.jaxpr, constants, key))
        leaves = call(program.consts, key)
        return jax.tree.unflatten(jax.tree.structure(outline), leaves)

    return init


def everybody(one: Callable, num_clients: int) -> PyTree:
    """one(id) of all clients, leaves [N, ...]."""
    ids = jnp.arange(num_clients, dtype=jnp.int32)
    return vmapped(one, ids)(ids)


def first_private(client: Client, key, num_clients: int) -> PyTree:
    """What all clients keep at the start, leaves [N, ...]."""
    of_client = keys.stream(key, "private")
    return everybody(lambda id: client.init(of_client, id), num_clients)


def copies(one: PyTree, num_clients: int) -> PyTree:
    """`one` for each client, leaves [N, ...]."""
    return everybody(lambda id: one, num_clients)


@dataclass(frozen=True)
class Keys:
    """Of a round. train(id), encode(id): the keys of one client, or of ids int32[c]."""

    train: Callable
    encode: Callable


def client_keys(key, round) -> Keys:
    """The keys of the clients of a round."""
    of_round = keys.stream(jax.random.fold_in(key, round), "clients")

    def part(number: int) -> Callable:
        one = lambda id: jax.random.split(keys.for_client(of_round, id))[number]
        return lambda ids: vmapped(one, ids)(ids) if jnp.ndim(ids) else one(ids)

    return Keys(part(0), part(1))


def now_of(round, shared: PyTree, cohort: Cohort) -> Callable[..., Now]:
    """id -> what that client knows of the round."""
    return lambda id: Now(round, shared, id, cohort.ids)


def vmapped(each: Callable, *args: PyTree, axes: tuple | None = None) -> Callable[..., Any]:
    """each(*args) of the clients of a chunk in one call, for arguments like these [c, ...].

    The server's own tables, in the `origin` of updates, pass through every client unchanged: they
    have no client axis, in arguments and results. axes: of the arguments, where they are others.
    """
    axes = axes or tuple(map(rows.map_axes, args))
    each = jax.jit(each, inline=True)  # traced once, for its outline and for what runs
    outline = jax.eval_shape(jax.vmap(each, in_axes=axes), *args)
    return jax.vmap(each, in_axes=axes, out_axes=rows.map_axes(outline))


def over_clients(each: Callable, held: PyTree, cohort: Cohort, slices: Callable | None = None):
    """(ids int32[c], held) -> each(id, mine, data) of those clients, leaves [c, ...].

    held: leaves [N, ...], of which `mine` is the client's slice, any of padding; or what
    slices(held, ids) makes a slice of.
    """
    _refuse_repeated(cohort)
    data, of = cohort.data, slices or at
    args = lambda ids, held: (ids, of(held, ids), _in_step(data.take(ids)))
    outline = jax.eval_shape(args, cohort.ids[:1], held)
    every = vmapped(each, *outline, axes=(0, 0, data.axes()))
    return lambda ids, held: every(*args(ids, held))


def _in_step(data):
    """The data of a chunk, which takes as many turns on all devices that hold a base together."""
    # What says how long loops are, of data that have it: users' own need not.
    known = {name: getattr(data, name, None) for name in ("longest", "most_users")}
    alike = {name: pieces.alike(x) for name, x in known.items() if x is not None}
    return replace(data, **alike) if alike else data


def chunk_of(asked: int | str | None, nbytes: int, cohort: Cohort) -> int:
    """`c`: as asked, or so many as fit by a rule of thumb, of `nbytes` of local parameters each.
    Budgets, such as "2GiB", are for `plan`."""
    size = cohort.ids.shape[0]
    return min(asked if isinstance(asked, int) else clients_that_fit(nbytes, size), size)


def clients_at_once(told: int | None, rule: Callable[..., int], key, state, cohort: Cohort) -> int:
    """`c` of a round: as it was told, but no more than the cohort, or by the strategy's rule."""
    return min(told, cohort.ids.size) if told else rule(key, state, cohort)


def rule_of_thumb(asked: int | str | None, each_of: Callable) -> Callable[..., int]:
    """`Strategy.chunk` by the local parameters of a client.

    each_of(key, state, cohort) -> each(id, private, data) -> (private, Upload, ...) of one client.
    """

    def chunk(key, state: State, cohort: Cohort) -> int:
        if isinstance(asked, int):
            return min(asked, cohort.ids.shape[0])

        def one(key, state, cohort):
            data, ids = cohort.data, cohort.ids[:1]
            args = ids, at(state.private, ids), data.take(ids)
            return jax.vmap(each_of(key, state, cohort), (0, 0, data.axes()))(*args)[1].update

        return chunk_of(asked, local_bytes(jax.eval_shape(one, key, state, cohort)), cohort)

    return chunk


def audited(
    each: Callable, held: PyTree, cohort: Cohort, slices: Callable | None = None
) -> tuple[Packet, jax.Array]:
    """`Strategy.packets` of each(id, mine, data) -> Packet: all of the cohort, leaves [C, ...]."""

    def one(id, mine, data):
        packet = each(id, mine, data)
        return packet, wire.nbytes(packet)

    return over_clients(one, held, cohort, slices)(cohort.ids, held)


def kept(client: Client, weight: jax.Array, before: PyTree, after: PyTree) -> PyTree:
    """What the clients of a chunk keep, leaves [c, ...]: `after`, or of those whose upload weighs
    nothing what `Client.unsent` says."""
    if client.unsent is None:
        return after
    return trees.select_each(weight > 0, after, client.unsent(before, after))


def served(cohort: Cohort, ids: jax.Array) -> jax.Array:
    """`ids` with padding in place of clients without data, to whom nothing is sent."""
    return jnp.where(cohort.data.sizes(ids) > 0, ids, cohort.data.num_clients)


def _refuse_repeated(cohort: Cohort) -> None:
    """Raises ValueError where ids that are known before tracing name a client twice."""
    if is_traced(cohort.ids) or isinstance(cohort.ids, jax.ShapeDtypeStruct):
        return
    ids = np.asarray(cohort.ids)
    named, times = np.unique(ids[ids < cohort.data.num_clients], return_counts=True)
    if (times > 1).any():
        raise ValueError(
            f"Cohort(ids): client {named[times.argmax()]} is named {times.max()} times and would "
            "count as often; name each client once."
        )


def local_bytes(update: PyTree) -> int:
    """Bytes of the local parameters of a client that uploads an update of this outline [c, ...]."""
    return sum(trees.nbytes(x) // x.shape[0] for x in jax.tree.leaves(rows.dense(update)))
