"""The laws of a stage: what it does to one upload depends on that client, its key and the set of
the cohort, and on nothing else.

Claims: `keeps_sum`: the sum of what is sent, received, is the sum of the uploads, as of masks that
cancel; over all clients of the cohort, each of which counts the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import keys, rows
from ..aggregate import total
from ..rounds.cohort import vmapped
from ..types import Now, PyTree, Stage, Upload
from .laws import KEY, Kind, check, close, expect, finite, same_bits, traced_once
from .programs import keys_once
from .uploads import CLIENTS, LAYOUTS, SHARED, WEIGHTS, as_engines_do, take, uploads

# As many places as clients and two more, which are padding: `id == CLIENTS`.
COHORT = jnp.int32([*range(CLIENTS), CLIENTS, CLIENTS])
# Of the compressed layouts one: whole tables less the server's, or rows with ids.
SENT = tuple(layout for layout in LAYOUTS if layout != "origin")


@dataclass(frozen=True)
class Sending:
    """A stage and one compiled call for all clients, of each layout."""

    part: Stage
    memory: PyTree
    send: dict[str, Callable]
    chunk: Callable
    keeps_sum: bool

    def sent(self, upload: Upload, layout: str, cohort=COHORT, ids=None, round: int = 0):
        ids = jnp.arange(CLIENTS, dtype=jnp.int32) if ids is None else ids
        memory = jax.tree.map(lambda x: x[ids], self.memory)
        return self.send[layout](KEY, memory, upload, ids, cohort, jnp.int32(round))


def _bench(stage: Stage, *, keeps_sum: bool = False) -> Sending:
    def chunk(key, memory, upload, ids, cohort, round):
        def one(memory, upload, id):
            now = Now(round, SHARED, id, cohort)
            return stage.send(keys.for_client(key, id), memory, upload, now)

        return vmapped(one, memory, upload, ids)(memory, upload, ids)

    memory = stage.init(rows.zero_update(SHARED))
    memory = jax.tree.map(lambda x: jnp.stack([x] * CLIENTS), memory)
    return Sending(stage, memory, {name: traced_once(chunk) for name in SENT}, chunk, keeps_sum)


def _dense(upload: Upload) -> PyTree:
    """Changes as arrays [c, ...]."""
    one = lambda u: rows.to_dense(rows.map_tables(lambda x: x.delta(), u))
    return jax.vmap(one, in_axes=(rows.map_axes(upload.update),))(upload.update)


def the_upload_still_fits_the_model(this: Sending) -> None:
    """What is sent has a finite change for each leaf that the client changed."""
    for layout in SENT:
        upload = uploads(layout)
        _, sent = this.sent(upload, layout)
        finite((sent.update, sent.weight, sent.aux))
        chex.assert_trees_all_equal_shapes(_dense(sent), _dense(upload))


def jit_changes_nothing(this: Sending) -> None:
    """Without jit what is sent is the same to float tolerance."""
    ids = jnp.arange(CLIENTS, dtype=jnp.int32)
    for layout in SENT:
        upload = uploads(layout)
        sent = this.chunk(KEY, this.memory, upload, ids, COHORT, jnp.int32(0))
        close(sent, this.sent(upload, layout), 1e-4, 1e-5)


def padding_stays_padding(this: Sending) -> None:
    """A client of weight 0 still weighs nothing, and no other weighs nothing of a sudden."""
    for layout in SENT:
        _, sent = this.sent(uploads(layout), layout)
        expect(
            (np.asarray(sent.weight == 0) == (WEIGHTS == 0)).all(),
            f"weights {WEIGHTS} became {sent.weight}",
        )


def clients_do_not_meddle(this: Sending) -> None:
    """Clients in another order send what they send in this one."""
    turned = jnp.int32([4, 0, 5, 2, 1, 3])
    for layout in SENT:
        upload = uploads(layout)
        memory, sent = this.sent(upload, layout)
        other = this.sent(take(upload, turned), layout, ids=turned)
        close(other, (jax.tree.map(lambda x: x[turned], memory), take(sent, turned)))


def the_cohort_is_a_set(this: Sending) -> None:
    """The order of the cohort, and where its padding stands, change nothing."""
    for layout in SENT:
        upload = uploads(layout)
        close(this.sent(upload, layout, COHORT[::-1]), this.sent(upload, layout), atol=2e-5)


def memory_keeps_its_shape(this: Sending) -> None:
    """What a client keeps has the structure, shapes and dtypes of init(update)."""
    after, _ = this.sent(uploads("ids"), "ids")
    chex.assert_trees_all_equal_shapes_and_dtypes(after, this.memory)


def the_sum_is_kept(this: Sending) -> None:
    """Where `keeps_sum` is claimed, the sum of what is sent, received, is the sum of the
    uploads."""
    if not this.keeps_sum:
        return
    summed, now = total(), Now(jnp.int32(0), SHARED, None, COHORT)

    def received(upload: Upload) -> PyTree:
        update = as_engines_do(replace(summed, additive=False), upload)
        return summed.finish(KEY, (), summed.reduce((), update, now), now)[1]

    for layout in SENT:
        upload = uploads(layout)
        upload = replace(upload, weight=jnp.ones(CLIENTS))
        _, sent = this.sent(upload, layout)
        back = this.part.receive(KEY, received(sent), now)
        close(rows.to_dense(back), rows.to_dense(received(upload)), rtol=1e-4, atol=1e-4)


def what_comes_is_finite(this: Sending) -> None:
    """Receiving keeps the structure of an update, and its numbers finite."""
    now = Now(jnp.int32(0), SHARED, None, COHORT)
    change = rows.zero_update(SHARED)
    back = this.part.receive(KEY, change, now)
    finite(back)
    chex.assert_trees_all_equal_shapes(rows.to_dense(back), rows.to_dense(change))


def a_key_gives_the_same_bits(this: Sending) -> None:
    """Sending is a function of its arguments, and one trace serves all rounds."""
    for layout in SENT:
        upload = uploads(layout)
        same_bits(this.sent(upload, layout), this.sent(upload, layout))
        this.sent(upload, layout, round=3)


def keys_are_consumed_once(this: Sending) -> None:
    """No two draws use one key."""
    ids = jnp.arange(CLIENTS)
    keys_once(this.chunk, KEY, this.memory, uploads("ids"), ids, COHORT, jnp.int32(0))


STAGE = Kind(
    "stage",
    _bench,
    (
        the_upload_still_fits_the_model, jit_changes_nothing, padding_stays_padding,
        clients_do_not_meddle,
        the_cohort_is_a_set, memory_keeps_its_shape, the_sum_is_kept, what_comes_is_finite,
        a_key_gives_the_same_bits, keys_are_consumed_once,
    ),
)  # fmt: skip


def check_stage(stage: Stage, *, keeps_sum: bool = False) -> None:
    """Holds the laws of stages against one. The cohort has the clients 0 to 5, and ids of 6 are
    padding.

    Args:
        stage: the part, which keeps the structure of an update.
        keeps_sum: the sum over clients of what is sent, received, is the sum of what they made.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_stage(mylab.clip(1.0))
    """
    check(STAGE, stage, keeps_sum=keeps_sum)
