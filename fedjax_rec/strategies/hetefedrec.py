"""HeteFedRec: clients of several widths, by how much they have to learn from (Yuan et al.,
"HeteFedRec: federated recommender systems with model heterogeneity", ICDE 2024).

Client u of size s(u), with the table V_s of width D_s, trains it by the loss of
`models.hetefedrec` and sends its change d_u of the rows that it touched. Then, at the server,

    P[i] = sum_u pad(d_u[i]) / #{u : u touched i},   pad with zeros to D_K columns
    V_a <- V_a + P[:, :D_a]                                              for every size a
    V_a <- V_a - g grad_{V_a} |C_a - C|_F^2 / M,   C = mean_a C_a        a few steps

C_a are the cosines of M items, drawn anew each round, in V_a, and C their mean before the steps:
the paper's relation-based ensemble distillation. The narrow table learns from all clients, and what
only wide ones have stands in the columns that only they hold. Without distillation V_a stays the
first D_a columns of V_K to the bit.

Padding counts as the paper has it: a client without a column says zero of it, and so wide columns
move less. The paper sums where here a row is averaged over who touched it, as in `fedmf`.

Dimensions: `I` items, `K` sizes of widths `D_a`, `M` items of the distillation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows
from ..check import at_least
from ..clients import groups, local_training, sgd
from ..data import Batches
from ..models.transformers.layers import unit
from ..rounds.federated import federated
from ..types import Aggregator, Client, Cohort, Model, State, Strategy, Upload


def hetefedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    up_to: Sequence[int],
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    distilled: int | None = 64,
    distillation_rate: float = 0.01,
    distillation_steps: int = 1,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """SGD on user vectors and item rows of the client's own width, all widths in one call.

    A client gets and sends the rows that it touched in its own width; of the other tables a message
    says that there is nothing, in a few bytes each. Metrics: those of `fedavg`, where `loss` is the
    sum over the tasks and the decorrelation, and `size`. Arguments that are not named here are
    those of `fedavg`.

    Args:
        model: `models.hetefedrec(num_items, widths=...)`.
        up_to: the most interactions of a client of each size but the largest, such as (50, 150) for
            three. A client knows its own, and nobody has to know all.
        user_learning_rate: of the user vector.
        item_learning_rate: of the item rows.
        distilled: M; None for no distillation.
        distillation_rate: g.
        distillation_steps: steps of a round.
        assembly: as in `federated`, without `aggregator` and `downlink`.

    Raises:
        ValueError: for `up_to` that does not ascend, for distilled < 2 or distillation_steps < 1,
            and for a downlink, which knows one width; in `init`, for another model and for more or
            fewer sizes than it has.

    Example:
        >>> model = models.hetefedrec(num_items, widths=(4, 8, 16))
        >>> strategy = strategies.hetefedrec(model, data.pointwise(4), up_to=(50, 150))
    """
    at_least("hetefedrec", "distillation_steps", distillation_steps, 1)
    if distilled is not None:
        at_least("hetefedrec", "distilled", distilled, 2)
    if any(a >= b for a, b in itertools.pairwise(up_to)):
        raise ValueError(f"hetefedrec(up_to={list(up_to)}) must ascend, e.g. [50, 150].")
    if assembly.get("downlink") is not None:
        raise ValueError(
            "hetefedrec(downlink): a broadcast has one width; leave it out, and each client gets "
            "its rows in its own."
        )
    optimizer = groups({"user": sgd(user_learning_rate), "shared": sgd(item_learning_rate)})
    client = local_training(model, examples, optimizer, epochs, steps, batch_size, probe)
    inner = federated(sized(client, up_to), model, aggregator=padded(), **assembly)

    def init(key, num_clients: int) -> State:
        shared, private = jax.eval_shape(model.init, jax.random.key(0))
        if sorted(private) != ["size", "user"]:
            raise ValueError(
                f"hetefedrec() trains tables in several widths, and the model keeps "
                f"{', '.join(sorted(private)) or 'nothing'}; use models.hetefedrec."
            )
        if len(shared["item"]) != len(up_to) + 1:
            raise ValueError(
                f"hetefedrec(up_to={list(up_to)}) parts {len(up_to) + 1} sizes, and the model has "
                f"{len(shared['item'])} widths; give one bound fewer than widths."
            )
        return inner.init(key, num_clients)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        after, info = inner.round(key, state, cohort, chunk)
        if distilled is None:
            return after, info
        of_round = keys.stream(jax.random.fold_in(key, state.round), "distillation")
        settings = distilled, distillation_rate, distillation_steps
        moved = lambda: _distilled(of_round, after.shared, *settings)
        shared = jax.lax.cond((info.weight > 0).any(), moved, lambda: after.shared)
        return replace(after, shared=shared), info

    return replace(inner, init=init, round=round)


def sized(client: Client, up_to: Sequence[int]) -> Client:
    """`client`, whose private `size` is the number of `up_to` that its interactions exceed, and
    which sends the rows of its own table alone."""

    def update(key, private, shared, data, now):
        bounds = jnp.asarray(up_to, jnp.float32).reshape(-1)
        size = (data.length > bounds).sum(dtype=jnp.float32)
        private, upload = client.update(key, {**private, "size": size}, shared, data, now)
        item = {
            a: replace(u, live=u.live & (size == int(a))) for a, u in upload.update["item"].items()
        }
        metrics = upload.metrics | {"size": size}
        return private, replace(upload, update={**upload.update, "item": item}, metrics=metrics)

    return replace(client, update=update)


def padded() -> Aggregator:
    """P of the tables in `update["item"]`, of which table a gets the first D_a columns."""

    def reduce(state, uploads: Upload, now):
        there = (uploads.weight > 0).astype(jnp.float32)
        item = uploads.update["item"]
        touched = rows.clients_per_row(uploads.weight, item)
        return {"update": rows.weighted_sum(there, item), "touched": touched}

    def finish(key, state, summary, now):
        sums, touched = rows.to_dense(summary["update"]), summary["touched"]
        widest = max(x.shape[1] for x in sums.values())
        total = sum(jnp.pad(x, ((0, 0), (0, widest - x.shape[1]))) for x in sums.values())
        count = sum(touched.values())
        mean = total / jnp.maximum(count, 1)[:, None]
        there = count > 0
        whole = lambda x: rows.RowsUpdate(x, None, there, None, len(x))
        return state, {"item": {a: whole(mean[:, : x.shape[1]]) for a, x in sums.items()}}, None

    # Not `linear`: a row of one table is a sum over rows of others.
    return Aggregator(lambda shared: (), reduce, finish)


def _distilled(key: jax.Array, shared, count: int, rate, steps: int):
    """`shared` after `steps` of relation-based ensemble distillation on `count` drawn items."""
    tables = shared["item"]
    size = next(iter(tables.values())).shape[0]
    drawn = jax.random.choice(key, size, (min(count, size),), replace=False)
    start = {a: x.values[drawn].astype(jnp.float32) for a, x in tables.items()}
    mean = sum(map(cosines, start.values())) / len(start)

    def loss(vectors):
        apart = [((cosines(x) - mean) ** 2).sum() for x in vectors.values()]
        return sum(apart) / len(drawn)

    def step(_, vectors):
        return jax.tree.map(lambda x, g: x - rate * g, vectors, jax.grad(loss)(vectors))

    after = jax.lax.fori_loop(0, steps, step, start)
    item = {
        a: rows.Table(x.values.at[drawn].set(after[a].astype(x.values.dtype)), x.fields)
        for a, x in tables.items()
    }
    return {**shared, "item": item}


def cosines(x: jax.Array) -> jax.Array:
    """float[M, M] of the rows of x float[M, D]; a row of zeros has 0 with all."""
    directions = unit(x)
    return jnp.matmul(directions, directions.T, precision="highest")
