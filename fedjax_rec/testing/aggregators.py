"""The laws of an aggregator: order, padding and chunks change nothing, and nothing moves that no
client touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import rows
from ..types import Aggregator, PyTree, Upload
from .laws import KEY, Kind, check, close, compiled, expect, finite, same_bits
from .programs import keys_once
from .uploads import (
    CLIENTS,
    LAYOUTS,
    SHARED,
    UNTOUCHED,
    WEIGHTS,
    aggregated,
    take,
    uploads,
)

TURNED = np.array([4, 0, 5, 2, 1, 3])


@dataclass(frozen=True)
class Aggregating:
    """An aggregator and one compiled aggregation for each layout and number of clients."""

    part: Aggregator
    made: Callable[..., Any]
    chunked: Callable[..., Any]
    aux: Callable[[Upload], dict] | None

    def uploads(self, layout: str, **kwargs) -> Upload:
        upload = uploads(layout, **kwargs)
        return upload if self.aux is None else replace(upload, aux=self.aux(upload))

    def update(self, upload: Upload, ids=None) -> PyTree:
        return self.made(upload, ids)[1]


def _bench(aggregator: Aggregator, *, aux: Callable[[Upload], dict] | None = None) -> Aggregating:
    return Aggregating(
        aggregator, compiled(partial(aggregated, aggregator)),
        compiled(partial(aggregated, aggregator, chunk=2)), aux,
    )  # fmt: skip


def the_update_fits_the_model(this: Aggregating) -> None:
    """An update has a finite node for each of the model's."""
    for layout in LAYOUTS:
        update = this.update(this.uploads(layout))
        finite(update)
        wanted = rows.dense({name: SHARED[name] for name in ("item", "bias")})
        chex.assert_trees_all_equal_shapes({name: update[name] for name in wanted}, wanted)


def the_order_of_clients_changes_nothing(this: Aggregating) -> None:
    """Clients in another order make the same update, and verdicts follow their clients."""
    for layout in LAYOUTS:
        upload = this.uploads(layout)
        _, update, said = this.made(upload)
        _, other, turned = this.made(take(upload, TURNED), TURNED)
        close(other, update)
        if said is not None:
            same_bits(turned, said[TURNED])


def chunks_change_nothing(this: Aggregating) -> None:
    """Summaries of chunks, added or listed as `additive` says, make the update of all at once."""
    for layout in LAYOUTS:
        whole, parts = (made(this.uploads(layout)) for made in (this.made, this.chunked))
        close(parts, whole)


def jit_changes_nothing(this: Aggregating) -> None:
    """Without jit the update is the same to float tolerance."""
    for layout in LAYOUTS:
        upload = this.uploads(layout)
        close(aggregated(this.part, upload), this.made(upload), 1e-4, 1e-5)


def padding_does_not_count(this: Aggregating) -> None:
    """A client of weight 0 changes nothing, whatever it holds."""
    for layout in LAYOUTS:
        upload = this.uploads(layout)
        real = np.flatnonzero(WEIGHTS)
        without = this.update(take(upload, real), real)
        close(this.update(this.uploads(layout, garbage=1e6)), without)


def a_round_without_clients_changes_nothing(this: Aggregating) -> None:
    """Where all weigh 0, the update is zero and not NaN."""
    for layout in LAYOUTS:
        upload = replace(this.uploads(layout), weight=jnp.zeros(CLIENTS))
        for leaf in jax.tree.leaves(this.update(upload)):
            expect(not np.asarray(leaf).any(), "numbers came of nobody")


def untouched_rows_do_not_move(this: Aggregating) -> None:
    """Rows that no client touched stay to the bit: a server's Adam makes a step of rounding."""
    for layout in LAYOUTS:
        item = np.asarray(this.update(this.uploads(layout))["item"])
        expect(not item[-UNTOUCHED:].any(), f"they move by {np.abs(item[-UNTOUCHED:]).max():.3g}")


def verdicts_are_one_a_client(this: Aggregating) -> None:
    """Verdicts are None, or float32[n] in the order of the uploads."""
    said = this.made(this.uploads("ids"))[2]
    if said is not None:
        chex.assert_shape(said, (CLIENTS,))
        expect(said.dtype == jnp.float32, f"they are {said.dtype}")


def the_rejected_do_not_count(this: Aggregating) -> None:
    """A client whose verdict is 0 can hold anything of the same verdict: its update is unused."""
    for layout in ("delta", "ids"):
        upload = this.uploads(layout)
        _, update, said = this.made(upload)
        if said is None or not (away := (np.asarray(said) == 0) & (WEIGHTS > 0)).any():
            continue
        more = jax.tree.map(
            lambda x: jnp.where(away.reshape(-1, *[1] * (x.ndim - 1)), 1.5 * x, x)
            if jnp.issubdtype(x.dtype, jnp.floating) else x,
            upload.update,
        )  # fmt: skip
        _, other, after = this.made(replace(upload, update=more))
        if np.array_equal(np.asarray(after) > 0, np.asarray(said) > 0):
            close(other, update)


def linear_ones_sum(this: Aggregating) -> None:
    """Where `linear` is said, the update of sums is the sum of the updates."""
    if this.part.linear:
        a, b = (this.uploads("ids", seed=seed) for seed in (1, 2))
        both = jax.tree.map(
            lambda x, y: x + y if jnp.issubdtype(x.dtype, jnp.floating) else x, a.update, b.update
        )
        total = jax.tree.map(jnp.add, this.update(a), this.update(b))
        close(this.update(replace(a, update=both)), total, atol=1e-5)


def a_key_gives_the_same_bits(this: Aggregating) -> None:
    """Aggregation is a function of its arguments."""
    same_bits(*(this.made(this.uploads("ids")) for _ in range(2)))


def keys_are_consumed_once(this: Aggregating) -> None:
    """No two draws use one key."""
    upload = this.uploads("ids")
    keys_once(lambda key: aggregated(this.part, upload, key=key), KEY)


def state_keeps_its_shape(this: Aggregating) -> None:
    """Its state after a round has the structure, shapes and dtypes of init(shared)."""
    after = this.made(this.uploads("ids"))[0]
    chex.assert_trees_all_equal_shapes_and_dtypes(after, this.part.init(SHARED))


AGGREGATOR = Kind(
    "aggregator",
    _bench,
    (
        the_update_fits_the_model, jit_changes_nothing, the_order_of_clients_changes_nothing,
        chunks_change_nothing, padding_does_not_count, a_round_without_clients_changes_nothing,
        untouched_rows_do_not_move, verdicts_are_one_a_client, the_rejected_do_not_count,
        linear_ones_sum, a_key_gives_the_same_bits, keys_are_consumed_once,
        state_keeps_its_shape,
    ),
)  # fmt: skip


def check_aggregator(
    aggregator: Aggregator, *, aux: Callable[[Upload], dict] | None = None
) -> None:
    """Holds the laws of aggregators against one.

    Args:
        aggregator: the part.
        aux: aux(uploads) -> dict of arrays [c, ...], what it needs beside updates; None for
            `steps`.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_aggregator(aggregate.per_row())
    """
    check(AGGREGATOR, aggregator, aux=aux)
