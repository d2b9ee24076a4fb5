"""The laws of a client: its upload fits the model, padding is nothing, and it copies no table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from .. import keys, rows, trees
from ..data import Dataset
from ..rounds.cohort import vmapped
from ..types import Client, Model, Now, PyTree, Upload
from . import worlds
from .laws import KEY, Kind, check, close, compiled, expect, finite, same_bits, traced_once
from .programs import keys_once, no_copies


@dataclass(frozen=True)
class Training:
    """A client beside others: run(key, private, shared, round) -> (private, Upload, of each, and
    of padding in the last place)."""

    part: Client
    data: Dataset
    shared: PyTree
    private: PyTree
    ids: Any
    run: Callable[..., tuple[PyTree, Upload]]
    chunk: Callable[..., tuple[PyTree, Upload]]


def _bench(
    client: Client | Callable[[Model], Client],
    *,
    model: Model | None = None,
    dataset: Dataset | None = None,
) -> Training:
    found = dataset or worlds.interactions()
    model = model or worlds.toy_model(found.num_items, found.members)
    if not isinstance(client, Client):
        client = client(model)
    made, store = client, found.store
    ids = jnp.arange(found.num_clients + 1, dtype=jnp.int32)
    shared = compiled(model.init)(KEY, KEY)[0]
    private = compiled(jax.vmap(lambda id: made.init(KEY, id)))(ids)

    def chunk(key, private, shared, round):
        def one(id, private, data):
            now = Now(round, shared, id, ids)
            return made.update(keys.for_client(key, id), private, shared, data, now)

        args = ids, private, store.take(ids)
        return vmapped(one, *args, axes=(0, 0, store.axes()))(*args)

    return Training(client, found, shared, private, ids, traced_once(chunk), chunk)


def _ran(this: Training, round: int = 0):
    return this.run(KEY, this.private, this.shared, jnp.int32(round))


def the_upload_fits_the_model(this: Training) -> None:
    """An upload has a change for each trained leaf of the model, rows of its tables, and float32[]
    weight."""
    update, wanted = _ran(this)[1].update, trees.trainable(this.shared)
    outline = lambda tree: jax.tree.structure(tree, is_leaf=rows.is_table)
    expect(outline(update) == outline(wanted), f"{outline(update)} where {outline(wanted)} is")
    for change, leaf in zip(rows.nodes(update), rows.nodes(wanted), strict=True):
        if rows.is_table(leaf):
            expect(rows.is_table(change), "the change of a table is an array; use rows.update_of")
            expect(change.size == leaf.shape[0], f"{change.size} rows of {leaf.shape[0]}")
        else:
            chex.assert_shape(change, (this.ids.size, *leaf.shape))


def padding_is_nothing(this: Training) -> None:
    """Clients without data, and padding, have weight 0 and finite numbers."""
    private, upload = _ran(this)
    finite((private, upload.update, upload.metrics, upload.aux))
    there = np.append(np.asarray(this.data.store.length) > 0, False)
    weighs = np.asarray(upload.weight) > 0
    expect((weighs == there).all(), f"weights are {upload.weight} where data is {there}")


def jit_changes_nothing(this: Training) -> None:
    """Without jit a round is the same to float tolerance."""
    close(this.chunk(KEY, this.private, this.shared, jnp.int32(0)), _ran(this), 1e-4, 1e-5)


def clients_do_not_meddle(this: Training) -> None:
    """Under vmap each client does what it does alone."""
    private, upload = _ran(this)
    at = int(np.asarray(this.data.store.length).argmax())
    mine = jax.tree.map(lambda x: x[at], this.private)
    args = worlds.of_client(this.data.store, at), jnp.int32(at)

    @compiled
    def alone(key, data, id):
        now = Now(jnp.int32(0), this.shared, id, this.ids)
        private, upload = this.part.update(keys.for_client(key, id), mine, this.shared, data, now)
        return private, rows.to_dense(rows.map_tables(lambda u: u.delta(), upload.update))

    here = jax.tree.map(
        lambda axis, x: x if axis is None else x[at],
        rows.map_axes(upload.update), upload.update, is_leaf=lambda x: x is None,
    )  # fmt: skip
    here = rows.to_dense(rows.map_tables(lambda u: u.delta(), here))
    close(alone(KEY, *args), (jax.tree.map(lambda x: x[at], private), here), 1e-4, 1e-5)


def no_table_is_copied(this: Training) -> None:
    """Nothing in a round is as large as clients times a table's rows times its width, but what
    each client keeps."""
    store = this.data.store
    kept = {x.shape for x in jax.tree.leaves(this.private)}
    tables = {
        t.shape for t in rows.tables(this.shared)
        if _most(store) < t.shape[0] and (this.ids.size, *t.shape) not in kept
    }  # fmt: skip
    program = jax.make_jaxpr(this.chunk)(KEY, this.private, this.shared, jnp.int32(0))
    no_copies(program.jaxpr, this.ids.size, tables)


def _most(store) -> int:
    return 8 * store.longest  # rows that a client can be thought to touch


def what_it_keeps_keeps_its_shape(this: Training) -> None:
    """Private state after a round has the structure, shapes and dtypes of init(key, client)."""
    chex.assert_trees_all_equal_shapes_and_dtypes(_ran(this)[0], this.private)


def a_key_gives_the_same_bits(this: Training) -> None:
    """A round is a function of its arguments, and one trace serves all of them."""
    same_bits(_ran(this), _ran(this))
    private, shared = _ran(this)[0], this.shared
    for t in range(1, 3):
        private, _ = this.run(jax.random.fold_in(KEY, t), private, shared, jnp.int32(t))


def keys_are_consumed_once(this: Training) -> None:
    """No two draws use one key."""
    keys_once(this.chunk, KEY, this.private, this.shared, jnp.int32(0))
    keys_once(lambda key: this.part.init(key, jnp.int32(0)), KEY)


CLIENT = Kind(
    "client",
    _bench,
    (
        the_upload_fits_the_model, jit_changes_nothing, padding_is_nothing, clients_do_not_meddle,
        no_table_is_copied, what_it_keeps_keeps_its_shape, a_key_gives_the_same_bits,
        keys_are_consumed_once,
    ),
)  # fmt: skip


def check_client(
    client: Client | Callable[[Model], Client],
    *,
    model: Model | None = None,
    dataset: Dataset | None = None,
) -> None:
    """Holds the laws of clients against one.

    Args:
        client: the part; or make(model) -> Client, which is called with `model`.
        model: whose server's part clients get; None for a toy with a leaf of each kind.
        dataset: packed data that the model is of; None for 7 clients with 211 items.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        sgd = clients.sgd(1.0)
        testing.check_client(lambda model: clients.local_training(model, data.pointwise(), sgd))
    """
    check(CLIENT, client, model=model, dataset=dataset)
