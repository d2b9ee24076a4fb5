"""LightFR: codes of users and items, bit by bit (Zhang et al., "LightFR: lightweight federated
recommendation with privacy-preserving matrix factorization", TOIS 2023; discrete coordinate descent
as in Zhang et al., SIGIR 2016).

    min sum_{(u, i)} (f (2 y_ui - 1) - b_u . d_i)^2,   b_u, d_i in {-1, 1}^f

Each bit in turn, all others fixed, until none changes, is the best for them:

    b_uk <- K(sum_i (t_ui - b_u . d_i + b_uk d_ik) d_ik, b_uk)      at u, from the d_i that it got
    d_ik <- K(sum_u (t_ui - b_u . d_i + d_ik b_uk) b_uk, d_ik)      at the server

t_ui = f (2 y_ui - 1), K(x, y) the sign of x, or y where x = 0. No step raises the sum.

What is sent. Down: f bits for each item that the client touches. Up: f bits of b_u, and for each
of these items how often it was a positive and a negative example, a byte each. In the paper clients
send (t_ui - b_u . d_i) b_uk, anew whenever a bit of d_i changed. Its signs are b_u or -b_u and its
size tells y_ui, so that the server has both in the end; here they are sent once. Nothing of this is
hidden from the server, in the paper's messages neither.

Left out: the 2 lambda of the released code in place of 1 before b_uk d_ik, by which a step may go
up. Negatives are drawn, where the paper's ratings are explicit.

Dimensions: `I` items, `f` bits, `L` rows that a client touches, `c` clients of a chunk, `T` =
f (f + 1) / 2.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows, wire
from ..check import at_least
from ..clients.batches import Passes, localize, mark, turns_of
from ..data import Batches
from ..rounds.federated import federated
from ..types import Aggregator, Client, Model, Packet, Server, Strategy, Upload
from .fcf import full, nothing, upper_of

ITEMS_AT_ONCE = 512  # whose f x f systems are held in memory


def lightfr(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    sweeps: int = 20,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """Discrete coordinate descent: a round sets the codes of its cohort, and then those of all
    items that they touched, from what this cohort says of them.

    Messages are whole numbers and bits, which compressors leave as they are; what a stage makes of
    them is sent as floats. The server holds I (T + f) numbers in a round. With everybody in every
    round it is the central descent on the same examples: the sums are all that this needs.
    Metrics: `loss` of `models.lightfr` at the new user codes and the items that came down.

    Args:
        model: `models.lightfr(num_items)`.
        examples: `data.pointwise()`, with labels in [0, 1], rounded to 0 or 1.
        probe: looks at the client's own code and the items that came down.
        sweeps: of a code over its bits, at most.
        batch_size: examples that a client looks at at once.
        assembly: as in `federated`, without `aggregator` and `server`.

    Raises:
        ValueError: for sweeps < 1; in `init`, for another model; in the round, for clients of
            several users and for pairs of items.

    Example:
        >>> strategy = strategies.lightfr(models.lightfr(num_items), data.pointwise(4))
    """
    at_least("lightfr", "sweeps", sweeps, 1)
    passes = Passes(batch_size=batch_size)
    return federated(
        coded(model, examples, passes, sweeps, probe),
        beside_counts(model),
        aggregator=systems(),
        server=descending(sweeps),
        **assembly,
    )


def beside_counts(model: Model) -> Model:
    """`model` of shared {"model": ..., "told": ...}; `told` is zero, and says what is sent."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        names = sorted([*shared, *private])
        if names != ["item", "user"] or not rows.is_table(shared["item"]):
            raise ValueError(
                f"lightfr() sets codes of items and users, not {names}; use models.lightfr."
            )
        items, width = shared["item"].shape
        told = {"item": rows.Table(jnp.zeros((items, 2))), "code": jnp.zeros(width)}
        return {"model": shared, "told": told}, private

    return model.through(lambda shared, private: (shared["model"], private), init)


def coded(model: Model, examples: Batches, passes: Passes, sweeps: int, probe=None) -> Client:
    """The client of `lightfr`: it sets its code, and sends it with what it counted."""

    def first(key, client):
        return model.init(keys.for_client(key, client), key)[1]

    def update(key, private, shared, data, now):
        table = shared["model"]["item"]
        size, width = table.shape
        turns = turns_of(examples, passes, key, data)
        local = localize({"item": table}, turns)

        def turn(draw, t, carry):
            local, system, right, counts = carry
            batch = draw(t)
            if "users" in batch or batch["items"].ndim > 1:
                raise ValueError(
                    "lightfr: a client is one user and an example one item; use data.by_user and "
                    "data.pointwise."
                )
            local = mark(local, batch)
            slots = local["item"].slots(batch["items"])
            code = local["item"].rows(slots) * batch["mask"][:, None]
            positive = (batch["labels"] >= 0.5) & (batch["mask"] > 0)
            negative = (batch["labels"] < 0.5) & (batch["mask"] > 0)
            target = width * (positive.astype(jnp.float32) - negative)
            seen = jnp.stack([positive, negative], 1).astype(jnp.float32)
            system += jnp.matmul(code.T, code, precision="highest")
            right += jnp.matmul(target, code, precision="highest")
            return local, system, right, counts.at[slots].add(seen, mode="drop")

        zero = jnp.zeros((width, width)), jnp.zeros(width)
        counts = jnp.zeros((local["item"].live.shape[0], 2))
        local, system, right, counts = turns.loop(turn, (local, *zero, counts))
        code = descended(private["user"][0], system, right, sweeps)
        after = {"user": code[None]}

        ids, live = local["item"].ids, local["item"].live
        told = rows.RowsUpdate(jnp.minimum(counts, 255).astype(jnp.uint8), ids, live, None, size)
        sent = {"model": {"item": nothing(width, size)}, "told": {"item": told, "code": code > 0}}
        got = replace(told, values=jnp.zeros((len(counts), width), bool))
        number = turns.count.astype(jnp.float32)
        apart = code @ (system @ code) - 2 * (code @ right)
        metrics = {
            "loss": jnp.where(number > 0, 1 + apart / (width**2 * jnp.maximum(number, 1)), 0)
        }
        if probe is not None:
            metrics |= probe(model.scorer(shared["model"], after), data)
        return after, Upload(sent, number, metrics, down=wire.nbytes(Packet({"item": got})))

    return Client(first, update, examples=examples)


def descended(code: jax.Array, system: jax.Array, right: jax.Array, sweeps: int) -> jax.Array:
    """float[f]: `code` after discrete coordinate descent on x' system x - 2 x' right, system [f, f]
    and right [f] integers, until no bit changes, or after `sweeps`."""

    def bit(k, code):
        slope = right[k] - system[k] @ code + system[k, k] * code[k]
        return code.at[k].set(jnp.where(slope == 0, code[k], jnp.sign(slope)))

    def sweep(carry):
        code, _, t = carry
        after = jax.lax.fori_loop(0, code.shape[0], bit, code)
        return after, (after != code).any(), t + 1

    first = code, jnp.bool_(True), jnp.int32(0)
    return jax.lax.while_loop(lambda carry: carry[1] & (carry[2] < sweeps), sweep, first)[0]


def systems() -> Aggregator:
    """Of each item i, sum_u w_ui b_u b_u' as float32[I, T], and sum_u w_ui t_ui b_u, float32[I, f],
    from the codes b_u and the counts w_ui of positives and negatives."""

    def reduce(state, uploads: Upload, now):
        told = uploads.update["told"]
        there = uploads.weight > 0
        code = jnp.where(there[:, None], 2.0 * told["code"] - 1, 0)
        positive, negative = (_dense(told["item"], column) for column in (0, 1))
        upper = upper_of(code[:, :, None] * code[:, None, :])
        times = lambda w, x: jnp.matmul(w.T, x, precision="highest")
        right = code.shape[1] * times(positive - negative, code)
        return {"system": times(positive + negative, upper), "right": right}

    return Aggregator(
        lambda shared: (), reduce, lambda key, state, summary, now: (state, summary, None)
    )


def descending(sweeps: int) -> Server:
    """The server of `lightfr`, which sets the codes of the items that the systems speak of."""

    def apply(state, shared, update):
        table = shared["model"]["item"]
        width = table.shape[1]

        def one(item):
            code, upper, right = item
            return descended(code, full(upper, width), right, sweeps)

        each = table.values, update["system"], update["right"]
        values = jax.lax.map(one, each, batch_size=min(ITEMS_AT_ONCE, table.shape[0]))
        return state, {**shared, "model": {"item": rows.Table(values, table.fields)}}

    return Server(lambda shared: (), apply)


def _dense(told: rows.RowsUpdate, column: int) -> jax.Array:
    """float32[c, I]: a column of what clients counted."""
    values = jnp.where(told.live, told.values[..., column].astype(jnp.float32), 0)
    if told.ids is None:
        return values
    client = jnp.arange(len(values))[:, None]
    ids = jnp.where(told.live, told.ids, told.size)
    return jnp.zeros((len(values), told.size)).at[client, ids].add(values, mode="drop")
