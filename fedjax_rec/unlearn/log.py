"""What clients keep of what they sent, so that it can be sent again without some of them.

    of each round and table the k rows of largest norm, of the rest all

as FRU has it (Yuan et al., "Federated unlearning for on-device recommendation", WSDM 2023), whose
clients keep their logs on their devices; nothing is sent that was not.

Dimensions: `T` rounds, `k` rows, `D` width, `I` rows of a table, `N` clients.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from .. import rows
from ..check import at_least
from ..rows import RowsUpdate
from ..types import Array, PyTree, Stage, Upload, record


@record
class Log:
    """Of one client. weight: float32[T], of its uploads, 0 of rounds without one. sent: structured
    as an update, leaves [T, ...]; tables are `RowsUpdate` of [T, k, D], whose ids are `I` where
    there is nothing."""

    weight: Array
    sent: PyTree


def update_log(rounds: int, rows: int | None = None) -> Stage:
    """Keeps what a client sends, round by round, and sends it as it is.

    Put it first of the stages: what is kept is what it sees. A log has room for `rounds` rounds,
    and is copied with a client's memory in each; later rounds are not kept.

    Args:
        rounds: T, of the whole run. At least 1.
        rows: k, the rows of largest norm that are kept of each table and round; None for all, which
            takes T I D numbers a client.

    Returns:
        A `Stage`, for `stages=[...]`, with a `Log` as its memory.

    Raises:
        ValueError: for numbers below 1; and, when a round is traced, for clients that send
            something beside their update.

    Example:
        >>> from fedjax_rec import unlearn
        >>> stages = [unlearn.update_log(rounds=30, rows=64)]
        >>> strategy = strategies.fedmf(model, data.pointwise(4), stages=stages)
    """
    at_least("update_log", "rounds", rounds, 1)
    if rows is not None:
        at_least("update_log", "rows", rows, 1)

    def send(key, memory: Log, upload: Upload, now):
        refuse_more("update_log", upload)
        put = lambda log, x: log.at[now.round].set(x.astype(log.dtype), mode="drop")
        kept = jax.tree.map(put, memory.sent, _important(upload.update, memory.sent))
        return Log(put(memory.weight, upload.weight), kept), upload

    return Stage(send, lambda update: blank_log(update, rounds, rows))


def blank_log(update: PyTree, rounds: int, most: int | None) -> Log:
    """A log of nothing; update: of the whole model."""

    def one(node):
        if not rows.is_table(node):
            return jnp.zeros((rounds, *node.shape), node.dtype)
        k = min(node.size, most or node.size)
        values = jnp.zeros((rounds, k, *node.values.shape[1:]), node.values.dtype)
        ids = jnp.full((rounds, k), node.size, jnp.int32)
        return RowsUpdate(values, ids, jnp.zeros((rounds, k), bool), None, node.size)

    return Log(jnp.zeros(rounds), rows.map_nodes(one, update))


def refuse_more(where: str, upload: Upload) -> None:
    """Raises ValueError for an upload that is more than an update."""
    if more := [*sorted(upload.aux), *sorted(upload.known)]:
        raise ValueError(
            f"{where}: clients send {more[0]!r} beside their update, which is not kept and cannot "
            "be sent again; use a strategy whose clients send updates alone, such as fedavg, fedmf "
            "or pfedrec."
        )


def of_round(log: Log, round) -> tuple[jax.Array, PyTree]:
    """(weight, what was sent) of a round; of none that the log has room for weight 0."""
    inside = round < log.weight.shape[0]
    take = lambda x: x.at[round].get(mode="clip")
    return jnp.where(inside, take(log.weight), 0.0), jax.tree.map(take, log.sent)


def logged_bytes(memory: PyTree) -> np.ndarray:
    """int64[N]: the bytes of the logs of all clients: of a round that was sent its dense leaves,
    and of a row that is kept an id of four bytes and its numbers.

    Args:
        memory: `State.memory`, in which logs stand.

    Raises:
        ValueError: where there are none.

    Example:
        >>> from fedjax_rec import unlearn
        >>> stages = [unlearn.update_log(rounds=2, rows=8)]
        >>> strategy = strategies.fedmf(model, data.pointwise(4), stages=stages)
        >>> state = strategy.init(key, 3)
        >>> unlearn.logged_bytes(state.memory).tolist()
        [0, 0, 0]
    """
    total = np.int64(0)
    for log in logs(memory):
        there = np.asarray(log.weight) > 0
        for node in rows.nodes(log.sent):
            if rows.is_table(node):
                width = 4 + node.values.dtype.itemsize * int(np.prod(node.values.shape[3:]))
                total = total + (np.asarray(node.live) & there[..., None]).sum((1, 2)) * width
            else:
                each = node.dtype.itemsize * int(np.prod(node.shape[2:]))
                total = total + there.sum(1) * each
    if np.ndim(total) == 0:
        raise ValueError(
            "logged_bytes(memory): clients keep no log; put unlearn.update_log(...) into stages."
        )
    return np.asarray(total, np.int64)


def logs(memory: PyTree) -> list[Log]:
    """Those that stand in a memory, in order."""
    found = jax.tree.leaves(memory, is_leaf=lambda x: isinstance(x, Log))
    return [x for x in found if isinstance(x, Log)]


def _important(update: PyTree, like: PyTree) -> PyTree:
    """What is kept of an update; like: the log, for its room."""

    def one(u, log):
        if not rows.is_table(u):
            return u
        room, length = log.live.shape[1], u.live.shape[0]
        norm = jnp.where(u.live, (u.values.astype(jnp.float32) ** 2).sum(-1), -1.0)
        best = jax.lax.top_k(norm, min(room, length))[1]
        ids = jnp.arange(length) if u.ids is None else u.ids
        live = u.live[best]
        ids = jnp.where(live, ids[best], u.size).astype(jnp.int32)
        values = jnp.where(live[:, None], u.values[best], 0)
        short = room - ids.shape[0]
        if short:
            values = jnp.pad(values, ((0, short), (0, 0)))
            ids = jnp.pad(ids, (0, short), constant_values=u.size)
            live = jnp.pad(live, (0, short))
        return replace(log, values=values, ids=ids, live=live)

    return rows.map_nodes(one, update, like)
