"""Compressors that remember: what was not sent, what was sent before, momentum.

- `error_feedback`  u = x + e;  send C(u);  e <- u - C(u)
                    (Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019)
- `ef21`            c = C(x - h);  the server reads h + c;  h <- h + c
                    (Richtarik et al., NeurIPS 2021)
- `diana`           c = C(x - h);  the server reads h + c;  h <- h + a c
                    (Mishchenko et al., 2019)
- `momentum_correction`  v <- m v + x;  u = e + v;  send C(u);  e <- u - C(u);  v <- 0 where sent
                    (DGC, Lin et al., ICLR 2018)

Memory is keyed by client id: the assembly hands every client its own, and keeps the old one where
the payload was not applied, i.e. where the upload weighs nothing. It is in the units of an update,
unweighted. Rows that a client does not touch in a round keep what they have, see `remembered`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import trees, wire
from ..check import holds
from ..made import refuse_uncalled
from ..rows import RowsUpdate, any_of, values_at
from ..types import Compressor, Packet, PyTree
from ..wire import Live, flatten, map_nodes
from .contradictions import miscounted
from .leafwise import in_place, is_compressible, touched
from .remembered import Remembered, aligned, remembered, values_of, with_values


def error_feedback(
    compressor: Compressor, rows: int | None = None, dtype: str = "float32"
) -> Compressor:
    """Adds to every update what earlier packets left out.

    The sum of what was sent is the sum of the updates less the last error, which for a contraction
    with |C(x) - x|^2 <= (1 - d) |x|^2 stays below 4 (1 - d) max |x|^2 / d^2.

    Args:
        compressor: a biased one, such as top-k, sign or low rank, with the scale of least error.
        rows: remember so many rows of each table, those of largest norm; None for all.
        dtype: of the memory, float32 or bfloat16.

    Returns:
        A `Compressor` with a memory of the size of the model, or of `rows` rows a table.

    Raises:
        ValueError: for rows < 1 and other types; when memory is made, for a compressor that claims
            an omega of 1 or more.

    Example:
        >>> from fedjax_rec import compress
        >>> uplink = compress.error_feedback(compress.top_k(0.01), rows=200, dtype="bfloat16")
    """
    refuse_uncalled("error_feedback", "compressor", compressor)
    errors = remembered("error_feedback", rows, dtype)

    def init(update):
        refuse_expanding("error_feedback(compressor)", compressor, update)
        return {"error": errors.init(update), "inner": compressor.init(update)}

    def encode(key, memory, update, now):
        owed = trees.add(values_of(update), errors.recall(memory["error"], update))
        whole = with_values(update, owed)
        kept, packet = compressor.encode(key, memory["inner"], whole, now)
        left = trees.subtract(owed, aligned(compressor.decode(packet, whole, now), whole))
        return {"error": errors.store(memory["error"], update, left), "inner": kept}, packet

    return replace(compressor, init=init, encode=encode, omega=None)


def momentum_correction(
    compressor: Compressor,
    momentum: float = 0.9,
    rows: int | None = None,
    dtype: str = "float32",
) -> Compressor:
    """Corrects errors on a local momentum, which is forgotten where it was sent.

    In place of a momentum of the server: one coordinate that waits ten rounds then counts as if
    it had been sent in each of them.

    Args:
        compressor: a sparse one; what it sends as 0 counts as not sent.
        momentum: m, which may be traced.
        rows: as in `error_feedback`, of errors and of momentum.
        dtype: as in `error_feedback`.

    Returns:
        A `Compressor` with twice the memory of `error_feedback`.

    Raises:
        ValueError: outside 0 <= momentum < 1, and as `error_feedback`.

    Example:
        >>> uplink = compress.momentum_correction(compress.top_k(0.01), momentum=0.9)
    """
    refuse_uncalled("momentum_correction", "compressor", compressor)
    if not holds(momentum, lambda x: (x >= 0) & (x < 1)):
        raise ValueError(
            f"momentum_correction(momentum={momentum}) grows without end; use 0 <= momentum < 1."
        )
    kept = remembered("momentum_correction", rows, dtype)

    def init(update):
        refuse_expanding("momentum_correction(compressor)", compressor, update)
        blank = kept.init(update)
        return {"error": blank, "velocity": blank, "inner": compressor.init(update)}

    def encode(key, memory, update, now):
        before = kept.recall(memory["velocity"], update)
        velocity = trees.add(values_of(update), trees.scale(before, momentum))
        owed = trees.add(velocity, kept.recall(memory["error"], update))
        whole = with_values(update, owed)
        inside, packet = compressor.encode(key, memory["inner"], whole, now)
        back = aligned(compressor.decode(packet, whole, now), whole)
        rest = jax.tree.map(lambda v, sent: jnp.where(sent != 0, 0, v), velocity, back)
        memory = {
            "error": kept.store(memory["error"], update, trees.subtract(owed, back)),
            "velocity": kept.store(memory["velocity"], update, rest),
            "inner": inside,
        }
        return memory, packet

    return replace(compressor, init=init, encode=encode, omega=None)


def ef21(compressor: Compressor, rows: int | None = None, dtype: str = "float32") -> Compressor:
    """Sends the compressed change of what the server knows of this client.

    Converges with any contraction, and needs no bound on how clients differ. Server and client
    both hold h; in a simulation that is one copy.

    Args:
        compressor: any contraction.
        rows: as in `error_feedback`; where rows are forgotten, both ends forget them.
        dtype: as in `error_feedback`.

    Returns:
        A `Compressor` that decodes to h + c.

    Raises:
        ValueError: as `error_feedback`.

    Example:
        >>> uplink = compress.ef21(compress.top_k(0.05))
    """
    refuse_uncalled("ef21", "compressor", compressor)
    h = _differences(compressor, 1.0, remembered("ef21", rows, dtype))

    def init(update):
        refuse_expanding("ef21(compressor)", compressor, update)
        return h.init(update)

    return replace(h, init=init)


def refuse_expanding(where: str, compressor: Compressor, update: PyTree) -> None:
    """Raises ValueError where what is left out of an update may be more than the update: it would
    grow in every round, without end."""
    omega = None if compressor.omega is None else compressor.omega(update)
    if omega is not None and not holds(omega, lambda x: x < 1):
        raise ValueError(
            f"{where}: E|C(x) - x|^2 is up to {omega:.3g} |x|^2, so what is left out grows from "
            "round to round; use a part that loses less than it is given, such as top_k, "
            "eden(unbiased=False) or random_mask(..., scaled=False)."
        )


def diana(
    compressor: Compressor,
    rate: float = 0.1,
    rows: int | None = None,
    dtype: str = "float32",
) -> Compressor:
    """Sends the compressed difference to a shift h that learns the mean update of the client.

    Unbiased where the compressor is; the noise vanishes as h learns.

    Args:
        compressor: an unbiased one, of variance omega |x|^2.
        rate: a, at most 1 / (1 + omega); it may be traced.
        rows: as in `ef21`.
        dtype: as in `error_feedback`.

    Returns:
        A `Compressor` that decodes to h + c.

    Raises:
        ValueError: outside 0 < rate <= 1, and as `error_feedback`.

    Example:
        >>> uplink = compress.diana(compress.natural(), rate=0.5)
    """
    if not holds(rate, lambda x: (x > 0) & (x <= 1)):
        raise ValueError(f"diana(rate={rate}) does not learn; use 0 < rate <= 1 / (1 + omega).")
    refuse_uncalled("diana", "compressor", compressor)
    return _differences(compressor, rate, remembered("diana", rows, dtype))


def _differences(inner: Compressor, rate, shifts: Remembered) -> Compressor:
    def init(update):
        return {"shift": shifts.init(update), "inner": inner.init(update)}

    def encode(key, memory, update, now):
        shift = shifts.recall(memory["shift"], update)
        change = with_values(update, trees.subtract(values_of(update), shift))
        kept, packet = inner.encode(key, memory["inner"], change, now)
        arrives = inner.decode(packet, change, now)
        learned = trees.add(shift, trees.scale(aligned(arrives, change), rate))
        memory = {"shift": shifts.store(memory["shift"], update, learned), "inner": kept}
        # The receiver adds h to every row that was touched, so it is told of those of which nothing
        # else arrives.
        pairs = zip(wire.nodes(update), flatten(update)[1].flatten_up_to(arrives), strict=True)
        side = (packet.side, [_more(*pair) for pair in pairs if is_compressible(pair[0])])
        known = (packet.known, with_values(update, shift))
        return memory, Packet(packet.body, side, known)

    def decode(packet, like, now):
        (side, more), (known, shift) = packet.side, packet.known
        back = inner.decode(Packet(packet.body, side, known), like, now)
        more = iter(more)
        # What is no float arrived as it is.
        where = map_nodes(
            lambda node, found: _all(node, next(more), found) if is_compressible(node) else found,
            like, back,
        )  # fmt: skip
        back = map_nodes(_spread, where, back)
        return with_values(where, trees.add(aligned(back, where), aligned(shift, where)))

    def complaint(packet, like, now):
        (side, more), (known, _) = packet.side, packet.known
        sent = Packet(packet.body, side, known)
        if told := inner.complaint and inner.complaint(sent, like, now):
            return told
        back = flatten(like)[1].flatten_up_to(inner.decode(sent, like, now))
        pairs = [p for p in zip(wire.nodes(like), back, strict=True) if is_compressible(p[0])]
        for (node, mine), others in zip(pairs, more, strict=True):
            if isinstance(node, Live):
                told = miscounted("entries", mine.live, others.sum())
            elif isinstance(node, RowsUpdate):
                twice = sorted(_rows_of(mine) & _rows_of(others))
                told = f"row {twice[0]} came with numbers and without" if twice else None
            if told:
                return told
        return None

    return Compressor(init, encode, decode, complaint=complaint, takes_raw=inner.takes_raw)


def _rows_of(update: RowsUpdate) -> set[int]:
    """The ids of rows that arrived."""
    live = np.asarray(update.live)
    ids = np.arange(live.size) if update.ids is None else np.asarray(update.ids)
    return set(ids[live].tolist())


def _more(node, back):
    """The rows of a node that `back`, as the receiver reads it, lacks, without numbers; of `Live`
    all its entries."""
    if not isinstance(node, RowsUpdate):
        return node.live if isinstance(node, Live) else ()
    there = values_at(replace(back, values=back.live[:, None].astype(jnp.float32)), node)[:, 0] > 0
    lacking: Any = touched(replace(node, live=node.live & ~there))
    if node.ids is None:
        return lacking
    ids = jnp.sort(jnp.where(lacking.live, node.ids, node.size))
    return replace(lacking, ids=ids, live=ids < node.size)


def _all(node, more, back):
    """A node of zeros with the rows of `back` and `more`, and as many columns as `back`."""
    if isinstance(node, Live):
        return replace(node, live=more)
    if not isinstance(node, RowsUpdate):
        return node
    # No row is of both, so that together they need no more room than `node` has.
    return jax.tree.map(lambda x: x[: node.live.shape[0]], any_of([back, more]))


def _spread(where, back):
    """The entries of a `Live` that arrived at the places that `where` has for them."""
    if not isinstance(where, Live):
        return back
    return replace(where, values=in_place(back.values, where.live))
