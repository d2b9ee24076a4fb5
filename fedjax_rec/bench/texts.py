"""What the bench of adapters trains: texts through an encoder of random weights, a vector each.

The layers below the adapted ones are computed in every step, or once for all texts, and texts of
one client stand in sequences of their own, or share one; the numbers are the same.

`I` texts, `T` most tokens of one, `D` width; of a client's packed sequence `S` tokens, `K` texts.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .. import data, models, weights
from ..models.transformers.bert import Bert, BertSizes, random_bert
from ..models.transformers.layers import stacked
from ..models.transformers.lora import freeze, lora
from ..models.transformers.packed import Packing, visible
from ..models.transformers.reader import layers_of
from ..models.transformers.sentences import Sentence

TEXTS, SHORTEST = 200, 3


class Texts(nnx.Module):
    """Texts that are pushed apart, and along a direction, so that one alone has a gradient too.

    adapted: how many layers have adapters, the last ones. once: what goes into these is computed
    here. ids: int32[I, T]; sizes: int32[I], their tokens.
    """

    def __init__(self, sizes: BertSizes, adapted: int, once: bool, ids, long, rank, remat, rngs):
        encoder: Any = freeze(random_bert(sizes, rngs))
        cut = sizes.layers - adapted
        self.layers: Any = lora(layers_of(encoder.layers, cut), rngs, "query|value", rank)
        self.long = models.Frozen(jnp.asarray(long))
        below: Any = Bert(
            encoder.words[...], encoder.positions[...], encoder.kinds[...], encoder.norm,
            layers_of(encoder.layers, 0, cut),
        )  # fmt: skip
        self.below: Any = None if once else freeze(below)
        made = lower(below, jnp.asarray(ids), self.real(slice(None), ids.shape[1])) if once else ids
        self.inputs = models.Frozen(jnp.asarray(made))
        self.remat, self.most = remat, ids.shape[1]

    def real(self, items, most):
        return jnp.arange(most) < self.long[items][..., None]

    def vectors(self, items):
        real, x = self.real(items, self.most), self.inputs[items]
        if self.below is not None:
            x = lower(self.below, x, real)
        return Sentence().pooled(stacked(self.layers, x, visible(real), remat=self.remat), real)

    def packed_vectors(self, batch):
        """[K, D] of one sequence."""
        items, packing = batch["items"], Packing(batch["places"], batch["texts"])
        of = jnp.take_along_axis(items, jnp.maximum(packing.texts, 0), 1)
        x = self.inputs[...][of, packing.places]
        if self.below is not None:
            x = stacked(self.below.layers, self.below.embed(x, packing.places), packing.together)
        x = stacked(self.layers, x, packing.together, remat=self.remat)
        at = (batch["ends"] + 1 - self.long[items])[..., None] + jnp.arange(self.most)
        at = jnp.minimum(at, x.shape[-2] - 1)  # behind a text, where nothing is read
        x = jnp.take_along_axis(x[:, None], at[..., None], -2)
        return Sentence().pooled(x, self.real(items, self.most))[0]

    def loss(self, batch, key):
        packed = "texts" in batch
        vectors = self.packed_vectors(batch) if packed else self.vectors(batch["items"])
        mask = batch["real"][0] * batch["mask"] if packed else batch["mask"]
        scores = 10.0 * vectors @ vectors.T
        # Of half of the numbers: behind a norm the sum of all is zero, whatever the text.
        along = vectors[..., ::2].sum(-1)
        values = jax.nn.logsumexp(scores, -1) - jnp.diagonal(scores) + along
        return models.masked_mean(values, mask)

    def score(self, items, user):
        return self.vectors(items).sum(-1)


def lower(below: Any, ids, real):
    """[..., T, D]: what comes out of the layers of `below`."""
    return stacked(below.layers, below.embed(ids), visible(real))


def catalogue(sizes: BertSizes, tokens: int, varied: bool) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32[I, T], their lengths): T tokens each, or where they are `varied` from `SHORTEST`
    to T, as titles of films are."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, sizes.vocabulary, (TEXTS, tokens)).astype(np.int32)
    low = min(SHORTEST, tokens) if varied else tokens
    return ids, rng.integers(low, tokens + 1, TEXTS).astype(np.int32)


def one_sequence(items: np.ndarray, long: np.ndarray) -> data.ExampleStore:
    """The texts `items` int[clients, K] of each client as one example, of as many tokens as the
    client with most needs."""
    sizes = long[items]
    room = int(sizes.sum(1).max())
    made = [weights.first_fit(one, room) for one in sizes]
    together = lambda name: jnp.asarray(np.concatenate([getattr(x, name) for x in made]))
    fields = {name: together(name) for name in ("texts", "places", "ends")}
    fields |= {"items": jnp.asarray(items), "real": jnp.ones(items.shape, jnp.float32)}
    count = len(items)
    return data.ExampleStore(fields, jnp.arange(count), jnp.ones(count, jnp.int32), 1)
