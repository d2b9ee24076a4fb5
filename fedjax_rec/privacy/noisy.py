"""What is drawn anew of all numbers of an upload, at its client: of all rows of all tables, and of
all dense leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..types import PyTree, Stage, Upload


def every_number(
    clip: Callable[[PyTree], PyTree], told: Callable[[jax.Array, jax.Array], jax.Array]
) -> Stage:
    """The stage that sends told(key, x) of each array x of clip(update), whole tables among them.

    Raises ValueError, when a round is traced, where clients send something beside updates.
    """

    def each(key, update):
        leaves, structure = jax.tree.flatten(clip(update))
        drawn = [
            told(jax.random.fold_in(key, i), jnp.asarray(x, jnp.float32))
            for i, x in enumerate(leaves)
        ]
        return structure.unflatten(drawn)

    return at_once(each)


def at_once(told: Callable[[jax.Array, PyTree], PyTree]) -> Stage:
    """The stage that sends told(key, update), the update with arrays in place of tables. Raises as
    `every_number`."""

    def send(key, memory, upload: Upload, now):
        more = [*sorted(upload.aux), *sorted(upload.known)]
        if more:
            raise ValueError(
                f"local noise: clients send {more[0]!r} beside their update, which has none; use a "
                "strategy whose clients send updates alone, such as fedavg."
            )
        update = rows.all_rows(upload.update)
        noisy = rows.with_values(update, told(key, rows.dense(update)))
        return memory, replace(upload, update=noisy)

    return Stage(send)
