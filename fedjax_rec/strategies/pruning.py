"""Models that shrink: magnitude pruning with a mask kept over rounds, and federated dropout.

- `pruning`            a server that keeps the largest weights of every matrix and zeroes the rest
- `prune_fl`           federated averaging of a pruned model (after PruneFL, Jiang et al., "Model
                       pruning enables efficient federated learning on edge devices", TNNLS 2022)
- `federated_dropout`  each client trains, receives and sends a random submodel (Caldas et al. 2018)

PruneFL adjusts its mask by importance for the time it takes: the squared gradient of a coordinate
over the seconds that its layer costs. Here the mask is adjusted by magnitude, to a fixed fraction,
and coordinates come back through a round in which the whole model is trained.

Federated dropout:  k = ceil(fraction * D) of D columns of every matrix, drawn by every client for
each round; the loss sees D/k * x in these columns and 0 in the others. A column of an embedding is
one of its D features, one of a layer's matrix is a unit; a unit's bias is left out with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, trees, wire
from ..check import at_least, static
from ..clients import Local, local_training, sgd
from ..clients.rates import rated
from ..compress.cheaper import cheaper
from ..compress.mask import columns, masked
from ..data import Batches
from ..models.prunable import parameters, switched
from ..rounds.federated import federated
from ..rounds.inside import inside
from ..servers.step import as_server, step
from ..trees import Frozen
from ..types import (
    Aggregator,
    Client,
    Compressor,
    Model,
    Packet,
    Server,
    Stage,
    Strategy,
    Transform,
)


def prune_fl(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    fraction: float = 0.3,
    every: int = 10,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """Federated averaging of a model from `models.prunable` with the server `pruning`.

    A client gets the kept values of the dense leaves and of the rows that it touches; and in its
    first pruned round after an adjustment the new mask of all matrices, a bit a coordinate. Whole
    rounds need no mask: all know the round.
    Arguments that are not named here are those of `fedavg`.

    Args:
        fraction: of the coordinates of each matrix that are kept.
        every: rounds from adjustment to adjustment.
        uplink: default `compress.masked()`; to compress what it sends, `chain(masked(), ...)`.
        server: the one that `pruning` wraps, default `step(1.0)`.

    Raises:
        ValueError: as `pruning`.

    Example:
        >>> strategy = strategies.prune_fl(models.prunable(model), data.pointwise(4), fraction=0.3)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = _client(model, examples, probe, local, epochs, steps, batch_size)
    assembled = _counting_down(
        client, masked(), model, "prune_fl", uplink or masked(), aggregator,
        pruning(server or step(1.0), fraction, every), clients_per_chunk, stages,
    )  # fmt: skip
    of_rounds = lambda state: replace(state, server=state.server["rounds"])

    def init(key, num_clients):
        state = assembled.init(key, num_clients)
        # Which adjustment's mask each client holds; the first is 1.
        held = jnp.zeros(num_clients, jnp.int32)
        return replace(state, server={"rounds": state.server, "held": held})

    def round(key, state, cohort, chunk: int | None = None):
        held, ids = state.server["held"], cohort.ids
        after, info = assembled.round(key, of_rounds(state), cohort, chunk)
        latest = state.round // every
        pruned = (latest > 0) & (state.round % every != every - 1)
        wanted = pruned & (held.at[ids].get(mode="clip") < latest) & (ids < held.shape[0])
        matrices = [m for m in state.shared["mask"].value.values() if m.ndim > 1]
        down = info.bytes_down + jnp.where(wanted, wire.nbytes(Packet(matrices)), 0)
        held = held.at[jnp.where(wanted, ids, held.shape[0])].set(latest, mode="drop")
        after = replace(after, server={"rounds": after.server, "held": held})
        return after, replace(info, bytes_down=down)

    return replace(inside(assembled, of_rounds), init=init, round=round)


def federated_dropout(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    fraction: float = 0.5,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """Federated averaging of a model from `models.prunable`, of which each client of a round gets,
    trains and sends a random part of the columns: see `submodel`.

    Both ways a bit for each column of each matrix says which they are.
    Arguments that are not named here are those of `fedavg`.

    Args:
        fraction: of the columns of each matrix that a client has.
        uplink: default `compress.columns(fraction)`, which is lossless here.

    Raises:
        ValueError: as `submodel`.

    Example:
        >>> strategy = strategies.federated_dropout(models.prunable(model), data.pointwise(4))
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = _client(model, examples, probe, local, epochs, steps, batch_size)
    part = columns(fraction)
    return _counting_down(
        submodel(client, fraction), part, model, "federated_dropout", uplink or part, aggregator,
        server, clients_per_chunk, stages,
    )  # fmt: skip


def pruning(server: Server | Transform, fraction: float = 0.3, every: int = 10) -> Server:
    """`server`, such as `step(1.0)`, on a model from `models.prunable`, which is pruned.

    After rounds `every`, 2 `every`, ... the mask becomes the ceil(fraction * d) coordinates of
    largest magnitude of each matrix and table of d coordinates (of equal ones the first), and the
    others are set to zero, where they stay to the bit. In the round before an adjustment the mask
    is all ones: the whole model is trained and sent, so that coordinates can come back. Hence the
    first `every` rounds are whole, and one of `every` later. Vectors and scalars stay whole. The
    state of an optimizer is not pruned: what comes back has the moments it had. `prune_fl` bills
    the mask that clients get; another assembly hands it out free.

    Args:
        server: what steps on the model, or an optax transform.
        fraction: of the coordinates that are kept.
        every: rounds from adjustment to adjustment.

    Raises:
        ValueError: outside 0 < fraction <= 1 and for every < 2, and where the model has no mask.

    Example:
        >>> server = strategies.pruning(strategies.step(1.0), fraction=0.3, every=10)
    """
    static("pruning", "fraction", fraction)
    if not 0 < fraction <= 1:
        raise ValueError(f"pruning(fraction={fraction}) keeps nothing; use 0 < fraction <= 1.")
    at_least("pruning", "every", every, 2)
    optimizer = as_server(server)

    def init(shared):
        _check_prunable("pruning", shared)
        return {"optimizer": optimizer.init(shared), "steps": jnp.int32(0)}

    def apply(state, shared, update):
        moved, shared = optimizer.apply(state["optimizer"], shared, update)
        steps = state["steps"] + 1
        mask = shared["mask"].value

        def adjusted(shared):
            return {path: _largest(x, fraction) for path, x in parameters(shared).items()}

        phase = jnp.where(steps % every == 0, 2, jnp.where(steps % every == every - 1, 1, 0))
        branches = [lambda _: mask, lambda _: jax.tree.map(jnp.ones_like, mask), adjusted]
        mask = jax.lax.switch(phase, branches, shared)
        shared = {**shared, "mask": trees.Frozen(mask)}
        # Always, since an optimizer with momentum moves what has no gradient.
        shared = {**shared, "model": switched(shared)}
        return {"optimizer": moved, "steps": steps}, shared

    return Server(init, apply)


def _largest(weights, fraction: float) -> jax.Array:
    """bool of the shape of `weights`: the ceil(fraction * d) of largest magnitude.

    The bits of a positive float are in order as integers, so their k-th largest is found bit by
    bit, in 31 counts: sorting millions of weights takes seconds.
    """
    x = weights.values if rows.is_table(weights) else weights
    if x.ndim < 2:
        return jnp.ones(x.shape, bool)
    count = max(1, math.ceil(fraction * x.size - 1e-9))
    size = jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)).reshape(-1), jnp.uint32)

    def next_bit(i, floor):
        trial = floor | (jnp.uint32(1) << (30 - i).astype(jnp.uint32))
        return jnp.where((size >= trial).sum() >= count, trial, floor)

    floor = jax.lax.fori_loop(0, 31, next_bit, jnp.uint32(0))
    above, equal = size > floor, size == floor
    room = count - above.sum()
    return (above | (equal & (jnp.cumsum(equal) <= room))).reshape(x.shape)


def submodel(client: Client, fraction: float) -> Client:
    """`client`, of a model from `models.prunable`, on a submodel that is drawn anew every round.

    The factor D/k is that of inverted dropout: what the loss sees is the whole model on average,
    and the gradient, D/k times as large, makes up for the clients that left a column out and whose
    zeros enter the mean. With an optimizer that leaves alone what has no gradient (SGD, Adam; not
    weight decay) the upload is zero in the columns that were left out: send it by
    `compress.columns(fraction)`, which loses nothing. Private parameters stay whole, and so does
    a matrix of one column, such as the read-out of `models.neumf`.

    The submodel takes the place of the model's mask: not to be used with `strategies.pruning`.

    Args:
        client: what trains the submodel.
        fraction: of the columns of each matrix that are drawn.

    Raises:
        ValueError: outside 0 < fraction <= 1, and where the model has no mask.

    Example:
        >>> batches = data.pointwise(4)
        >>> client = clients.local_training(models.prunable(model), batches, clients.sgd(0.1))
        >>> client = strategies.submodel(client, fraction=0.5)
    """
    static("submodel", "fraction", fraction)
    if not 0 < fraction <= 1:
        raise ValueError(f"submodel(fraction={fraction}) trains nothing; use 0 < fraction <= 1.")

    def update(key, private, shared, data, now):
        if not (isinstance(shared, dict) and isinstance(shared.get("mask"), Frozen)):
            raise ValueError(
                "submodel(client): the model has no mask; make it with models.prunable(model)."
            )
        draw_key, key = jax.random.split(key)
        mask = _drawn(draw_key, shared["mask"].value, fraction)
        return client.update(key, private, {**shared, "mask": Frozen(mask)}, data, now)

    return replace(client, update=update)


def _drawn(key: jax.Array, mask: dict, fraction: float) -> dict:
    """A factor for each column, float32[D], of every matrix, and of its bias if it has one."""
    factors, beside = {}, {}
    for path in sorted(mask):
        if mask[path].ndim < 2:
            continue
        width = mask[path].shape[-1]
        kept = max(1, math.ceil(fraction * width - 1e-9))
        chosen = jax.random.permutation(keys.stream(key, path), width) < kept
        factors[path] = jnp.where(chosen, width / kept, 0.0)
        beside.setdefault((path.rpartition("/")[0], width), factors[path])
    for path, of_vector in mask.items():
        if of_vector.ndim < 2:
            place = (path.rpartition("/")[0], of_vector.size)
            factors[path] = beside.get(place, of_vector) if of_vector.ndim else of_vector
    return factors


def _client(model, examples, probe, optimizer, epochs, steps, batch_size) -> Client:
    return local_training(model, examples, optimizer or sgd(0.1), epochs, steps, batch_size, probe)


def _counting_down(
    client, down, model, where, uplink, aggregator, server, chunk, stages
) -> Strategy:
    """The assembly, in which a client gets what `down` makes of the model that it touches.

    A client alone knows which rows these are, and says how many bytes they were.
    """

    def counted(client: Client) -> Client:
        def update(key, private, shared, data, now):
            private, upload = client.update(key, private, shared, data, now)
            # Shapes and rows of what came down are those of what goes up.
            touched = rows.map_tables(lambda u: replace(u, origin=None), upload.update)
            known = replace(now, shared=shared)
            down_key = keys.stream(key, "down")
            sender = cheaper(down, shared)
            _, packet = sender.encode(down_key, sender.init(touched), touched, known)
            return private, replace(upload, down=wire.nbytes(packet))

        return replace(client, update=update)

    _check_prunable(where, jax.eval_shape(model.init, jax.random.key(0))[0])
    return federated(counted(client), model, uplink, aggregator, server, chunk, stages=stages)


def _check_prunable(where: str, shared) -> None:
    if not (isinstance(shared, dict) and trees.is_frozen(shared.get("mask"))):
        raise ValueError(f"{where}: the model has no mask; make it with models.prunable(model).")
