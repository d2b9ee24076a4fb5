"""The laws of a model: padding does not count, rows are found by their ids, scores are those of the
items asked for, and it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import clients, data, rows, trees
from ..clients.batches import Passes, turns_of
from ..clients.gradient import value_and_gradient
from ..data import Batches, Dataset
from ..rounds.federated import federated
from ..simulate import padding
from ..types import Cohort, Model, PyTree
from . import worlds
from .laws import KEY, Kind, check, close, compiled, expect, finite, same_bits, traced_once
from .programs import keys_once

SIZE = 32  # most examples of a batch, more than the client has


@dataclass(frozen=True)
class Modelling:
    """A model with one client's batch, of which some examples are padding."""

    part: Model
    examples: Batches
    data: Dataset
    shared: PyTree
    private: PyTree
    batch: dict
    learning_rate: float
    rounds: int
    history: Any
    compiled: dict

    def gradients(self, batch: dict, wrap: Callable | None = None, gathered: bool = True):
        """(loss, gradients as arrays): of the rows that the batch gathers, or of whole tables."""
        if (wrap, gathered) not in self.compiled:
            loss = self.part.loss if wrap is None else wrap(self.part.loss)
            model, of = replace(self.part, loss=loss), _of_rows if gathered else _of_tables
            run = compiled(lambda batch: of(model, self.shared, self.private, batch))
            self.compiled[wrap, gathered] = run
        return self.compiled[wrap, gathered](batch)


def _bench(
    model: Model | Callable[..., Model],
    *,
    examples: Batches | None = None,
    dataset: Dataset | None = None,
    learning_rate: float = 0.02,
    rounds: int = 12,
) -> Modelling:
    found, examples = dataset or worlds.silos(), examples or data.pointwise(4)
    if not isinstance(model, Model):
        model = model(num_items=found.num_items, members=found.members)
    shared, private = compiled(model.init)(KEY, KEY)
    batch = _smallest(found, examples)
    history = None
    if examples.history:
        history = jnp.full(examples.history, -1, jnp.int32).at[-2:].set(jnp.int32([2, 0]))
    return Modelling(
        model, examples, found, shared, private, batch, learning_rate, rounds, history, {}
    )


def _smallest(dataset: Dataset, examples: Batches) -> dict:
    """The first batch of the client with fewest interactions that make any example."""
    length = np.asarray(dataset.store.length)
    for client in np.argsort(length, kind="stable")[(length == 0).sum() :]:
        one = worlds.of_client(dataset.store, int(client))
        batch = compiled(turns_of(examples, Passes(batch_size=SIZE), KEY, one).draw)(0)
        if batch["mask"].any():
            return batch
    raise ValueError("check_model(dataset): no client has an example; give one with more.")


def _of_rows(model: Model, shared: PyTree, private: PyTree, batch: dict):
    params = {"shared": trees.trainable(shared), "private": private}
    local = rows.map_tables(rows.whole, params)
    value, gradients = value_and_gradient(model, lambda path: True, local, shared, batch, KEY)

    def one(g, table):
        if not rows.is_table(table):
            return g
        return jnp.zeros_like(table.values).at[g.slots].add(g.values)

    return value, jax.tree.map(one, gradients, local, is_leaf=rows.is_table)


def _of_tables(model: Model, shared: PyTree, private: PyTree, batch: dict):
    def loss(params):
        whole = trees.with_frozen(params["shared"], shared)
        return model.loss(whole, params["private"], batch, KEY)

    value, gradients = jax.value_and_grad(loss)(
        {"shared": trees.trainable(shared), "private": private}
    )
    return value, rows.map_tables(lambda g: g.values, gradients)


def it_begins_by_its_key(this: Modelling) -> None:
    """init(key, common) is a function of its keys, finite, and of one structure for all clients."""
    init = compiled(this.part.init)
    same_bits(init(KEY, KEY), (this.shared, this.private))
    finite((this.shared, this.private))
    other = init(jax.random.fold_in(KEY, 1), KEY)
    chex.assert_trees_all_equal_shapes_and_dtypes(other, (this.shared, this.private))


def the_loss_is_a_finite_number(this: Modelling) -> None:
    """loss(shared, private, batch, key) is float32[], and so is its slope."""
    value, gradients = this.gradients(this.batch)
    expect(
        value.shape == () and value.dtype == jnp.float32,
        f"it is {value.dtype}{list(value.shape)}; take the mean over examples with mask 1",
    )
    finite((value, gradients))


def jit_changes_nothing(this: Modelling) -> None:
    """Without jit the loss is the same to float tolerance."""
    value = this.part.loss(this.shared, this.private, this.batch, KEY)
    close(value, this.gradients(this.batch)[0], 1e-4, 1e-5)


def padding_does_not_count(this: Modelling) -> None:
    """Examples with mask 0 may hold anything."""
    batch, other = padding.paddings(this.batch)
    close(this.gradients(other), this.gradients(batch), rtol=1e-4, atol=1e-5)
    loss = compiled(lambda batch: this.part.loss(this.shared, this.private, batch, KEY))
    told = padding.moved(loss, batch)
    expect(told is None, str(told))


def a_batch_of_padding_is_finite(this: Modelling) -> None:
    """Where no example counts, the loss and its gradient are numbers: a mean divides by 1, not by
    none."""
    nothing = {**this.batch, "mask": jnp.zeros_like(this.batch["mask"])}
    finite(this.gradients(nothing, gathered=False))  # of itself: a client leaves such batches out


def rows_equal_the_array(this: Modelling) -> None:
    """Loss and gradients are those of whole tables, where only the batch's rows are gathered."""
    close(
        this.gradients(this.batch), this.gradients(this.batch, gathered=False),
        rtol=1e-4, atol=1e-5,
    )  # fmt: skip


def rows_are_found_by_their_ids(this: Modelling) -> None:
    """Not by which array of ids it is: in another order and one example at a time."""
    order = np.random.default_rng(0).permutation(len(this.batch["mask"]))

    def permuted(loss):
        return lambda shared, private, batch, key: loss(
            shared, private, jax.tree.map(lambda x: x[order], batch), key
        )

    def by_example(loss):
        def mean(shared, private, batch, key):
            one = lambda example: loss(
                shared, private, jax.tree.map(lambda x: x[None], example), key
            )
            return jax.vmap(one)(batch).mean()

        return mean

    for wrap in (permuted, by_example):
        close(
            this.gradients(this.batch, wrap), this.gradients(this.batch, wrap, gathered=False),
            rtol=1e-4, atol=1e-5,
        )  # fmt: skip


def scores_are_of_the_items_asked_for(this: Modelling) -> None:
    """score(items) is finite, float[n] in their order, and of the catalogue for slice(None)."""
    if this.part.ranking is None:
        return
    items = jnp.int32([3, 0, 7, 3])

    @compiled
    def scores(shared, private):
        score = this.part.scorer(shared, private)(this.history)
        return score(items, 0), score(slice(None), 0)

    some, every = scores(this.shared, this.private)
    expect(some.shape == (4,), f"4 items have scores {list(some.shape)}")
    expect(
        every.shape == (this.data.num_items,),
        f"{this.data.num_items} items have scores {list(every.shape)}",
    )
    finite((some, every))
    close(some, every[items], rtol=1e-4, atol=1e-5)


def predictions_are_one_an_example(this: Modelling) -> None:
    """predict(batch) is float[B], each of its example alone."""
    if this.part.predict is None:
        return
    order = np.random.default_rng(0).permutation(len(this.batch["mask"]))
    one: Any = this.part.predict
    predict = compiled(lambda batch: one(this.shared, this.private, batch))
    told = predict(this.batch)
    expect(told.shape == order.shape, f"{len(order)} examples have predictions {list(told.shape)}")
    finite(told)
    close(predict({k: x[order] for k, x in this.batch.items()}), told[order], 1e-4, 1e-5)


def keys_are_consumed_once(this: Modelling) -> None:
    """No two draws use one key, at the start and in the loss."""
    keys_once(this.part.init, KEY)
    keys_once(lambda key: this.part.loss(this.shared, this.private, this.batch, key), KEY)


def it_learns(this: Modelling) -> None:
    """Rounds of averaging with Adam at `learning_rate` lower its loss, in one trace."""
    client = clients.local_training(
        this.part, this.examples, optax.adam(this.learning_rate), epochs=2, batch_size=64
    )
    strategy = federated(client, this.part)
    store, losses = this.data.store, []
    everyone = Cohort(jnp.arange(store.num_clients, dtype=jnp.int32), store)
    step, state = traced_once(strategy.round), strategy.init(KEY, store.num_clients)
    for _ in range(this.rounds):
        state, info = step(KEY, state, everyone)
        losses.append(float((info.metrics["loss"] * info.weight).sum() / info.weight.sum()))
    finite(state)
    expect(
        np.mean(losses[-3:]) < np.mean(losses[:2]),
        f"it is {losses[0]:.4f} at first and {losses[-1]:.4f} after {len(losses)} rounds; give "
        "another learning_rate",
    )


MODEL = Kind(
    "model",
    _bench,
    (
        it_begins_by_its_key, the_loss_is_a_finite_number, jit_changes_nothing,
        padding_does_not_count,
        a_batch_of_padding_is_finite, rows_equal_the_array, rows_are_found_by_their_ids,
        scores_are_of_the_items_asked_for, predictions_are_one_an_example,
        keys_are_consumed_once, it_learns,
    ),
)  # fmt: skip


def check_model(
    model: Model | Callable[..., Model],
    *,
    examples: Batches | None = None,
    dataset: Dataset | None = None,
    learning_rate: float = 0.02,
    rounds: int = 12,
) -> None:
    """Holds the laws of models against one.

    Args:
        model: the part; or its factory, which is called with num_items and members of the data.
        examples: what an example is; None for `data.pointwise(4)`.
        dataset: packed data that the model is of; None for three clients with 24 items.
        learning_rate: of the Adam under which it must learn.
        rounds: in which it must learn.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_model(models.fedmf)
    """
    check(
        MODEL, model, examples=examples, dataset=dataset, learning_rate=learning_rate,
        rounds=rounds,
    )  # fmt: skip
