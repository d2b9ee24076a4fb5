"""FedCA: item tables that the server mixes with weights of each client's own.

    x_i = argmin_x |x - p - alpha c_i - beta s_i|^2   over the simplex of the clients drawn
    Q_i <- rho Q_i + (1 - rho) sum_j x_ij Q_j         for those;  all others keep their own Q_i

    p_j  = n_j / sum n                                       the examples of j
    s_ij = 1 / (1 + |t_i - t_j|)                             t: first principal scores of the items
    c_ij = cos(mean of the angles between V_i and V_j)       V: k principal axes of the rows that a
                                                             client trained on, matched greedily

(Honglei Zhang et al., "Beyond similarity: personalized federated recommendation with composite
aggregation", 2024, arXiv 2406.03933; released code github hongleizhang/FedCA.) The release hands
x'x - 2 (p + alpha c_i + beta s_i)'x to a solver; its minimum is a projection, which a sort gives.
There alpha weighs the term of the axes, beta that of the tables. That term is called
complementarity: it is largest where the axes of two clients point the same way.

A client trains its vector and table by Adam, which starts afresh in each round, and sends the
table, the axes and how many examples it has.

Left out: the early stop of a client whose loss moved by less than 1e-4 of itself. Here an axis
points to where its largest coordinate is positive, there (older scikit-learn) to where the item of
the largest score is.

`N` clients, `I` items, `D` width, `A` clients drawn, `k` axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from .. import keys, wire
from ..check import at_least, fraction, static
from ..clients import local_training
from ..clients.batches import Passes, turns_of
from ..data import Batches
from ..rounds.own_models import Mixed, Mixing, Seen, as_arrays, own_models
from ..types import Client, Compressor, Model, Packet, Stage, Strategy

FAR = -1e3  # in place of the target of who is not there


def fedca(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.3,
    beta: float = 0.3,
    interpolation: float = 0.9,
    one_in: int = 10,
    axes: int = 4,
    learning_rate: float = 0.01,
    epochs: int = 10,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """An item table for every client, of which in each round some are mixed, each by its weights.

    Defaults are those of the released code. N tables are kept; `simulate.aggregated` measures each
    client with its own, as it is after mixing, which is what the release reports. Metrics: those of
    `fedavg`; `mixed`, 1 for who was drawn; and `own_weight`, x_ii of these. Bytes: up a whole table
    and k axes, down a table to who was drawn. The server holds A^2 k^2 angles.
    Arguments that are not named here are those of `fedavg`.

    Args:
        model: one whose only shared table is `item`, such as `models.fedmf(num_items, width=16,
            scale=1.0)`.
        alpha: of the axes, at least 0.
        beta: of the tables, at least 0.
        interpolation: rho, what a client keeps of its own table, in [0, 1].
        one_in: of so many clients of the cohort one is drawn, at least one: A = N / one_in.
        axes: k, at most the width.
        learning_rate: of Adam.
        uplink: as in `federated`; clients go on from what arrived.
        stages: as in `federated`.

    Raises:
        ValueError: for numbers out of range, for another model, for more axes than the width, and
            for a stage that receives.
        MemoryError: in `init`, where N tables cannot fit.

    Example:
        >>> mf = models.fedmf(num_items, width=16, scale=1.0)
        >>> strategy = strategies.fedca(mf, data.pointwise(4), epochs=2)
    """
    at_least("fedca", "alpha", alpha, 0)
    at_least("fedca", "beta", beta, 0)
    fraction("fedca", "interpolation", interpolation)
    static("fedca", "one_in", one_in)
    at_least("fedca", "one_in", one_in, 1)
    static("fedca", "axes", axes)
    at_least("fedca", "axes", axes, 1)
    plain = as_arrays(model)
    outline = jax.eval_shape(plain.init, jax.random.key(0))[0]
    if not isinstance(outline, dict) or list(outline) != ["item"] or outline["item"].ndim != 2:
        raise ValueError(
            "fedca(model) mixes one table of items, `item`, and nothing else; use models.fedmf or "
            "models.pfedrec."
        )
    if axes > outline["item"].shape[1]:
        raise ValueError(
            f"fedca(axes={axes}) of vectors of {outline['item'].shape[1]} numbers; use at most as "
            "many."
        )
    adam = optax.adam(learning_rate)
    client = local_training(plain, examples, adam, epochs, None, batch_size, probe)
    client = with_axes(client, examples, axes, batch_size)
    mixing = composite(alpha, beta, interpolation, one_in)
    return own_models(client, plain, mixing, uplink, clients_per_chunk, stages)


def with_axes(client: Client, examples: Batches, axes: int, batch_size: int) -> Client:
    """`client`, which tells beside its table `axes`, float[k, D]: the principal axes of the rows of
    its examples of the round, drawn negatives included, as they are after training."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared, data, now)
        item = shared["item"] + upload.update["item"]
        turns = turns_of(examples, Passes(1, None, batch_size), key, data)

        def turn(draw, t, sums):
            batch = draw(t)
            ids = batch["items"].reshape(len(batch["mask"]), -1)
            weight = jnp.broadcast_to(batch["mask"][:, None], ids.shape).reshape(-1, 1)
            rows = item[ids.reshape(-1)] * weight
            square = jnp.matmul(rows.T, rows, precision="highest")
            return sums[0] + weight.sum(), sums[1] + rows.sum(0), sums[2] + square

        width = item.shape[1]
        zero = jnp.float32(0), jnp.zeros(width), jnp.zeros((width, width))
        count, total, square = turns.loop(turn, zero)
        mean = total / jnp.maximum(count, 1)
        spread = square / jnp.maximum(count, 1) - mean[:, None] * mean
        told = principal(spread, axes)
        return private, replace(upload, aux={**upload.aux, "axes": told})

    return replace(client, update=update)


def principal(spread: jax.Array, axes: int) -> jax.Array:
    """float[..., k, D]: the axes of largest variance of covariances [..., D, D], the largest first;
    of each the coordinate that is largest in size is positive."""
    vectors = jnp.linalg.eigh(spread)[1]
    top = jnp.swapaxes(vectors[..., ::-1][..., :axes], -1, -2)
    place = jnp.argmax(jnp.abs(top), -1, keepdims=True)
    return top * jnp.sign(jnp.take_along_axis(top, place, -1))


def composite(alpha, beta, interpolation, one_in: int) -> Mixing:
    """What the server of `fedca` does; it keeps nothing but the models."""

    def mix(key, kept, seen: Seen, models):
        n = seen.weight.size
        most = max(1, n // one_in)
        there = seen.weight > 0
        lots = jax.random.uniform(keys.stream(key, "clients"), (n,))
        chosen = jax.lax.top_k(jnp.where(there, lots, -1.0), most)[1]
        count = jnp.maximum(there.sum() // one_in, 1)
        drawn = there[chosen] & (jnp.arange(most) < count)
        examples = jnp.where(drawn, seen.weight[chosen], 0.0)
        tables, axes = models["item"][chosen], seen.told["axes"][chosen]
        of_size = examples / jnp.maximum(examples.sum(), 1.0)
        target = of_size + alpha * agreement(axes) + beta * likeness(tables)
        weights = on_simplex(jnp.where(drawn, target, FAR))
        flat = tables.reshape(most, -1)
        mixed = jnp.matmul(weights, flat, precision="highest").reshape(tables.shape)
        after = (interpolation * tables + (1 - interpolation) * mixed).astype(tables.dtype)
        place = jnp.where(drawn, chosen, n)
        item = models["item"].at[place].set(after, mode="drop")
        of_drawn = lambda x: jnp.zeros(n, x.dtype).at[place].set(x, mode="drop")
        nbytes = wire.nbytes(Packet({"item": after[0]}))
        metrics = {
            "mixed": of_drawn(drawn.astype(jnp.float32)),
            "own_weight": of_drawn(jnp.diagonal(weights)),
        }
        down = of_drawn(jnp.full(most, nbytes, jnp.uint32))
        return Mixed(kept, {"item": item}, down, metrics)

    return Mixing(lambda shared, num_clients: (), mix)


def likeness(tables: jax.Array) -> jax.Array:
    """float[A, A]: s of float[A, I, D]."""
    centred = tables - tables.mean(1, keepdims=True)
    spread = jnp.einsum("aid,aie->ade", centred, centred, precision="highest") / tables.shape[1]
    scores = jnp.einsum("aid,ad->ai", centred, principal(spread, 1)[:, 0], precision="highest")
    squares = (scores**2).sum(1)
    products = jnp.matmul(scores, scores.T, precision="highest")
    apart = jnp.maximum(squares[:, None] + squares - 2 * products, 0)
    itself = jnp.eye(len(tables), dtype=bool)
    return 1 / (1 + jnp.sqrt(jnp.where(itself, 0.0, apart)))


def agreement(axes: jax.Array) -> jax.Array:
    """float[A, A]: c of axes float[A, k, D]. The pair of axes with the largest cosine is matched,
    then the largest among the others, and so on."""
    count, k, _ = axes.shape
    cosines = jnp.einsum("ikd,jld->ijkl", axes, axes, precision="highest")
    cosines = cosines.reshape(count, count, k * k)
    row, column = jnp.divmod(jnp.arange(k * k), k)
    total = jnp.zeros((count, count))
    for _ in range(k):
        best = jnp.argmax(cosines, -1, keepdims=True)
        angle = jnp.arccos(jnp.clip(cosines.max(-1), -1, 1))
        total = total + angle
        taken = (row == best // k) | (column == best % k)
        cosines = jnp.where(taken, -jnp.inf, cosines)
    return jnp.cos(total / k)


def on_simplex(target: jax.Array) -> jax.Array:
    """float[A, A]: the point next to each row of `target` whose numbers are at least 0 and sum to 1
    (Held, Wolfe & Crowder, Mathematical Programming 1974)."""
    sorted_ = -jnp.sort(-target, axis=-1)
    above = jnp.cumsum(sorted_, -1) - 1
    number = jnp.arange(1, target.shape[-1] + 1)
    kept = (sorted_ * number > above).sum(-1, keepdims=True)
    level = jnp.take_along_axis(above, kept - 1, -1) / kept
    return jnp.maximum(target - level, 0.0)
