"""Which rows enough clients touched, and the sum of these alone.

    t_i = sum_k [k touched i]   by secure aggregation of bits,   S = {i : t_i >= threshold}
    x_i = by secure aggregation of rows i in S,   x_i = 0 of all others

Two protocols a round: first of a vector of one number a row, then of the rows of S, which the
server names to all. (Private set union for submodels, Niu et al., "Billion-scale federated learning
on mobile clients: a submodel design with tunable privacy", MobiCom 2020, who sum Bloom filters;
here the vectors are as long as the tables, so that nothing is a false positive.)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .. import rows, trees, wire
from ..check import at_least
from ..trees import Told
from ..types import Aggregator, Now, Packet, PyTree, Seal, Upload
from .protocol import Protocol
from .secure_aggregation import secure_aggregation


def private_set_union(
    aggregator: Aggregator, threshold: int, clients: int, protocol: Protocol | None = None
) -> Aggregator:
    """A secure aggregation of the rows that at least `threshold` clients of a round touched.

    Other rows are neither sent nor learned from: they stay, and what few clients had to say of
    them is lost. The state tells `union_share`, the share of the rows that were sent.

    Guarantee: that of the two protocols. The server learns from the first how many clients touched
    each row, of those below the threshold too, and not which; a count of 1 and what else it knows
    may name who. The whole model goes down, since whoever asks for rows tells them.

    Bytes of I rows, U of them sent, D numbers a row and C clients, one way and the other:

        up    phases(I) + I ceil(2 + log2(C + 1)) / 8  +  phases + U D b / 8
        down  phases(I) + I / 8  +  phases             +  the model

    where phases are those of a protocol, keys and shares anew in both, since a mask that was
    opened hides nothing twice; and 2 bits of a count are those by which a sum that cannot be
    right is found. Pieces of `light_secagg` are of whole tables in both: they are cut before the
    rows are known.

    Args:
        aggregator: of the numbers, `secure_aggregation` of as many clients.
        threshold: clients that must have touched a row. At least 1, and at most `clients`.
        clients: places of a cohort, of which a round that has fewer than `threshold` moves no row.
        protocol: of the counts; None for `secagg()`.

    Returns:
        An `Aggregator` with a seal of two messages, for engines that know one. It goes without an
        uplink.

    Raises:
        ValueError: for a threshold out of range, an aggregator that is not under a seal of one
            message, and what `secure_aggregation` raises.

    Example:
        >>> from fedjax_rec import privacy
        >>> sums = privacy.secure_aggregation(bound=1.0, clients=64)
        >>> union = privacy.private_set_union(sums, threshold=2, clients=64)
        >>> strategy = strategies.fedmf(model, data.pointwise(4), aggregator=union)
    """
    at_least("private_set_union", "clients", clients, 1)
    at_least("private_set_union", "threshold", threshold, 1)
    if threshold > clients:
        raise ValueError(
            f"private_set_union(threshold={threshold}, clients={clients}): no row is touched by "
            f"more clients than there are in a round; use threshold <= {clients}."
        )
    inner = aggregator.seal
    if inner is None or inner.narrow is not None:
        raise ValueError(
            "private_set_union(aggregator): it sums what a secure aggregation hides; give "
            "privacy.secure_aggregation(...)."
        )
    hides = inner
    width = clients.bit_length() + 2
    counter = secure_aggregation(1.0, clients, width, 1.0, protocol)
    of_counts: Any = counter.seal
    # What both ends draw from a seed, masks among it, is another in each message.
    first = lambda now: replace(now, trip=2 * now.trip)
    then = lambda now: replace(now, trip=2 * now.trip + 1)

    def send(key, body: PyTree, now: Now):
        one, other = jax.random.split(key)
        touched = [t.live.astype(jnp.float32) for t in rows.nodes(body) if rows.is_table(t)]
        values = rows.map_tables(lambda t: jnp.where(t.live[:, None], t.values, 0), body)
        numbers, told = hides.send(other, values, then(now))
        return (of_counts.send(one, touched, first(now))[0], numbers), told

    def down(numbers: int, every: int = 0) -> int:
        named = -(-every // 8)
        return of_counts.down(every) + named + hides.down(numbers)

    def reduce(state, uploads: Upload, now: Now):
        if not isinstance(uploads.update, tuple):
            return aggregator.reduce(state["rule"], uploads, now)  # which says what is wrong
        touched, numbers = (replace(uploads, update=x) for x in uploads.update)
        return {
            "counts": counter.reduce((), touched, first(now)),
            "numbers": aggregator.reduce(state["rule"], numbers, then(now)),
        }

    def union(summary, now: Now) -> list[jax.Array]:
        """bool[I] of each table: the rows of S."""
        counts = summary["counts"]
        _, means, _ = counter.finish(jax.random.key(0), (), counts, first(now))
        return [jnp.round(mean * counts["there"].sum()) >= threshold for mean in means]

    def of_tables(one, sent: list[jax.Array], tree: PyTree, now: Now) -> PyTree:
        """one(node, rows bool[I]) of what stands in `tree` for tables, all else as it is."""
        each = iter(sent)
        there = lambda table, x: one(x, next(each)) if rows.is_table(table) else x
        return rows.map_nodes(there, trees.trainable(now.shared), tree)

    def narrow(summary, packet: Packet, now: Now) -> Packet:
        return replace(packet, body=of_tables(wire.Live, union(summary, now), packet.body, now))

    def finish(key, state, summary, now: Now):
        sent = union(summary, now)
        ended, mean, verdicts = aggregator.finish(key, state["rule"], summary["numbers"], then(now))
        kept = of_tables(lambda x, there: jnp.where(there[:, None], x, 0), sent, mean, now)
        return {"rule": ended, "told": Told({"union_share": _share(sent)})}, kept, verdicts

    def init(shared):
        return {"rule": aggregator.init(shared), "told": Told({"union_share": jnp.float32(0)})}

    additive = {"counts": counter.additive, "numbers": aggregator.additive}
    return Aggregator(init, reduce, finish, additive, seal=Seal(send, down, narrow, hides.noise))


def _share(sent: list[jax.Array]) -> jax.Array:
    """float32[]: of all rows of all tables, those of S."""
    every = max(1, sum(x.size for x in sent))
    return sum((x.sum() for x in sent), start=jnp.int32(0)) / jnp.float32(every)
