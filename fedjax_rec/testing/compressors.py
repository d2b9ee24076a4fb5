"""The laws of a compressor: its round trip, its bytes, its keys, and what it claims.

Claims, for every update and key, of each node by itself, or of the `whole` update only; where
there is memory, in the first round:

    error        |C(x) - x| <= error * max |x| in every coordinate
    unbiased     E C(x) = x;  with omega: E |C(x) - x|^2 <= omega |x|^2
    contraction  |C(x) - x|^2 <= contraction |x|^2
    largest      numbers beyond it may overflow

`Compressor.linear` is a claim too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import wire
from ..rows import RowsUpdate
from ..types import Compressor, PyTree
from ..wire import is_node
from .bias import biased, enough, standard_error
from .decoding import PORTION, PORTIONS, many, nodes, numbers, off_linear, squares
from .laws import (
    KEY,
    Kind,
    check,
    close,
    compiled,
    expect,
    now_of,
    same_bits,
    traced_once,
    without_jit,
)
from .programs import keys_once
from .updates import ADVERSARIAL, flat, model_of, update

FIRST = now_of(0)


@dataclass(frozen=True)
class Compressing:
    """A compressor in its first round, with one compiled encode and decode for all laws."""

    part: Compressor
    memory: PyTree
    encode: Callable
    decode: Callable
    error: float | None
    unbiased: bool
    omega: float | None
    contraction: float | None
    whole: bool
    largest: float

    def back(self, x: PyTree, key=KEY) -> PyTree:
        return self.decode(self.encode(key, self.memory, x, FIRST)[1], x)


def _bench(
    compressor: Compressor,
    *,
    error: float | None = None,
    unbiased: bool = False,
    omega: float | None = None,
    contraction: float | None = None,
    whole: bool = False,
    largest: float = np.inf,
) -> Compressing:
    def encode(key, memory, x, now):
        memory, packet = compressor.encode(key, memory, x, now)
        return memory, packet, wire.nbytes(packet)

    return Compressing(
        compressor, compressor.init(model_of(update())), traced_once(encode),
        compiled(lambda packet, like: compressor.decode(packet, like, FIRST)), error, unbiased,
        omega, contraction, whole, largest,
    )  # fmt: skip


def keeps_the_structure(this: Compressing) -> None:
    """Decoding gives an update of the same nodes, shapes and dtypes, finite, and near if it
    claims an error."""
    x = update()
    back = this.back(x)
    outline = partial(jax.tree.structure, is_leaf=is_node)
    expect(outline(back) == outline(x), f"{outline(back)} came of {outline(x)}")
    for before, after in zip(flat(x), flat(back), strict=True):
        expect(
            (after.dtype, after.shape) == (before.dtype, before.shape),
            f"{after.dtype}{list(after.shape)} came of {before.dtype}{list(before.shape)}",
        )
        chex.assert_tree_all_finite(after)
        off, most = np.abs(after - before).max(), np.abs(before).max()
        expect(
            this.error is None or off <= this.error * most * 1.0001,
            f"off by {off:.3g} where error={this.error} allows {(this.error or 0) * most:.3g}",
        )
    for before, after in zip(nodes(x), nodes(back), strict=True):
        if isinstance(before, RowsUpdate):
            same = (after.ids is None) == (before.ids is None) and after.size == before.size
            expect(same, "the rows came back in another layout")


def bytes_are_those_of_the_message(this: Compressing) -> None:
    """wire.nbytes(packet), inside jit and outside, is len(wire.to_bytes(packet))."""
    for touched in (0, 1, 7):
        _, packet, counted = this.encode(KEY, this.memory, update(touched), FIRST)
        inside, outside = int(counted), int(wire.nbytes(packet))
        sent = len(wire.to_bytes(packet))
        expect(inside == outside == sent, f"{inside} and {outside} were counted, {sent} sent")


def what_arrives_decodes_to_the_same_update(this: Compressing) -> None:
    """The server needs the bytes, shapes and dtypes, and nothing of the client's own numbers."""
    blank = partial(jax.tree.map, jnp.zeros_like)
    for touched in (0, 7):
        x = update(touched)
        _, packet, _ = this.encode(KEY, this.memory, x, FIRST)
        here = this.decode(packet, x)
        same_bits(this.decode(packet, blank(x)), here)
        arrived = jax.tree.map(jnp.asarray, wire.from_bytes(wire.to_bytes(packet), packet))
        told = this.part.complaint and this.part.complaint(arrived, blank(x), FIRST)
        expect(not told, f"the complaint of a packet of its own: {told}")
        there = this.part.decode(arrived, blank(x), FIRST)
        for a, b in zip(flat(there), flat(here), strict=True):
            near = dict(rtol=2e-5, atol=1e-6 * max(1e-30, np.abs(b).max()))
            chex.assert_trees_all_close(a, b, **near)


def jit_changes_nothing(this: Compressing) -> None:
    """Without jit, of arrays of NumPy, what arrives is the same to float tolerance."""
    x = update()
    _, packet = without_jit(this.part.encode, KEY, this.memory, x, FIRST)
    back = without_jit(this.part.decode, packet, x, FIRST)
    for a, b in zip(flat(back), flat(this.back(x)), strict=True):
        chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5 * max(1e-30, np.abs(b).max()))


def everything_is_sent(this: Compressing) -> None:
    """What the receiver is said to know already, `Packet.known`, is nothing of this update but
    which rows it touches: it is not billed."""
    x = update()
    # Other numbers in the same places.
    y = jax.tree.map(
        lambda v: 3 * jnp.roll(v, 1, -1) if v.ndim and v.dtype == jnp.float32 else v, x
    )
    one, other = (this.encode(KEY, this.memory, each, FIRST)[1] for each in (x, y))
    same_bits(one.known, other.known)


def clients_do_not_meddle(this: Compressing) -> None:
    """Under vmap each client sends what it sends alone."""
    several = [update(touched, seed) for seed, touched in enumerate((2, 0, 9))]
    of_client = jax.vmap(lambda i: jax.random.fold_in(KEY, i))(jnp.arange(3))

    @compiled
    def together(keys, stacked):
        def one(key, x):
            memory, packet = this.part.encode(key, this.memory, x, FIRST)
            return memory, this.part.decode(packet, x, FIRST), wire.nbytes(packet)

        return jax.vmap(one)(keys, stacked)

    memory, back, sent = together(of_client, jax.tree.map(lambda *x: jnp.stack(x), *several))
    for i, x in enumerate(several):
        alone, packet, counted = this.encode(of_client[i], this.memory, x, FIRST)
        at = lambda tree, i=i: jax.tree.map(lambda leaf: leaf[i], tree)
        expect(sent[i] == counted, f"{sent[i]} bytes in company, {counted} alone")
        close(flat(at(back)), flat(this.decode(packet, x)), rtol=1e-4, atol=1e-5)
        close(at(memory), alone, rtol=1e-4, atol=1e-5)


def untouched_rows_stay_zero(this: Compressing) -> None:
    """Rows that the client did not touch come back as zeros and not as live."""
    x = update()
    back = this.back(x)
    for part in ("item", "tail"):
        live, values = np.asarray(back[part].live), np.asarray(back[part].values)
        expect(not values[~live].any(), "rows that are not live hold numbers")
        ids = np.arange(live.size) if back[part].ids is None else np.asarray(back[part].ids)
        mine = np.arange(x[part].size) if x[part].ids is None else np.asarray(x[part].ids)
        touched = set(mine[np.asarray(x[part].live)].tolist())
        more = set(ids[live].tolist()) - touched
        expect(not more, f"rows {sorted(more)[:4]} came back and were not touched")
        expect(len(set(ids[live].tolist())) == live.sum(), "a row came back more than once")


def zeros_come_back_as_zeros(this: Compressing) -> None:
    """An update of zeros is still one after the round trip."""
    for touched in (0, 7):
        back = flat(this.back(update(touched, draw=np.zeros)))
        expect(all((leaf == 0).all() for leaf in back), "numbers came of zeros")


def a_key_gives_the_same_bits(this: Compressing) -> None:
    """Encoding is a function of its arguments, and one trace serves all rounds."""
    same_bits(*(this.encode(KEY, this.memory, update(), FIRST) for _ in range(2)))
    memory = this.memory
    for t in range(3):
        memory = this.encode(jax.random.key(t), memory, update(t + 1, t), now_of(t))[0]


def keys_are_consumed_once(this: Compressing) -> None:
    """No two draws use one key."""
    keys_once(this.part.encode, KEY, this.memory, update(), FIRST)


def memory_keeps_its_shape(this: Compressing) -> None:
    """What a client keeps has the structure, shapes and dtypes of init(update)."""
    after = this.encode(KEY, this.memory, update(), FIRST)[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(after, this.memory)


def whatever_comes_stays_finite(this: Compressing) -> None:
    """No update makes NaN or infinity, and a claimed contraction holds for each."""
    for case, draw in [*ADVERSARIAL.items(), ("normal", None)]:
        x = update(draw=draw)
        if max(np.abs(leaf).max() for leaf in flat(x)) > this.largest:
            continue
        back = this.back(x)
        for leaf in flat(back):
            expect(np.isfinite(leaf).all(), f"an update that is {case} came back not finite")
        share = np.inf if this.contraction is None else this.contraction
        for off, norm in squares(x, back, this.whole) if share < np.inf else ():
            # XLA flushes denormals to zero: then nothing is left, of almost nothing.
            most = share * norm * (1 + 1e-4) + 1e-12 * norm + 1e-70
            expect(
                off <= most,
                f"|C(x) - x|^2 = {off:.4g} where contraction={share} allows {most:.4g} "
                f"of an update that is {case}",
            )


def linear_compressors_decode_sums(this: Compressing) -> None:
    """Where `linear` is said, a weighted sum of bodies decodes to that of the updates."""
    if this.part.linear:
        x = update()
        packet = this.encode(KEY, this.memory, x, FIRST)[1]
        off = off_linear(lambda p: this.decode(p, x), packet)
        expect(off < 1e-4, f"the sum of bodies decodes to what is off by {off:.3g}")


def unbiased_compressors_are(this: Compressing) -> None:
    """Where `unbiased` is claimed, the mean over keys is x within the error of the sample, and the
    mean square of the error at most omega |x|^2 if that is given."""
    if not this.unbiased:
        return
    x = update()
    inputs = [numbers(n).reshape(-1) for n in nodes(x)]
    matrix = max(range(len(inputs)), key=lambda i: inputs[i].size)
    samples: list[Any] = [[] for _ in inputs]
    draw = many(this.part, this.memory, x, FIRST)
    for i in range(PORTIONS):
        for found, more in zip(samples, draw(jax.random.key(11 + i)), strict=True):
            found.append(np.asarray(more, np.float64).reshape(PORTION, -1))
        if enough(np.concatenate(samples[matrix]), inputs[matrix]):
            break
    for found, node in zip(map(np.concatenate, samples), inputs, strict=True):
        told = biased(found, node)
        expect(told is None, f"the mean of {len(found)} is off by {told}")
        off = ((found - node) ** 2).sum(1) / (node @ node)
        most = np.inf if this.omega is None else this.omega + 5 * standard_error(off) + 1e-12
        expect(off.mean() <= most, f"E |C(x) - x|^2 / |x|^2 = {off.mean():.4g} > {most:.4g}")


COMPRESSOR = Kind(
    "compressor",
    _bench,
    (
        keeps_the_structure, jit_changes_nothing, bytes_are_those_of_the_message,
        what_arrives_decodes_to_the_same_update, everything_is_sent, clients_do_not_meddle,
        untouched_rows_stay_zero, zeros_come_back_as_zeros, a_key_gives_the_same_bits,
        keys_are_consumed_once, memory_keeps_its_shape, whatever_comes_stays_finite,
        linear_compressors_decode_sums, unbiased_compressors_are,
    ),
)  # fmt: skip


def check_compressor(
    compressor: Compressor,
    *,
    error: float | None = None,
    unbiased: bool = False,
    omega: float | None = None,
    contraction: float | None = None,
    whole: bool = False,
    largest: float = np.inf,
) -> None:
    """Holds the laws of compressors against one, and what it claims.

    Args:
        compressor: the part.
        error: |C(x) - x| <= error * max |x| in every coordinate of a node; None claims nothing.
        unbiased: E C(x) = x over keys.
        omega: E |C(x) - x|^2 <= omega |x|^2 of unbiased ones.
        contraction: |C(x) - x|^2 <= contraction |x|^2 for every key.
        whole: the contraction is of the whole update and not of each of its nodes.
        largest: numbers beyond it may overflow.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_compressor(compress.qsgd(7), unbiased=True)
    """
    check(
        COMPRESSOR, compressor, error=error, unbiased=unbiased, omega=omega,
        contraction=contraction, whole=whole, largest=largest,
    )  # fmt: skip
