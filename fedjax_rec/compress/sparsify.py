"""Sparse updates: the largest coordinates, and where they were.

- `top_k`            the ceil(fraction n) largest of each node
                     (Stich, Cordonnier & Jaggi, NeurIPS 2018; Aji & Heafield, EMNLP 2017)
- `warm_up_top_k`    a fraction that falls exponentially over rounds (DGC, Lin et al., ICLR 2018)
- `global_top_k`     the largest of all nodes together
- `top_k_per_row`    the k largest columns of each row
- `threshold`        what is above tau (Strom, Interspeech 2015)
- `sparse_ternary`   top-k, rounded to +-mu (STC, Sattler et al., IEEE TNNLS 2020)

All are biased: for use inside `error_feedback`. They never send a zero, so that fewer are sent
where fewer are there. The chosen numbers are the body of the packet, a `RowsUpdate` of one column,
so that a next stage may quantize them, and their coordinates travel as Rice-coded gaps.
"""

from __future__ import annotations

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ..check import at_least, holds
from ..rows import RowsUpdate
from ..types import Compressor, Packet
from ..wire import Codes, Live, flatten, is_node
from . import select
from .combine import chain, scheduled
from .contradictions import beyond, filled, miscounted
from .leafwise import is_compressible, nodewise, numbers, touched, with_numbers
from .ternary import scaled_sign


def top_k(fraction: float = 0.01, keep: float | None = None) -> Compressor:
    """Sends of each node the ceil(fraction * n) coordinates of largest magnitude, n the real ones.

    Contraction: |C(x) - x|^2 <= (1 - fraction) |x|^2. Of equal ones the first are kept; NaN is
    never sent. Wire: about k (32 + log2(d / k) + 1.5) bits, numbers and Rice-coded gaps; d = I * D
    of a table.

    Args:
        fraction: of the coordinates. It sets shapes, so it cannot be traced.
        keep: None for `fraction`; or the share that is sent, up to `fraction`, which then is only
            the room. It may be traced, and follow a schedule.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: outside 0 < fraction <= 1 and, in a round, for a table of 2^31 coordinates or
            more.

    Example:
        >>> import optax
        >>> from fedjax_rec import compress
        >>> falling = optax.exponential_decay(0.25, 100, 0.1)
        >>> uplink = compress.scheduled(lambda keep: compress.top_k(0.25, keep), falling)
    """
    select.check_room("top_k", "fraction", fraction)

    def choose(node):
        room = select.capacity(fraction, select.array_of(node).size)
        k = select.count_kept(fraction if keep is None else keep, node)
        return select.magnitudes(numbers(node)[0]), jnp.minimum(k, room), room

    return _chosen(f"top_k(fraction={fraction})", choose)


def warm_up_top_k(start: float = 0.25, end: float = 0.001, rounds: int = 4) -> Compressor:
    """Sends as `top_k(start)` at first, `top_k(end)` from round `rounds` on, exponentially between.

    What changes fast in the first rounds is sent more often.

    Args:
        start: the share of round 0, for which there is room: it cannot be traced.
        end: the share in the end, which may be.
        rounds: how long it takes.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: outside 0 < end <= start <= 1 and for rounds < 1.

    Example:
        >>> uplink = compress.error_feedback(compress.warm_up_top_k(0.25, 0.01, rounds=10))
    """
    select.check_room("warm_up_top_k", "start", start)
    if not holds(end, lambda x: (x > 0) & (x <= start)):
        raise ValueError(f"warm_up_top_k(end={end}) must be positive and at most start={start}.")
    at_least("warm_up_top_k", "rounds", rounds, 1)
    falling = lambda round: start * jnp.power(end / start, round / rounds)
    return scheduled(lambda keep: top_k(start, keep), lambda t: jnp.maximum(falling(t), end))


def threshold(tau: float, at_most: float = 0.1) -> Compressor:
    """Sends the coordinates of magnitude above tau, of each node the ceil(at_most * n) largest.

    Error: |C(x) - x|^2 <= n tau^2 where there are not more of them than that. Wire: as `top_k`,
    with as many as there are.

    Args:
        tau: which may be traced.
        at_most: the room, a share of the coordinates. It cannot be traced.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: for tau < 0 and outside 0 < at_most <= 1.

    Example:
        >>> uplink = compress.error_feedback(compress.threshold(tau=1e-3, at_most=0.1))
    """
    at_least("threshold", "tau", tau, 0)
    select.check_room("threshold", "at_most", at_most)

    def choose(node):
        x = numbers(node)[0]
        room = select.capacity(at_most, x.size)
        above = jnp.where(jnp.abs(x) > tau, select.magnitudes(x), 0)
        return above, jnp.minimum(select.count_kept(at_most, node), room), room

    return _chosen(f"threshold(tau={tau})", choose)


def sparse_ternary(fraction: float = 0.01) -> Compressor:
    """Sends the ceil(fraction * n) largest as +-mu, mu the mean magnitude of those that are sent.

    Wire: about k (1 + log2(d / k) + 1.5) + 32 bits: a sign is one bit, since no zero is sent.

    Args:
        fraction: as in `top_k`.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: as `top_k`.

    Example:
        >>> uplink = compress.error_feedback(compress.sparse_ternary(0.01))
    """
    return chain(top_k(fraction), scaled_sign())


def _chosen(what: str, choose) -> Compressor:
    """A compressor from choose(node) -> (key int32[d], k, room)."""

    def encode_node(key, memory, node, now):
        ranks, k, room = choose(node)
        where, live = select.largest(ranks.reshape(-1), k, room)
        return memory, select.picked(node, where, live, what), _entries(node)

    def complaint(body, entries, node, now):
        k = choose(filled(node))[1]
        return miscounted("entries", body.live, k, most=True) or _beyond(body, entries, node)

    return nodewise(lambda node: (), encode_node, _placed, complaint=complaint)


def _placed(chosen, entries, node, now):
    return select.placed(chosen, entries, node)


def _beyond(body, entries, node):
    """A complaint of an entry beyond those that `Live` says there are."""
    if not isinstance(node, Live) or not body.ids.size:
        return None
    width = node.values.size // node.values.shape[0]
    return beyond("a place", body.ids, int(entries.live.sum()) * width - 1)


def _entries(node):
    """What `select.placed` has to know of `Live`, whose count is in no coordinate."""
    return touched(node) if isinstance(node, Live) else ()


def global_top_k(fraction: float = 0.01) -> Compressor:
    """Sends the ceil(fraction * n) largest of the n real coordinates of the whole update.

    Contraction of the update: |C(x) - x|^2 <= (1 - fraction) |x|^2; of one node there may be
    nothing. Wire: as `top_k`.

    Args:
        fraction: as in `top_k`.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: as `top_k`.

    Example:
        >>> uplink = compress.error_feedback(compress.global_top_k(0.01))
    """
    select.check_room("global_top_k", "fraction", fraction)
    what = f"global_top_k(fraction={fraction})"
    whole = nodewise(lambda node: (), lambda key, memory, node, now: (), _placed)

    def encode(key, memory, update, now):
        found, structure = flatten(update)
        leaves = [leaf for _, leaf in found]
        mine = [leaf for leaf in leaves if is_compressible(leaf)]
        if not mine:
            return memory, Packet(update, [()] * len(leaves))
        room = select.capacity(fraction, sum(select.array_of(node).size for node in mine))
        k = jnp.minimum(select.count_kept(fraction, *mine), room)
        ranks = [select.magnitudes(numbers(node)[0]).reshape(-1) for node in mine]
        t, ties = select.cut(ranks, k)
        sent = []
        for node, rank in zip(mine, ranks, strict=True):
            where, live = select.positions(rank, t, ties, min(room, rank.shape[0]))
            ties = jnp.maximum(ties - (rank == t).sum(dtype=jnp.int32), 0)
            sent.append(select.picked(node, where, live, what))
        bodies = iter(sent)
        body = [next(bodies) if is_compressible(leaf) else leaf for leaf in leaves]
        side = [_entries(leaf) if is_compressible(leaf) else () for leaf in leaves]
        return memory, Packet(structure.unflatten(body), side)

    def complaint(packet, like, now):
        leaves, structure = flatten(like)
        bodies = structure.flatten_up_to(packet.body)
        sent = [
            (node, body, side)
            for (_, node), body, side in zip(leaves, bodies, packet.side, strict=True)
            if is_compressible(node)
        ]
        live = [body.live.sum() for _, body, _ in sent]
        k = select.count_kept(fraction, *(filled(node) for node, _, _ in sent)) if sent else 0
        told = (_beyond(body, side, node) for node, body, side in sent)
        return miscounted("entries", live, k, most=True) or next(filter(None, told), None)

    return replace(whole, encode=encode, complaint=complaint)


def top_k_per_row(k: int) -> Compressor:
    """Sends of each row the k columns of largest magnitude: rows of k numbers, and which columns.

    The rows of a table are the touched ones, of a dense array [..., D] all its leading axes; a
    vector is one row. Rows of at most k columns are sent as they are.
    Contraction: |C(x) - x|^2 <= (1 - k/D) |x|^2. Wire: k (32 + ceil(log2 D)) bits a row, and the
    ids of touched rows.

    Args:
        k: how many of each row.

    Returns:
        A `Compressor` without memory, biased: for use inside `error_feedback`.

    Raises:
        ValueError: for k < 1.

    Example:
        >>> uplink = compress.error_feedback(compress.top_k_per_row(4))
    """
    at_least("top_k_per_row", "k", k, 1)

    def is_reducible(node):
        x = select.array_of(node)
        return x.ndim > (1 if is_node(node) else 0) and x.shape[-1] > k

    def encode_node(key, memory, node, now):
        if not is_reducible(node):
            return memory, node, ()
        x = numbers(node)[0]
        width = x.shape[-1]
        rows = x.reshape(-1, width)
        # With zeros at 1, every row has k columns to choose.
        ranks = select.magnitudes(rows) + 1
        columns = jax.vmap(lambda rank: select.largest(rank, jnp.int32(k), k)[0])(ranks)
        values = jnp.take_along_axis(rows, columns, -1).reshape(*x.shape[:-1], k)
        codes = columns.astype(np.min_scalar_type(width - 1)).reshape(values.shape)
        side = Codes(codes, width)
        if isinstance(node, (RowsUpdate, Live)):
            side = Live(side, node.live)
        return memory, with_numbers(node, values), side

    def decode_node(body, side, node, now):
        if not is_reducible(node):
            return body
        values, width = numbers(body)[0], select.array_of(node).shape[-1]
        codes = jnp.asarray((side.values if isinstance(side, Live) else side).symbols)
        count = math.prod(values.shape[:-1])
        where = jnp.arange(count)[:, None] * width + codes.reshape(count, k).astype(jnp.int32)
        x = jnp.zeros(count * width, values.dtype)
        x = x.at[where.reshape(-1)].set(values.reshape(-1).astype(x.dtype))
        return with_numbers(body, x.reshape(*values.shape[:-1], width))

    def complaint(body, side, node, now):
        if not is_reducible(node):
            return None
        codes = side.values if isinstance(side, Live) else side
        columns = np.asarray(codes.symbols).astype(np.int64).reshape(-1, k)
        if (np.diff(columns) <= 0).any():
            return "a row names columns that are not in order, each once"
        return miscounted("rows of columns", side.live, body.live.sum()) if is_node(body) else None

    return nodewise(lambda node: (), encode_node, decode_node, complaint=complaint)
