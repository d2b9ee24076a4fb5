"""Knowledge as predictions: what clients and a server say of items, and how either learns from it.

Written for one client; `strategies.ptf_fedrec` puts them together. An upload is the mask of the
items that it speaks of and the predictions for all items, of which the others are not sent.

`I` items, `L` most uploaded items, `C` clients, `B` batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from .. import keys, rows, trees
from ..data import Batches, ClientData
from ..rounds.cohort import vmapped
from ..types import Array, Model, PyTree, Transform, record


@record
class Lesson:
    """What a client trains on: its own data, and soft labels of the first few of `items` [S].

    length: int32[], examples of both kinds; longest: of any client of the chunk.
    """

    own: ClientData
    items: Array
    labels: Array
    length: Array
    longest: Array

    @property
    def store(self):
        return self.own.store


def taught(examples: Batches, most: int) -> Batches:
    """`examples` and, beside them, one example a soft label, at most `most`: of `Lesson` data."""

    def draw(seed, lesson, q):
        count = examples.count(lesson.own).astype(jnp.uint32)
        batch = examples.draw(seed, lesson.own, jnp.where(q < count, q, 0))
        place = jnp.where(q < count, 0, q - count)
        soft = {
            "items": lesson.items.at[place].get(mode="clip"),
            "labels": lesson.labels.at[place].get(mode="clip"),
        }
        return {**batch, **{k: jnp.where(q < count, batch[k], x) for k, x in soft.items()}}

    count, longest = lambda lesson: lesson.length, lambda store: examples.most(store) + most
    return Batches(count, longest, draw, examples.ids)


def lessons(examples: Batches, num_items: int, data: ClientData, told: PyTree):
    """(Lesson, positive bool[c, I]) of a chunk, `data` as `Store.take` gives it.

    told: {"items" int32[c, S], I where there is none, "labels" float32[c, S]}. A client leaves out
    what it is told of its own positives, and learns nothing where it has none.
    """
    axes = data.store.axes()

    def one(data, items, labels):
        place = jnp.arange(data.store.longest)
        own = data.store.items.at[data.start + place].get(mode="clip")
        own = jnp.where(place < data.length, own, num_items)
        positive = jnp.zeros(num_items, bool).at[own].set(True, mode="drop")
        keep = ~positive.at[items].get(mode="fill", fill_value=True)
        order = jnp.argsort(~keep, stable=True)
        length = jnp.where(data.length > 0, examples.count(data) + keep.sum(), 0)
        return items[order], labels[order], length, positive

    args = data, told["items"], told["labels"]
    items, labels, length, positive = vmapped(one, *args, axes=(axes, 0, 0))(*args)
    return Lesson(data, items, labels, length, length.max()), positive


def selected(key, positive, negative, beta, gamma) -> tuple[jax.Array, jax.Array]:
    """(positives, negatives), bool[I] each, that a client speaks of: floor(beta_k P) of its P
    positives and floor(gamma_k n+) of its negatives, at random and at least one of each kind that
    there is; beta_k and gamma_k uniform between the two numbers of `beta` and `gamma`."""
    share, ratio, mix = jax.random.split(key, 3)
    share = jax.random.uniform(share, (), minval=beta[0], maxval=beta[1])
    ratio = jax.random.uniform(ratio, (), minval=gamma[0], maxval=gamma[1])
    have, others = positive.sum(), negative.sum()
    first = jnp.clip(jnp.floor(share * have), jnp.minimum(have, 1), have).astype(jnp.int32)
    second = jnp.clip(jnp.floor(ratio * first), 1, others).astype(jnp.int32)
    second = jnp.where(first > 0, jnp.minimum(second, others), 0)
    # Positives in random order, then negatives, then what the client did not train on.
    mix = jax.random.uniform(mix, positive.shape)
    order = jnp.argsort(jnp.where(positive, mix, jnp.where(negative, 1 + mix, 2.0)))
    rank = jnp.arange(order.size)
    chosen = (rank < first) | ((rank >= have) & (rank < have + second))
    chosen = jnp.zeros_like(positive).at[order].set(chosen)
    return chosen & positive, chosen & negative


def swapped(values, positive, negative, share: float, most: int) -> jax.Array:
    """`values` float[I] where the floor(share n+), at least 1, highest of the positives and as many
    highest of the negatives have changed places, rank by rank. most: of any client, 0 for none."""
    if not most:
        return values
    count = positive.sum()
    pairs = jnp.maximum(jnp.floor(share * count), 1).astype(jnp.int32)
    pairs = jnp.minimum(pairs, jnp.minimum(count, negative.sum()))
    size = values.size
    on = jnp.arange(min(most, size)) < pairs
    highest = lambda mask: jax.lax.top_k(jnp.where(mask, values, -jnp.inf), on.size)[1]
    a, b = highest(positive), highest(negative)
    there = lambda ids: jnp.where(on, ids, size)
    out = values.at[there(a)].set(values[b], mode="drop")
    return out.at[there(b)].set(values[a], mode="drop")


def listed(upload: rows.RowsUpdate, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(items int32[L], labels float32[L], count) of an upload: what it says, without gaps."""
    place = jnp.where(upload.live, jnp.cumsum(upload.live) - 1, length)
    put = lambda x: jnp.zeros(length, x.dtype).at[place].set(x, mode="drop")
    items = jnp.arange(upload.size, dtype=jnp.int32)
    return put(items), put(upload.values[:, 0]), upload.live.sum(dtype=jnp.int32)


def answers(scores, uploaded, updates, sent: int, frequent: int) -> tuple[PyTree, rows.RowsUpdate]:
    """(told, message) of one client: s(scores) on `sent` items outside `uploaded` bool[I].

    The first `frequent` are the most often uploaded by anybody, `updates` int32[I]; the others the
    highest scored of the rest.
    """
    size = scores.size
    known, first = jax.lax.top_k(jnp.where(uploaded, -1, updates), frequent)
    left = ~uploaded.at[first].set(True)
    hard, second = jax.lax.top_k(jnp.where(left, scores, -jnp.inf), sent - frequent)
    live = jnp.concatenate([known >= 0, hard > -jnp.inf])
    items = jnp.sort(jnp.where(live, jnp.concatenate([first, second]), size))
    labels = jax.nn.sigmoid(scores.at[items].get(mode="clip"))
    message = rows.RowsUpdate(labels[:, None], items, items < size, None, size)
    return {"items": items, "labels": labels}, message


def learned(
    model: Model, optimizer: Transform, epochs: int, batch_size: int, key, held, moments, heard
):
    """(held, moments, loss) of a server after `epochs` over what it `heard`, in shuffled batches.

    held: {"shared", "private"}, `model` of one user with a private part for each of N.
    moments: of `optimizer`. heard: (ids int32[C] of the clients, items int32[C, L], labels, counts
    int32[C]). The loss is the mean over all that it trained on.
    """
    ids, items, labels, counts = heard
    ends = jnp.cumsum(counts)
    total = ends[-1]
    cycle = -(-total // batch_size)
    seed, noise = keys.words(keys.stream(key, "order"), 2), keys.stream(key, "loss")
    begin = {**held, "shared": trees.trainable(held["shared"])}

    def turn(t, carry):
        params, moments, sum_of_losses = carry
        place = (t % cycle) * batch_size + jnp.arange(batch_size)
        real = place < total
        number = keys.permute(
            jnp.where(real, place, 0).astype(jnp.uint32),
            total.astype(jnp.uint32),
            keys.mix(seed + (t // cycle).astype(jnp.uint32)),
        ).astype(jnp.int32)
        row = jnp.searchsorted(ends, number, side="right")
        slot = number - (ends - counts)[row]
        mask, said = real.astype(jnp.float32), (items[row, slot], labels[row, slot])

        def loss(params):
            shared = trees.with_frozen(params["shared"], held["shared"])

            def one(id, item, label):
                mine = jax.tree.map(lambda x: x.at[id].get(mode="clip"), params["private"])
                example = {"items": item[None], "labels": label[None], "mask": jnp.ones(1)}
                return model.loss(shared, mine, example, jax.random.fold_in(noise, t))

            return (jax.vmap(one)(ids[row], *said) * mask).sum() / mask.sum()

        value, gradient = jax.value_and_grad(loss)(params)
        change, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, change), moments, sum_of_losses + value * mask.sum()

    first = begin, moments, jnp.float32(0)
    params, moments, sum_of_losses = jax.lax.fori_loop(0, epochs * cycle, turn, first)
    after = {**params, "shared": trees.with_frozen(params["shared"], held["shared"])}
    return after, moments, sum_of_losses / jnp.maximum(epochs * total, 1)
