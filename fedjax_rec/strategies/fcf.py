"""FCF, federated collaborative filtering by alternating least squares: users solve for their own
vectors, and the server for items from sums of the users' normal equations (the model of
Ammad-ud-din et al., 2019, and Hu, Koren & Volinsky, ICDM 2008; regularized by frequency as in
Rendle et al., RecSys 2022).

    p_u <- (a Q'Q + sum_{i in I_u} q_i q_i' + r (|I_u| + a I) E)^-1 sum_{i in I_u} q_i    at u
    S_i = sum_{u: i in I_u} p_u p_u',   b_i = sum_{u: i in I_u} p_u,   G = sum_u p_u p_u'    sent
    q_i <- (S_i + a G + r (|U_i| + a U) E)^-1 b_i                                    at the server

E the identity. With everybody in every round it is `models.ials` to the last digits, which no step
of gradients is: what is sent is all that the server needs, it adds up, and so goes under secure
aggregation. The paper's server takes gradient steps in place of the last line.

Dimensions: `I` items, `D` width, `M` users of a client, `L` most interactions of a client,
`T` = D (D + 1) / 2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from .. import keys, rows, wire
from ..aggregate import total
from ..check import at_least, below, positive
from ..data import Store
from ..rounds.federated import federated
from ..types import Aggregator, Client, Model, Packet, Server, Strategy, Upload

ROWS_AT_ONCE = 512  # whose D x D systems are held in memory


def fcf(
    model: Model,
    examples=None,
    probe=None,
    *,
    unobserved_weight: float = 0.1,
    regularization: float = 0.003,
    memory: float | None = None,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """Alternating least squares: a round solves for the users of its cohort and for all items that
    they touch, each exactly.

    A client uploads T + D + 1 numbers for each item that it has, T + 1 more, and no negatives: at
    width 32 ten times what a step of `fedmf` sends, in a tenth of the rounds. Of one user the
    numbers tell p_u and which items it has: what hides them is a sum
    (`privacy.secure_aggregation`). Users' vectors after a round are the best for the items before
    it. Items that nobody has stay where they began, where central ALS has zeros.

    Args:
        model: `models.fedmf` of any width and its `scale`, or what holds the same parameters.
        examples: taken as every strategy takes it, and not used: all interactions count alike, and
            all other pairs by `unobserved_weight`.
        probe: looks at the client's own vector and the items that came down.
        unobserved_weight: `a`, the weight of all pairs beside that of the pairs that were met.
        regularization: `r`.
        memory: with cohorts that are drawn, the share of all older sums that a round keeps, in
            [0, 1): those of one round know few users of most items. The server holds I (T + D + 1)
            numbers more. None keeps nothing, which is right for full participation.
        aggregator: of what is sent; default `total()`. A factor that is the same in every number
            cancels, so that a mean over a fixed number of clients gives the same.
        assembly: as in `federated`, without `server`.

    Returns:
        The strategy. Its metric `loss` is a user's part of the loss of `models.ials`, at the items
        that came down, without what these are regularized by.

    Raises:
        ValueError: unless `unobserved_weight` and `regularization` are positive and memory is in
            [0, 1); in `init`, for a model of other parameters than `fedmf`; in the round, for
            labelled examples.

    Example:
        >>> model = models.fedmf(num_items, width=32, scale=0.0177)
        >>> strategy = strategies.fcf(model, unobserved_weight=2.0, regularization=0.001)
    """
    positive("fcf", "unobserved_weight", unobserved_weight)
    positive("fcf", "regularization", regularization)
    if memory is not None:
        at_least("fcf", "memory", memory, 0)
        below("fcf", "memory", memory, 1)
    with_sums = beside_sums(model)
    client = solving(model, unobserved_weight, regularization, probe)
    server = solved_items(unobserved_weight, regularization, memory)
    return federated(client, with_sums, aggregator=aggregator or total(), server=server, **assembly)


def beside_sums(model: Model) -> Model:
    """`model` of shared {"model": ..., "sums": ...}; `sums` are zero, and say what is sent."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        names = sorted([*shared, *private])
        if names != ["item", "user"] or not rows.is_table(shared["item"]):
            raise ValueError(f"fcf() solves for items and users, not {names}; use models.fedmf.")
        items, width = shared["item"].shape
        each = width * (width + 1) // 2
        sums = {
            "item": rows.Table(jnp.zeros((items, each + width + 1))),
            "users": jnp.zeros(each + 1),
        }
        return {"model": shared, "sums": sums}, private

    return model.through(lambda shared, private: (shared["model"], private), init)


def solving(model: Model, a: float, r: float, probe=None) -> Client:
    """The client of `fcf`: it solves for its users' vectors, and sends its part of the sums."""

    def first(key, client):
        return model.init(keys.for_client(key, client), key)[1]

    def update(key, private, shared, data, now):
        table, store = shared["model"]["item"].values, data.store
        if not isinstance(store, Store):
            raise ValueError(
                f"fcf() solves from histories, of which {type(store).__name__} has none; use a "
                "data.source of interactions."
            )
        count, width = table.shape
        everything = jnp.matmul(table.T, table, precision="highest")
        place = jnp.arange(store.longest)
        here = place < data.length
        at = jnp.where(here, data.start + place, 0)
        items = jnp.where(here, store.items[at], count)
        user = jnp.zeros(store.longest, jnp.int32) if store.users is None else store.users[at]
        q = jnp.where(here[:, None], table.at[items].get(mode="clip"), 0.0)

        def one(m):
            mine = here & (user == m)
            own = q * mine[:, None]
            met = mine.sum()
            system = a * everything + jnp.matmul(own.T, own, precision="highest")
            system += r * (met + a * count) * jnp.eye(width)
            p = cho_solve(cho_factor(system), own.sum(0))
            loss = met - 2 * own.sum(0) @ p + p @ system @ p
            return p, loss, met > 0

        vectors, losses, there = jax.lax.map(one, jnp.arange(private["user"].shape[0]))
        local = rows.localize(shared["sums"]["item"], items)
        squares = upper_of(vectors[:, :, None] * vectors[:, None, :])
        told = jnp.concatenate([squares, vectors, there[:, None]], 1)
        ids: Any = local.ids
        slot = jnp.searchsorted(ids, items)
        alone = jnp.zeros((store.longest, told.shape[1]))
        alone = alone.at[slot].add(jnp.where(here[:, None], told[user], 0.0), mode="drop")
        sent = {
            "model": {"item": nothing(width, count)},
            "sums": {
                "item": rows.RowsUpdate(alone, ids, local.live, None, count),
                "users": jnp.append(squares.sum(0), there.sum()),
            },
        }
        got = rows.RowsUpdate(q, ids, local.live, None, count)
        down = wire.nbytes(Packet({"item": got, "all": upper_of(everything)}))
        after = {"user": jnp.where(there[:, None], vectors, private["user"])}
        metrics = {"loss": jnp.where(there, losses, 0.0).sum() / jnp.maximum(there.sum(), 1)}
        if probe is not None:
            metrics |= probe(model.scorer(shared["model"], after), data)
        weight = data.length.astype(jnp.float32)
        return after, Upload(sent, weight, metrics, down=down)

    return Client(first, update)


def solved_items(a: float, r: float, memory: float | None = None) -> Server:
    """The server of `fcf`, which solves for the items that the sums speak of."""

    def kept(shared):
        if memory is None:
            return ()
        return {k: jnp.zeros_like(rows.dense(x)) for k, x in shared["sums"].items()}

    def apply(state, shared, update):
        table = shared["model"]["item"]
        sums = rows.to_dense(update["sums"])
        if memory is not None:
            sums = state = {k: memory * state[k] + x for k, x in sums.items()}
        width = table.shape[1]
        everyone, users = a * full(sums["users"][:-1], width), sums["users"][-1]

        def one(row):
            old, s = row
            upper, b, met = s[: -width - 1], s[-width - 1 : -1], s[-1]
            system = everyone + full(upper, width)
            system += r * (met + a * users) * jnp.eye(width)
            return jnp.where(met > 0, cho_solve(cho_factor(system), b), old)

        size = min(ROWS_AT_ONCE, table.shape[0])
        values = jax.lax.map(one, (table.values, sums["item"]), batch_size=size)
        item = rows.Table(values.astype(table.values.dtype), table.fields)
        return state, {**shared, "model": {**shared["model"], "item": item}}

    return Server(kept, apply)


def upper_of(x: jax.Array) -> jax.Array:
    """float[..., T]: the upper triangles of matrices [..., D, D]."""
    return x[(..., *jnp.triu_indices(x.shape[-1]))]


def full(upper: jax.Array, width: int) -> jax.Array:
    """float[D, D]: the symmetric matrix of this triangle [T]."""
    i, j = jnp.triu_indices(width)
    return jnp.zeros((width, width)).at[i, j].set(upper).at[j, i].set(upper)


def nothing(width: int, size: int) -> rows.RowsUpdate:
    """Of a table of `size` rows: one row of padding, which is not sent."""
    nobody = jnp.full(1, size, jnp.int32)
    return rows.RowsUpdate(jnp.zeros((1, width)), nobody, jnp.zeros(1, bool), None, size)
